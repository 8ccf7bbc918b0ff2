"""Where tasks come from: procedural problems, local files, or any ``datasets`` name, as numbered ``Task`` records."""

from __future__ import annotations

import json
import random
import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rl.procedural import FAMILIES, problem_at
from rl.protocols import ChatCodec, TaskSource
from rl.types import Task

PARTS = ("train", "held_out", "all")


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


class DatasetTasks:
    """Rows of a data set, mapped to tasks.

    Args:
        path: a ``.jsonl``, ``.json``, ``.csv`` or ``.parquet`` file, or a name or folder that ``datasets`` loads.
        split: split of a ``datasets`` name; ignored for files.
        prompt: template of the user message, with ``{column}`` for a column's value.
        system: system message, or null.
        fields: what the reward needs: field name to template or column, for example ``{answer: "{answer}"}``.
        patterns: field name to a regular expression; the field becomes its first group's last match, for example
            ``{answer: "#### (.+)"}`` for GSM8K.
        kind: the tasks' kind.
        env: the tasks' environment.
        part: ``train`` or ``held_out`` take disjoint shares of the rows, by the prompt's text; ``all`` takes all.
        held_out_percent: size of the ``held_out`` share.

    Raises ``ValueError``, naming file and line, for a malformed row, and for an empty selection.

    """

    def __init__(
        self,
        *,
        path: str,
        prompt: str,
        fields: Mapping[str, str],
        split: str = "train",
        system: str | None = None,
        patterns: Mapping[str, str] | None = None,
        kind: str = "math",
        env: str = "single_turn",
        part: str = "all",
        held_out_percent: int = 10,
    ) -> None:
        if part not in PARTS:
            raise ValueError(f"tasks: part must be one of {', '.join(PARTS)}, got {part!r}")
        self._tasks: list[Task] = []
        for index, (where, row) in enumerate(_rows(path, split)):
            text = _fill(prompt, row, where)
            if part != "all" and (zlib.crc32(text.encode()) % 100 < held_out_percent) != (part == "held_out"):
                continue
            values = {name: _fill(template, row, where) for name, template in fields.items()}
            for name, pattern in (patterns or {}).items():
                values[name] = _last_match(pattern, values.get(name, ""), name, where)
            opening = [] if system is None else [{"role": "system", "content": system}]
            self._tasks.append(
                Task(
                    id=f"{Path(path).stem}-{index}",
                    kind=kind,
                    messages=(*opening, {"role": "user", "content": text}),
                    fields=values,
                    env=env,
                )
            )
        if not self._tasks:
            raise ValueError(f"tasks: path must hold at least one row for part {part!r}, got none in {path}")

    @property
    def size(self) -> int:
        return len(self._tasks)

    def task_at(self, index: int) -> Task:
        return self._tasks[index]


def _rows(path: str, split: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """(where, row) for every row; ``where`` is what an error message calls it."""
    file = Path(path)
    looks_like_file = file.suffix in (".jsonl", ".json", ".csv", ".parquet")
    if looks_like_file and not file.is_file():
        raise ValueError(f"tasks: path must be a file or a datasets name, got {path}, which does not exist")
    if file.suffix == ".jsonl":
        yield from _json_lines(file)
        return
    import datasets

    try:
        if looks_like_file:
            loaded = datasets.load_dataset(file.suffix[1:], data_files=str(file), split="train")
        else:
            loaded = datasets.load_dataset(path, split=split)
    except (OSError, ValueError, datasets.exceptions.DatasetGenerationError) as error:
        raise ValueError(f"tasks: path must be readable, got {path}: {str(error).splitlines()[0]}") from error
    for number, row in enumerate(loaded):
        yield f"{path}: row {number + 1}", row


def _json_lines(file: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    with file.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            where = f"{file}:{number}"
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise ValueError(f"{where}: every line must be a JSON object, got {line.strip()[:60]!r}") from error
            if not isinstance(row, dict):
                raise ValueError(f"{where}: every line must be a JSON object, got {line.strip()[:60]!r}")
            yield where, row


def _fill(template: str, row: Mapping[str, Any], where: str) -> str:
    """Put the row's columns into the template. Only ``{column}`` is replaced; other braces stay."""

    def value(match: re.Match[str]) -> str:
        column = match.group(1)
        if row.get(column) is None:
            raise ValueError(f"{where}: column {column!r} must have a value; the row has {sorted(row)}")
        return str(row[column])

    return re.sub(r"\{(\w+)\}", value, template)


def _last_match(pattern: str, text: str, name: str, where: str) -> str:
    found = re.findall(pattern, text)
    if not found:
        raise ValueError(f"{where}: field {name!r} must match {pattern!r}, got {text[-60:]!r}")
    return str(found[-1]).strip()


class TaskStream:
    """An endless walk through a source whose whole state is one integer, ``position``.

    A source with a size is shuffled anew each epoch, by ``seed`` and epoch.
    """

    def __init__(self, source: TaskSource, *, seed: int, position: int = 0) -> None:
        self._source = source
        self._seed = seed
        self._order: tuple[int, list[int]] | None = None
        self.position = position

    def take(self, count: int) -> list[Task]:
        """The next ``count`` tasks."""
        tasks = [self._source.task_at(self._index(self.position + i)) for i in range(count)]
        self.position += count
        return tasks

    def _index(self, position: int) -> int:
        size = self._source.size
        if size is None:
            return position
        epoch, offset = divmod(position, size)
        if self._order is None or self._order[0] != epoch:
            order = list(range(size))
            random.Random(f"{self._seed}/{epoch}").shuffle(order)
            self._order = (epoch, order)
        return self._order[1][offset]


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
