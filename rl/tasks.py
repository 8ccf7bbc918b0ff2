"""Where tasks come from, as numbered ``Task`` records: procedural problems and mixtures. Files are elsewhere."""

from __future__ import annotations

import functools
import random
from collections.abc import Mapping, Sequence
from typing import Any

from rl.facts import question_at
from rl.functions import function_at
from rl.plugins import build
from rl.procedural import FAMILIES, problem_at
from rl.protocols import ChatCodec, TaskSource
from rl.tool_problems import tool_problem_at
from rl.types import RolloutGroup, Task


class ProceduralTasks:
    """Arithmetic and word problems without end (``rl.procedural``).

    ``held_out`` chooses the split; the two never share a question. Each task has ``fields["answer"]`` and its
    family as tag.
    """

    size = None

    def __init__(self, *, families: Sequence[str] = tuple(FAMILIES), seed: int = 0, held_out: bool = False) -> None:
        self._options: dict[str, Any] = {"families": tuple(families), "seed": seed, "held_out": held_out}
        problem_at(0, **self._options)

    def task_at(self, index: int) -> Task:
        problem = problem_at(index, **self._options)
        return Task(
            id=f"{problem.family}-{index}",
            kind="math",
            messages=({"role": "user", "content": problem.question},),
            fields={"answer": problem.answer},
            tags=(problem.family,),
        )


class FunctionTasks:
    """One-line Python functions to write, without end (``rl.functions``), with unit tests.

    Each task has ``fields["tests"]`` (asserts) and ``fields["entry_points"]``.
    """

    size = None

    def __init__(self, *, seed: int = 0, held_out: bool = False) -> None:
        self._options: dict[str, Any] = {"seed": seed, "held_out": held_out}

    def task_at(self, index: int) -> Task:
        function = function_at(index, **self._options)
        return Task(
            id=f"function-{index}",
            kind="code",
            messages=({"role": "user", "content": function.question},),
            fields={"tests": function.tests(), "entry_points": (function.name,)},
            tags=("function",),
        )


class ToolTasks:
    """Questions that take a tool, without end (``rl.tool_problems``), for the environment ``env``.

    Each task has ``fields["answer"]``. With ``env="single_turn"`` the same questions have to do without tools.
    """

    size = None

    def __init__(self, *, seed: int = 0, held_out: bool = False, env: str = "tools") -> None:
        self._options: dict[str, Any] = {"seed": seed, "held_out": held_out}
        self._env = env

    def task_at(self, index: int) -> Task:
        problem = tool_problem_at(index, **self._options)
        return Task(
            id=f"{problem.family}-{index}",
            kind="tools",
            messages=({"role": "user", "content": problem.question},),
            fields={"answer": problem.answer},
            env=self._env,
            tags=(problem.family,),
        )


class SeriesTasks:
    """``length`` tasks of another source as one conversation, question after question (``env=series``).

    Each has ``fields["questions"]``, all but the first, and ``fields["answers"]``, all. The source's tasks must have
    one message and ``fields["answer"]`` each.
    """

    def __init__(self, *, source: Mapping[str, Any], length: int) -> None:
        if length < 1:
            raise ValueError(f"length must be at least 1, got {length}")
        self._source: TaskSource = build(source, name="source")
        self._length = length

    @property
    def size(self) -> int | None:
        return None if self._source.size is None else self._source.size // self._length

    def task_at(self, index: int) -> Task:
        tasks = [self._source.task_at(index * self._length + i) for i in range(self._length)]
        if any(len(task.messages) != 1 or "answer" not in task.fields for task in tasks):
            raise ValueError(f"source must have tasks of one message with an answer, got {tasks[0].id}")
        return Task(
            id=f"series-{index}",
            kind="series",
            messages=tasks[0].messages,
            fields={
                "questions": [task.messages[0]["content"] for task in tasks[1:]],
                "answers": [task.fields["answer"] for task in tasks],
            },
            env="series",
            tags=("series",),
        )


