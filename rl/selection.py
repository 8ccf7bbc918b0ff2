"""Which tasks are worth training on: difficulty, guessing, type and coverage, as pure functions of measurements."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from rl.types import Task


@dataclass(frozen=True, kw_only=True)
class Measured:
    """How a policy did on one task: ``passed`` of ``tries``, and ``guessed`` of ``guesses`` without any reasoning."""

    id: str
    passed: int
    tries: int
    guessed: int = 0
    guesses: int = 0
    tags: tuple[str, ...] = field(default=())

    @property
    def pass_rate(self) -> float:
        """Share of tries that passed: the unbiased estimate of the chance that one does."""
        return self.passed / self.tries


@dataclass(frozen=True, kw_only=True)
class Filter:
    """What is kept: moderate difficulty (K2 §3.2.1), not to be guessed (K1.5 §2.1: 8 tries), of a checkable type."""

    low: float = 0.0
    high: float = 1.0
    """Kept are tasks with ``low < pass rate < high``."""
    drop_guessed: bool = True
    drop_types: bool = True

    def __post_init__(self) -> None:
        if not 0 <= self.low < self.high <= 1:
            raise ValueError(f"low and high must satisfy 0 <= low < high <= 1, got {self.low} and {self.high}")

    def verdict(self, task: Task, measured: Measured) -> str:
        """``kept``, or why not: ``too hard``, ``too easy``, ``guessable`` or ``type``."""
        if self.drop_types and unsuitable_type(task) is not None:
            return "type"
        if measured.pass_rate <= self.low:
            return "too hard"
        if measured.pass_rate >= self.high:
            return "too easy"
        return "guessable" if self.drop_guessed and measured.guessed else "kept"


_CHOICES = re.compile(r"(?:^|\n|\s)\(?A[).:]\s.+?(?:\n|\s)\(?B[).:]\s", re.DOTALL)
_TRUTH = re.compile(r"\btrue or false\b|\bis (?:it|this|the statement) (?:true|false)\b|\byes or no\b", re.IGNORECASE)
_PROOF = re.compile(r"^\s*(?:prove|show)\b(?: that)?|\bprove that\b|\bgive a proof\b", re.IGNORECASE)


def unsuitable_type(task: Task) -> str | None:
    """``choice``, ``truth`` or ``proof`` for what is easily guessed or hard to verify (K1.5 §2.1), else None."""
    text = "\n".join(str(m["content"]) for m in task.messages if m["role"] == "user")
    answer = str(task.fields.get("answer", ""))
    if _CHOICES.search(text):
        return "choice"
    if _TRUTH.search(text) or answer.strip().casefold() in ("true", "false", "yes", "no"):
        return "truth"
    return "proof" if _PROOF.search(text) else None


def coverage(tasks: Iterable[Task]) -> dict[str, int]:
    """Number of tasks by tag, most frequent first; tasks without a tag count under ``untagged``."""
    counts: Counter[str] = Counter()
    for task in tasks:
        counts.update(task.tags or ("untagged",))
    return dict(counts.most_common())


def balancing_weights(tasks: Sequence[Task]) -> list[float]:
    """One weight per task that gives every tag the same total share; a task with several tags takes their mean."""
    counts = coverage(tasks)
    return [sum(1 / counts[tag] for tag in task.tags or ("untagged",)) / len(task.tags or (1,)) for task in tasks]


def priorities(success: Mapping[str, tuple[float, float]], ids: Sequence[str], *, floor: float) -> list[float]:
    """Sampling weight of each task: 1 minus its success rate (K1.5 §2.3.4), at least ``floor``; untried tasks weigh 1.

    ``success`` holds (passed, tries) by task id.
    """
    weights = []
    for name in ids:
        passed, tries = success.get(name, (0, 0))
        weights.append(max(floor, 1.0 - passed / tries) if tries else 1.0)
    return weights
