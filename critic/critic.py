"""The critic: ranks a task's responses by comparing them pairwise (K2 §3.2.2), and learns from what verifiers know."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from critic.guard import Guard, read_task
from critic.judge import Judge
from critic.pairs import Pair, Schedule
from critic.prompts import LETTERS
from critic.ranking import Array, both_orders, enforce, flipped
from critic.refresh import Objective, Refresh
from rl.types import EndReason, Fault, Rollout, RolloutGroup, Score, Segment, Task


@dataclass(kw_only=True)
class Critic:
    """Turns groups of unverified rollouts into scores, and groups of verified ones into training for itself.

    ``kinds`` are the kinds of task that it scores. ``learns`` is false for a frozen critic.
    """

    judge: Judge
    kinds: frozenset[str]
    schedule: Schedule
    ranking: Callable[[Array], Array]
    refresh: Refresh
    guard: Guard
    pass_value: float
    learns: bool
    pending: list[Task] = field(default_factory=list)
    """Comparisons with a known answer that the next iteration judges."""
    _orders: list[bool] = field(default_factory=list)
    _ties: list[bool] = field(default_factory=list)

    def ranks(self, task: Task) -> bool:
        """Whether the task's rollouts are scored here."""
        return task.kind in self.kinds

    @property
    def weight(self) -> float:
        """How much its scores count now, 0 to 1."""
        return self.guard.weight

    async def rank(self, group: RolloutGroup) -> RolloutGroup:
        """The group with a score from 0 to 1 for each rollout that has no fault yet.

        A rollout that breaks a mandatory rubric loses its pairs, and these are not judged. Equal replies are a tie
        without a judgement. A rollout of which no pair could be judged has the fault ``critic``.
        """
        places = [i for i, score in enumerate(group.scores) if score.fault is None]
        replies = [group.rollouts[i].completion for i in places]
        breaks, version, answers = await self._rules(group.task, replies)
        equal = np.array([[a == b for b in replies] for a in replies], dtype=bool).reshape(len(replies), len(replies))
        known = enforce(np.where(equal, 0.5, np.nan), breaks)
        np.fill_diagonal(known, np.nan)
        preferences, judged_by = await self._compare(group.task, replies, known)
        values = self.ranking(preferences)
        version = max(version, judged_by)
        scores = list(group.scores)
        for row, place in enumerate(places):
            over = {
                f"over/{places[j]}": float(p) for j, p in enumerate(preferences[row]) if j != row and np.isfinite(p)
            }
            if np.isfinite(values[row]):
                scores[place] = Score(
                    value=float(values[row]),
                    parts={"keeps_rules": float(not breaks[row])},
                    verdicts=answers[row] | over,
                    critic_version=version,
                    rubric_hash=self.judge.rubrics.hash,
                )
            else:
                scores[place] = Score.failed(Fault.CRITIC, "no comparison with this rollout could be judged")
        return replace(group, scores=tuple(scores))

    async def _rules(self, task: Task, replies: Sequence[str]) -> tuple[list[bool], int, list[dict[str, float]]]:
        """Which replies break a mandatory rubric, the version that judged, and the answers; unreadable ones acquit."""
        rules = self.judge.rubrics.for_task(task).mandatory
        different = dict.fromkeys(replies)
        calls = {(reply, rule.name): self.judge.keeps(task, reply, rule) for reply in different for rule in rules}
        found = dict(zip(calls, await asyncio.gather(*calls.values()), strict=True))
        answers = [
            {f"keeps/{rule.name}": v for rule in rules if (v := found[reply, rule.name].value) is not None}
            for reply in replies
        ]
        breaks = [any(value < 0.5 for value in answer.values()) for answer in answers]
        return breaks, max((v.version for v in found.values()), default=-1), answers

    async def _compare(self, task: Task, replies: Sequence[str], known: Array) -> tuple[Array, int]:
        """Preferences [K, K] after all rounds of the schedule, and the version that judged."""
        preferences = known.copy()
        rng = random.Random(f"{task.id}/{len(replies)}")
        asked: set[Pair] = set()
        version = -1
        while pairs := self.schedule.next_pairs(preferences, rng, asked):
            asked |= set(pairs)
            for (i, j), (value, by) in zip(
                pairs, await asyncio.gather(*(self._pair(task, replies[i], replies[j]) for i, j in pairs)), strict=True
            ):
                version = max(version, by)
                if value is not None:
                    preferences[i, j], preferences[j, i] = value, 1 - value
        return preferences, version

    async def _pair(self, task: Task, one: str, other: str) -> tuple[float | None, int]:
        """How far ``one`` is preferred to ``other`` over both orders."""
        forward, backward = await asyncio.gather(
            self.judge.compare(task, one, other), self.judge.compare(task, other, one)
        )
        turned = None if backward.value is None else 1 - backward.value
        flip, value = flipped(forward.value, turned), both_orders(forward.value, turned)
        if flip is not None:
            self._orders.append(flip)
        if value is not None:
            self._ties.append(value == 0.5)
        return value, max(forward.version, backward.version)

    def prepare(self, groups: Sequence[RolloutGroup], *, iteration: int) -> None:
        """Make the next iteration's comparisons out of this one's verified groups; none if no refresh is due then."""
        self.pending = []
        if self.learns and self.refresh.due(iteration + 1):
            self.pending = self.refresh.comparisons(
                groups,
                prompts=self.judge.prompts,
                rubrics=self.judge.rubrics,
                fit=self.judge.fit,
                pass_value=self.pass_value,
                seed=str(iteration),
            )

    @property
    def supervised(self) -> bool:
        """Whether it learns from the right verdicts themselves and not from its own judgements."""
        return self.refresh.objective == Objective.SUPERVISED

    def lesson(self, task: Task) -> RolloutGroup:
        """A comparison with the right verdict written in, to be learnt by cross-entropy of the verdict alone."""
        chat, better = self.judge.chat, task.fields["better"]
        right, wrong = (chat.reply_ids(f"verdict: {x}") for x in (better, LETTERS[1 - LETTERS.index(better)]))
        shared = next(i for i, (a, b) in enumerate(zip(right, wrong, strict=False)) if a != b)
        segments = (
            Segment(token_ids=(*chat.prompt_ids(task.messages), *right[:shared]), from_model=False),
            Segment(
                token_ids=tuple(right[shared:]),
                from_model=True,
                sampler_logprobs=(0.0,) * (len(right) - shared),
                policy_version=self.judge.newest,
            ),
        )
        said = ({"role": "assistant", "content": f"verdict: {better}"},)
        rollout = Rollout(task_id=task.id, segments=segments, messages=said, end_reason=EndReason.STOP)
        return RolloutGroup(
            task=task,
            rollouts=(rollout,),
            scores=(Score(value=1.0),),
            weight=self.refresh.weight,
            supervised=True,
        )

    async def score(self, task: Task, rollout: Rollout) -> Score:
        """The reward of a judgement with a known answer; see ``rl.protocols.Scorer``."""
        return self.refresh.score(task, rollout, self.judge.chat)

    def metrics(self, refreshed: Sequence[RolloutGroup]) -> dict[str, float]:
        """What was judged and learnt since the last call; names as in ``docs/metrics.md``."""
        values = [s.value for group in refreshed for s in group.scores if s.fault is None]
        metrics = self.judge.metrics() | {"critic/weight": self.weight, "critic/refresh/tasks": float(len(refreshed))}
        if values:
            metrics["critic/refresh/reward"] = sum(values) / len(values)
        if self._orders:
            metrics["critic/order_flip_rate"] = sum(self._orders) / len(self._orders)
        if self._ties:
            metrics["critic/ties"] = sum(self._ties) / len(self._ties)
        self._orders.clear()
        self._ties.clear()
        return metrics

    def state(self) -> dict[str, Any]:
        """What ``restore`` needs, as JSON."""
        return {"guard": self.guard.state(), "pending": [asdict(task) for task in self.pending]}

    def restore(self, state: Mapping[str, Any]) -> None:
        self.guard.restore(state["guard"])
        self.pending = [read_task(task) for task in state["pending"]]