class FactTasks:
    """Something to say about a number, without end (``rl.facts``): open-ended, of kind ``chat``, without a verifier.

    ``fields["number"]`` says which number a task is about.
    """

    size = None

    def __init__(self, *, seed: int = 0, held_out: bool = False) -> None:
        self._options: dict[str, Any] = {"seed": seed, "held_out": held_out}

    def task_at(self, index: int) -> Task:
        question, number = question_at(index, **self._options)
        return Task(
            id=f"fact-{index}",
            kind="chat",
            messages=({"role": "user", "content": question},),
            fields={"number": number},
            tags=("fact",),
        )


class MixedTasks:
    """Several sources as one, in fixed shares.

    Args:
        sources: by name, each with ``source`` (a mapping with ``_target_``) and optionally ``share`` (1), a whole
            number: with shares 5 and 1, of every six tasks in a row five come from the first source.
        seed: order in which a source with a size is walked through, anew each epoch.

    """

    size = None

    def __init__(self, *, sources: Mapping[str, Mapping[str, Any]], seed: int = 0) -> None:
        self._sources: list[TaskSource] = []
        self._pattern: list[tuple[int, int]] = []
        self._shares: list[int] = []
        self._seed = seed
        for number, (name, spec) in enumerate(sources.items()):
            share = spec.get("share", 1)
            if "source" not in spec or not isinstance(share, int) or share < 1:
                raise ValueError(f"sources.{name} must have a source, and a share that is a whole number, got {spec}")
            self._sources.append(build(spec["source"], name=f"sources.{name}.source"))
            self._pattern += [(number, i) for i in range(share)]
            self._shares.append(share)
        if not self._sources:
            raise ValueError("sources must name at least one source, got none")
        self._pattern.sort(key=lambda entry: ((entry[1] + 0.5) / self._shares[entry[0]], entry[0]))

    def task_at(self, index: int) -> Task:
        block, place = divmod(index, len(self._pattern))
        number, offset = self._pattern[place]
        source = self._sources[number]
        position = block * self._shares[number] + offset
        return source.task_at(position if source.size is None else shuffled(position, source.size, seed=self._seed))


class TaskStream:
    """An endless walk through a source whose whole state is one integer.

    A source with a size is shuffled anew each epoch, by ``seed`` and epoch.
    """

    def __init__(self, source: TaskSource, *, seed: int) -> None:
        self._source = source
        self._seed = seed
        self._position = 0

    def take(self, count: int) -> list[Task]:
        """The next ``count`` tasks."""
        tasks = [self._source.task_at(self._index(self._position + i)) for i in range(count)]
        self._position += count
        return tasks

    def observe(self, groups: Sequence[RolloutGroup]) -> None:
        """Nothing: the order does not depend on how tasks went."""

    def state(self) -> dict[str, Any]:
        return {"position": self._position}

    def restore(self, state: dict[str, Any]) -> None:
        self._position = int(state["position"])

    def _index(self, position: int) -> int:
        size = self._source.size
        return position if size is None else shuffled(position, size, seed=self._seed)


def shuffled(position: int, size: int, *, seed: int) -> int:
    """Where an endless walk through ``size`` things, in a new order each epoch, stands at ``position``."""
    epoch, offset = divmod(position, size)
    return _order(size, f"{seed}/{epoch}")[offset]


@functools.lru_cache(maxsize=8)
def _order(size: int, seed: str) -> list[int]:
    order = list(range(size))
    random.Random(seed).shuffle(order)
    return order


def first_tasks(source: TaskSource, count: int) -> list[Task]:
    """The first ``count`` tasks of a source, or all if it has fewer."""
    return [source.task_at(i) for i in range(count if source.size is None else min(count, source.size))]


def check_prompts(tasks: Sequence[Task], chat: ChatCodec, *, context: int) -> None:
    """Raise ``ValueError`` for the first task whose prompt leaves no room for an answer."""
    for task in tasks:
        length = len(chat.prompt_ids(task.messages))
        if length >= context:
            raise ValueError(
                f"task {task.id}: the prompt must be shorter than model.context ({context} tokens), got {length}; "
                "raise model.context or leave the task out"
            )
