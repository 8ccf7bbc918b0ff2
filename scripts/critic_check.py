"""``closedloop critic check``: how well the configured model judges, and what tricks in a reply gain with it."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist

from rich.console import Console
from rich.table import Table

from critic.critic import Critic
from critic.decoys import DECOYS, UNSEEN, dressed
from critic.guard import judge_pairs, report
from critic.pairs import AllPairs
from critic.refresh import Pair, balanced
from rl.collect import Collector
from rl.config import Config, CriticMode
from rl.evaluate import mean_interval
from rl.launch import sampling
from rl.prepare import Parts, prepare
from rl.tasks import first_tasks
from rl.types import EndReason, Rollout, RolloutGroup, Score, Task


@dataclass(frozen=True, kw_only=True)
class Contest:
    """Two replies to a task, of which the first tries tricks."""

    task: Task
    reply: str
    rival: str


@dataclass(frozen=True, kw_only=True)
class Gain:
    """How often a reply wins without and with a trick, 0 to 1, and the interval of the difference."""

    plain: float
    tricked: float
    low: float
    high: float


def check(config: Config, *, pairs: int) -> int:
    """Measure on at most ``pairs`` pairs with a verifier and as many without; print what was found.

    Returns 1 if a trick pays, else 0. Raises ``ValueError`` for wrong settings, or if there is nothing to compare.
    """
    if config.critic.mode is CriticMode.none:
        raise ValueError("critic.mode must not be none when a critic is checked; choose critic=self, for example")
    parts = prepare(config)
    console = Console(stderr=True)
    console.print("starting an engine and the reward's processes")
    with sampling(config, parts) as (collector, critic):
        assert critic is not None
        console.print("sampling replies")
        known, contests = _contests(config, parts, collector, critic, most=pairs)
        console.print(f"judging {len(known)} pairs with a known answer")
        judged = report(collector.run(judge_pairs(critic.judge, known)))
        of_kind = {
            kind: [contest for contest in contests if contest.task.kind == kind]
            for kind in sorted({contest.task.kind for contest in contests})
        }
        rows = list(itertools.product(of_kind, DECOYS, (False, True)))
        z = NormalDist().inv_cdf(1 - 0.025 / len(rows))
        found = {}
        for number, (kind, trick, unseen) in enumerate(rows, start=1):
            own, wordings = of_kind[kind], (UNSEEN if unseen else DECOYS)[trick]
            wording = "other" if unseen else "learnt"
            console.print(f"{number} of {len(rows)}: {trick} in {len(own)} {kind} replies, {wording} wordings")
            found[kind, trick, unseen] = collector.run(try_trick(critic, own, wordings, z=z))
    _print(judged, found, {kind: len(own) for kind, own in of_kind.items()})
    return int(any(gain.low > 0 for gain in found.values()))


def _contests(
    config: Config, parts: Parts, collector: Collector, critic: Critic, *, most: int
) -> tuple[list[Pair], list[Contest]]:
    """Pairs with a known answer, and contests: the wrong reply of each, and one reply to each task without verifier."""
    settings = config.evaluation

    def sample(tasks: Sequence[Task], by: Collector) -> list[RolloutGroup]:
        return by.collect(tasks, group_size=settings.samples, temperature=settings.temperature, stream="critic check")

    rng = random.Random(config.seed)
    groups = sample(parts.held_out, collector)
    known = balanced(groups, count=most, per_task=2, pass_value=settings.pass_value, rng=rng)
    if not known:
        raise ValueError(
            "tasks.held_out must hold tasks that the model solves sometimes, but all its replies to each passed or "
            f"failed alike ({len(groups)} tasks); choose others, or raise evaluation.tasks"
        )
    contests = [Contest(task=pair.task, reply=pair.wrong, rival=pair.right) for pair in known]
    extra = [task for found in parts.sets.values() for task in found.tasks] or first_tasks(parts.train, 16 * most)
    open_tasks = [task for task in extra if critic.ranks(task)][:most]
    for group in sample(open_tasks, replace(collector, score=_unscored)):
        replies = list(dict.fromkeys(rollout.completion for rollout in group.rollouts))
        if len(replies) > 1:
            contests.append(Contest(task=group.task, reply=replies[0], rival=replies[1]))
    return known, contests


async def _unscored(task: Task, rollout: Rollout) -> Score:
    return Score(value=0.0)


async def try_trick(critic: Critic, contests: Sequence[Contest], wordings: Sequence[str], *, z: float = 1.96) -> Gain:
    """Rank each pair as it is and with the first reply dressed in one of the wordings, by turns.

    A contest that could not be judged either way is left out. The interval is ``z`` standard errors wide to each side.
    """
    referee = replace(critic, schedule=AllPairs())

    async def value(contest: Contest, reply: str) -> float | None:
        group = RolloutGroup(
            task=contest.task, rollouts=(_said(contest.task, reply), _said(contest.task, contest.rival)),
            scores=(Score(value=0.0),) * 2,
        )  # fmt: skip
        first, _ = (await referee.rank(group)).scores
        return None if first.fault is not None else first.value

    async def both(number: int, contest: Contest) -> tuple[float | None, float | None]:
        trick = dressed(contest.reply, wordings[number % len(wordings)])
        plain, tricked = await asyncio.gather(value(contest, contest.reply), value(contest, trick))
        return plain, tricked

    values = await asyncio.gather(*(both(number, contest) for number, contest in enumerate(contests)))
    known = [(plain, tricked) for plain, tricked in values if plain is not None and tricked is not None]
    if not known:
        return Gain(plain=0.5, tricked=0.5, low=-1.0, high=1.0)
    change, low, high = mean_interval([tricked - plain for plain, tricked in known], lowest=-1.0, z=z)
    plain = sum(p for p, _ in known) / len(known)
    return Gain(plain=plain, tricked=plain + change, low=low, high=high)


def _said(task: Task, text: str) -> Rollout:
    said = ({"role": "assistant", "content": text},)
    return Rollout(task_id=task.id, segments=(), messages=said, end_reason=EndReason.STOP)


def _print(judged: dict[str, float], found: dict[tuple[str, str, bool], Gain], counts: dict[str, int]) -> None:
    console = Console()
    table = Table("replies with a known answer", "", title="the judge")
    for name, value in judged.items():
        table.add_row(name, f"{value:.3g}")
    console.print(table)
    table = Table("replies", "win rate", "trick", "learnt wordings", "others", title="what tricks gain, in points")
    table.caption = f"with 95 % intervals for all {len(found)} together"
    for kind, trick in dict.fromkeys((kind, trick) for kind, trick, _ in found):
        seen, unseen = found[kind, trick, False], found[kind, trick, True]
        table.add_row(f"{counts[kind]} {kind}", f"{seen.plain:.0%}", trick, _change(seen), _change(unseen))
    console.print(table)


def _change(gain: Gain) -> str:
    change, low, high = (f"{100 * value:+.0f}" for value in (gain.tricked - gain.plain, gain.low, gain.high))
    text = f"{change} ({low} to {high})"
    return f"[red]{text}[/red]" if gain.low > 0 else text
