"""Closing the loop: rollouts whose outcome a verifier knows become comparisons with a known answer (K2 §3.2.2).

A judge learns any shortcut that pays, so pairs are balanced: over task kinds, over which of the two is longer, and over
which is shown first. Some replies carry a decoy, text that pleads for them and says nothing about their worth.
"""

from __future__ import annotations

import itertools
import random
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from critic.decoys import DECOYS, dressed
from critic.judge import confidence
from critic.prompts import LETTERS, Fit, Prompts, read_choice
from critic.rubrics import RubricSet
from rl.protocols import ChatCodec
from rl.types import Rollout, RolloutGroup, Score, Task


class Objective(StrEnum):
    """How the critic learns from a comparison with a known answer."""

    RL = "rl"
    """Its own judgements are rollouts, rewarded for preferring the right reply."""
    SUPERVISED = "supervised"
    """Cross-entropy of the right verdict, given at once."""


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Two replies to one task, of which a verifier passed the first alone."""

    task: Task
    right: str
    wrong: str

    @property
    def longer(self) -> str:
        """Which of the two has more characters: ``right``, ``wrong`` or ``neither``."""
        gap = len(self.right) - len(self.wrong)
        return "right" if gap > 0 else "wrong" if gap < 0 else "neither"

    def swapped(self, first: bool) -> tuple[str, str]:
        """Both replies, the right one first if ``first``."""
        return (self.right, self.wrong) if first else (self.wrong, self.right)


def pairs_of(group: RolloutGroup, *, pass_value: float) -> list[Pair]:
    """All pairs of a passed and a failed reply of different texts, no text pair twice.

    Rollouts of several turns are left out: what a judge would be shown, the last one, is not what decided.
    """
    scored = [
        (r.completion, s.value)
        for r, s in zip(group.rollouts, group.scores, strict=True)
        if s.fault is None and len(r.messages) == 1
    ]
    passed = sorted({reply for reply, value in scored if value >= pass_value})
    failed = sorted({reply for reply, value in scored if value < pass_value})
    return [Pair(task=group.task, right=a, wrong=b) for a, b in itertools.product(passed, failed) if a != b]


def balanced(
    groups: Sequence[RolloutGroup], *, count: int, per_task: int, pass_value: float, rng: random.Random
) -> list[Pair]:
    """At most ``count`` pairs, and at most ``per_task`` of one task, balanced as far as there are any.

    Task kinds take turns. Within a kind, pairs whose right reply is longer and pairs whose wrong reply is longer take
    turns strictly, so that their numbers differ by one at most; pairs of equal length may come at any turn.
    """
    stock: dict[str, dict[str, list[Pair]]] = defaultdict(lambda: defaultdict(list))
    for group in rng.sample(groups, len(groups)):
        found = pairs_of(group, pass_value=pass_value)
        for pair in rng.sample(found, len(found)):
            stock[group.task.kind][pair.longer].append(pair)
    turns = {kind: _alternate(stock[kind], per_task) for kind in sorted(stock)}
    chosen: list[Pair] = []
    while turns and len(chosen) < count:
        for kind in list(turns):
            following = next(turns[kind], None)
            if following is None:
                del turns[kind]
            else:
                chosen.append(following)
    return chosen[:count]


def _alternate(by_length: dict[str, list[Pair]], per_task: int) -> Iterator[Pair]:
    """One pair after the other, the longer reply being right and wrong in turn; ends when one of these is used up."""
    used: Counter[str] = Counter()

    def take(longer: str) -> Pair | None:
        while by_length[longer]:
            pair = by_length[longer].pop()
            if used[pair.task.id] < per_task:
                used[pair.task.id] += 1
                return pair
        return None

    for longer in itertools.cycle(("right", "neither", "wrong", "neither")):
        pair = take(longer)
        if pair is not None:
            yield pair
        elif longer != "neither":
            break
    while (pair := take("neither")) is not None:
        yield pair


@dataclass(frozen=True, kw_only=True)
class Refresh:
    """Which comparisons are made of an iteration's verified rollouts.

    Args:
        tasks: comparisons per refresh.
        every: iterations between refreshes.
        per_task: most comparisons made of one task's rollouts.
        group_size: judgements per comparison.
        weight: of a comparison in the objective, where a task's group has 1.
        decoys: chance that a reply carries a decoy, the same for right and wrong ones.
        objective: ``rl`` or ``supervised``.
        graded: reward the probability of the right verdict instead of the verdict.

    """

    tasks: int = 16
    every: int = 1
    per_task: int = 2
    group_size: int = 8
    weight: float = 1.0
    decoys: float = 0.25
    objective: Objective | str = Objective.RL
    graded: bool = False

    def __post_init__(self) -> None:
        for name in ("tasks", "every", "per_task"):
            if getattr(self, name) < 1:
                raise ValueError(f"critic.refresh.{name} must be at least 1, got {getattr(self, name)}")
        if self.group_size < 2:
            raise ValueError(
                "critic.refresh.group_size must be at least 2, because a judgement is compared with the others of its "
                f"group, got {self.group_size}"
            )
        if not (0 <= self.decoys <= 1 and self.weight >= 0):
            raise ValueError(
                f"critic.refresh.decoys must be from 0 to 1 and weight at least 0, got {self.decoys}, {self.weight}"
            )
        if self.objective not in tuple(Objective):
            raise ValueError(f"critic.refresh.objective must be rl or supervised, got {self.objective!r}")

    def due(self, iteration: int) -> bool:
        return iteration % self.every == 0

    def comparisons(
        self,
        groups: Sequence[RolloutGroup],
        *,
        prompts: Prompts,
        rubrics: RubricSet,
        fit: Fit,
        pass_value: float,
        seed: str,
    ) -> list[Task]:
        """Judge tasks with ``fields["better"]``, the right letter; half of each kind and length with either letter."""
        rng = random.Random(f"refresh/{seed}")
        pairs = balanced(groups, count=self.tasks, per_task=self.per_task, pass_value=pass_value, rng=rng)
        first: dict[tuple[str, str], bool] = {}
        made = []
        for number, pair in enumerate(pairs):
            cell = (pair.task.kind, pair.longer)
            first[cell] = not first.get(cell, rng.random() < 0.5)
            shown = replace(pair, right=self._shown(pair.right, rng), wrong=self._shown(pair.wrong, rng))
            messages = prompts.compare(pair.task, shown.swapped(first[cell]), rubrics.for_task(pair.task), fit)
            if messages is None:
                continue
            fields = {"better": LETTERS[not first[cell]], "longer": pair.longer, "of": pair.task.id}
            made.append(
                Task(
                    id=f"refresh-{seed}-{number}",
                    kind="judge",
                    messages=messages,
                    fields=fields,
                    tags=(f"judge-{pair.task.kind}",),
                )
            )
        return made

    def _shown(self, reply: str, rng: random.Random) -> str:
        wordings = [wording for trick in DECOYS.values() for wording in trick]
        return dressed(reply, rng.choice(wordings)) if rng.random() < self.decoys else reply

    def score(self, task: Task, rollout: Rollout, chat: ChatCodec) -> Score:
        """1 if the judgement prefers the right reply; with ``graded`` the probability that it gave to it."""
        said = read_choice(rollout.completion)
        if said is None:
            return Score(value=0.0, parts={"parsed": 0.0})
        right = LETTERS[not said] == task.fields["better"]
        sure = confidence(rollout, chat, read_choice) if self.graded else 1.0
        return Score(value=sure if right else 1 - sure, parts={"parsed": 1.0})
