"""Task sources for logic: reasoning-gym's generators, and the puzzles of ``rl.puzzles`` that it lacks."""

from __future__ import annotations

import functools
import random
from collections.abc import Mapping, Sequence
from typing import Any

from rl.procedural import is_held_out
from rl.puzzles import FAMILIES, puzzle_at
from rl.types import Task

UNSOUND = ("boxnet", "composite", "graph_color", "propositional_logic", "rubiks_cube", "rush_hour")
"""Generators of reasoning-gym 0.1.25 that do not accept their own answer, and the one that makes nothing."""
_ENDLESS = 2**31 - 1


class ReasoningGymTasks:
    """Problems of reasoning-gym's generators, without end, in equal shares.

    Args:
        datasets: names of generators, or ``all`` for every sound one.
        settings: difficulty by generator: name to the settings of its configuration class.
        suffix: added to each question, to say how the answer is found in the reply.
        seed: seed of the stream.
        held_out: the split; the two never share a question.

    Each task has ``fields["dataset"]`` and ``fields["entry"]`` for ``rewards.logic.reasoning_gym_answer``, and the
    generator's name as tag.

    """

    size = None

    def __init__(
        self,
        *,
        datasets: Sequence[str] | str = "all",
        settings: Mapping[str, Mapping[str, Any]] | None = None,
        suffix: str = "\nEnd your reply with: answer: <answer>",
        seed: int = 0,
        held_out: bool = False,
    ) -> None:
        from reasoning_gym.factory import DATASETS

        sound = sorted(set(DATASETS) - set(UNSOUND))
        self._names = sound if datasets == "all" else [datasets] if isinstance(datasets, str) else list(datasets)
        unknown = sorted((set(self._names) | set(settings or {})) - set(sound))
        if unknown or not self._names:
            raise ValueError(
                f"datasets must name sound generators of reasoning-gym, got {unknown}; {len(sound)} are known"
            )
        self._settings = {name: dict((settings or {}).get(name, {})) for name in self._names}
        self._suffix = suffix
        self._seed = seed
        self._held_out = held_out
        self._generator = functools.cache(self._make)

    def _make(self, name: str) -> Any:
        import reasoning_gym

        try:
            return reasoning_gym.create_dataset(name, seed=0, size=_ENDLESS, **self._settings[name])
        except (TypeError, AssertionError) as error:
            raise ValueError(f"settings.{name} must fit the generator's configuration: {error}") from error

    def task_at(self, index: int) -> Task:
        rng = random.Random(f"reasoning-gym/{self._seed}/{self._held_out}/{index}")
        name = rng.choice(self._names)
        while True:
            entry = self._generator(name)[rng.randrange(_ENDLESS)]
            if is_held_out(entry["question"]) == self._held_out:
                break
        return Task(
            id=f"{name}-{index}",
            kind="logic",
            messages=({"role": "user", "content": entry["question"] + self._suffix},),
            fields={"dataset": name, "entry": entry},
            tags=(name,),
        )


class PuzzleTasks:
    """Puzzles of ``rl.puzzles`` without end; ``size`` of a puzzle is drawn from ``sizes``, its difficulty.

    Each task has ``fields["family"]`` and ``fields["accepts"]`` for ``rewards.logic.puzzle_answer``.
    """

    size = None

    def __init__(
        self,
        *,
        families: Sequence[str] = tuple(FAMILIES),
        sizes: Sequence[int] = (1, 2, 3),
        suffix: str = "\nEnd your reply with: answer: <answer>",
        seed: int = 0,
        held_out: bool = False,
    ) -> None:
        self._sizes = list(sizes)
        self._suffix = suffix
        self._options: dict[str, Any] = {"families": tuple(families), "seed": seed, "held_out": held_out}
        if not self._sizes:
            raise ValueError("sizes must list at least one size, got none")
        self.task_at(0)

    def task_at(self, index: int) -> Task:
        puzzle = puzzle_at(index, size=self._sizes[index % len(self._sizes)], **self._options)
        return Task(
            id=f"{puzzle.family}-{index}",
            kind="logic",
            messages=({"role": "user", "content": puzzle.question + self._suffix},),
            fields={"family": puzzle.family, "accepts": dict(puzzle.accepts)},
            tags=(puzzle.family,),
        )
