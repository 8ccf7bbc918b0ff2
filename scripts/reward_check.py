"""``closedloop reward check``: run a reward as training would, and say whether it is fit to train on."""

from __future__ import annotations

import asyncio
import json
import re
import statistics
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from rewards.base import build_reward, check_fields, declaration
from rewards.pool import RewardPool
from rl.compose import CONF
from rl.dataset_tasks import read_rows
from rl.types import EndReason, Rollout, Score, Segment, Task

PROMPTS = ("prompt", "question", "text", "problem")
"""Columns that may hold the user message, the first that a row has."""
RUNS = 3
BARS = " ▁▂▃▄▅▆▇█"
CHEATS = ("empty", "the prompt echoed", "the format without an answer", "every number at once")

MOST_FAULTS = 0.01
MOST_CONSTANT = 0.95
CHEAT_LIMIT = 0.5
"""Largest share of the range that a cheat may earn on average."""


@dataclass
class Report:
    """What the check found. ``reasons`` says why the reward is unfit; empty if it is fit."""

    calls: int = 0
    values: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    faults: Counter[str] = field(default_factory=Counter)
    disagreements: int = 0
    groups: int = 0
    constant_groups: int = 0
    questions: int = 0
    """What the replies' scores leave to a judge, which is not asked here."""
    cheats: dict[str, float] = field(default_factory=dict)
    reasons: list[str] = field(default_factory=list)


def check(
    target: str, settings: Mapping[str, Any], data: str, responses: str | None, *, deadline_s: float, workers: int
) -> int:
    """Print the report; 0 if the reward is fit to train on, 1 if not. Raises ``ValueError`` for wrong input."""
    spec = _spec(target, settings)
    function = build_reward(spec)
    groups = read_groups(data, responses)
    check_fields(function, [task for task, _ in groups])
    low, high = declaration(function).low, declaration(function).high
    pool = RewardPool(spec, workers=workers, deadline_s=deadline_s, memory_mib=4096)
    try:
        pool.ready()
        report = asyncio.run(_examine(pool, groups))
    finally:
        pool.close()
    report.reasons = _verdict(report, low, high, deadline_s)
    _print(target, report, low, high)
    return int(bool(report.reasons))


def _spec(target: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The reward's configuration: a dotted path, an installed plugin, or a file of ``conf/reward``."""
    file = CONF / "reward" / f"{target}.yaml"
    if file.is_file():
        import yaml

        return {**yaml.safe_load(file.read_text()), **settings}
    return {"_target_": target, **settings}


def read_groups(data: str, responses: str | None) -> list[tuple[Task, list[str]]]:
    """Tasks and the replies to judge. Raises ``ValueError``, naming the line, for a row that is neither."""
    groups = []
    for index, (where, row) in enumerate(read_rows(data)):
        column = next((name for name in PROMPTS if isinstance(row.get(name), str)), None)
        if column is None and "messages" not in row:
            raise ValueError(f"{where}: a row must have one of {', '.join(PROMPTS)} or messages, got {sorted(row)}")
        messages = tuple(row["messages"]) if column is None else ({"role": "user", "content": row[column]},)
        replies = row.get("responses", row.get("response", []))
        fields = {k: v for k, v in row.items() if k not in ("responses", "response", "messages", "kind")}
        task = Task(id=str(row.get("id", index)), kind=str(row.get("kind", "math")), messages=messages, fields=fields)
        groups.append((task, [replies] if isinstance(replies, str) else [str(r) for r in replies]))
    if not groups:
        raise ValueError(f"--data must hold at least one row, got none in {data}")
    if responses is not None:
        _add_responses(groups, responses)
    if not any(replies for _, replies in groups):
        raise ValueError("there must be replies to judge: a responses column in --data, or --responses FILE")
    return groups


def _add_responses(groups: Sequence[tuple[Task, list[str]]], path: str) -> None:
    known = {task.id: replies for task, replies in groups}
    for where, row in read_rows(path):
        if str(row.get("id")) not in known or not isinstance(row.get("response"), str):
            raise ValueError(f"{where}: a row must have the id of a task and a response, got {str(dict(row))[:80]}")
        known[str(row["id"])].append(row["response"])


def cheats(task: Task) -> dict[str, str]:
    """Replies that earn nothing from a sound reward."""
    prompt = str(task.messages[-1]["content"])
    numbers = dict.fromkeys([*re.findall(r"-?\d+(?:\.\d+)?", prompt), *map(str, range(201))])
    every = ", ".join(numbers)
    texts = ("", prompt, "answer: \n\\boxed{}\n```python\n```", f"{every}\nanswer: {every}\n\\boxed{{{every}}}")
    return dict(zip(CHEATS, texts, strict=True))


def said(task: Task, text: str) -> Rollout:
    """A rollout that consists of one reply; one token per four characters stands for its length."""
    count = max(1, len(text) // 4)
    segment = Segment(token_ids=(0,) * count, from_model=True, sampler_logprobs=(0.0,) * count)
    messages = ({"role": "assistant", "content": text},)
    return Rollout(task_id=task.id, segments=(segment,), messages=messages, end_reason=EndReason.STOP)


async def _examine(pool: RewardPool, groups: Sequence[tuple[Task, list[str]]]) -> Report:
    calls = [(task, reply) for task, replies in groups for reply in replies]
    report = Report(calls=RUNS * len(calls))
    tricks = [(task, name, text) for task, _ in groups for name, text in cheats(task).items()]
    with Progress(console=Console(stderr=True)) as progress:
        bar = progress.add_task("scoring", total=RUNS * len(calls) + len(tricks))
        slots = asyncio.Semaphore(64)

        async def one(task: Task, text: str) -> tuple[Score, float]:
            async with slots:
                started = time.monotonic()
                score = await pool.score(task, said(task, text))
                progress.advance(bar)
                return score, time.monotonic() - started

        runs = [[score for score, _ in await asyncio.gather(*(one(*call) for call in calls))] for _ in range(RUNS)]
        slots = asyncio.Semaphore(1)
        for call in calls[:200]:
            report.seconds.append((await one(*call))[1])
        tricked = await asyncio.gather(*(one(task, text) for task, _, text in tricks))
    first = runs[0]
    report.values = [s.value for s in first if s.fault is None]
    report.questions = sum(len(s.questions) for s in first)
    report.faults = Counter(str(s.fault) for run in runs for s in run if s.fault is not None)
    verdicts = [[(s.value, s.fault) for s in column] for column in zip(*runs, strict=True)]
    report.disagreements = sum(len(set(column)) > 1 for column in verdicts)
    position = 0
    for _, replies in groups:
        own = [s.value for s in first[position : position + len(replies)] if s.fault is None]
        position += len(replies)
        if len(own) > 1:
            report.groups += 1
            report.constant_groups += len(set(own)) == 1
    for name in CHEATS:
        earned = [s.value for (_, n, _), (s, _) in zip(tricks, tricked, strict=True) if n == name and s.fault is None]
        report.cheats[name] = statistics.fmean(earned) if earned else float("nan")
    return report


def _verdict(report: Report, low: float, high: float, deadline_s: float) -> list[str]:
    reasons = []
    if report.faults.total() > MOST_FAULTS * report.calls:
        reasons.append(f"{report.faults.total()} of {report.calls} calls failed; see the faults by kind")
    if report.disagreements:
        reasons.append(f"{report.disagreements} replies were scored differently in {RUNS} runs; seed what is random")
    settled = not report.questions  # else it is the judge's to say whether replies differ in worth
    if settled and len(set(report.values)) == 1:
        reasons.append(f"every reply got {report.values[0]:g}; there is nothing to learn from")
    elif settled and report.groups and report.constant_groups / report.groups > MOST_CONSTANT:
        reasons.append(f"{report.constant_groups} of {report.groups} groups have equal scores; they teach nothing")
    for name, mean in report.cheats.items():
        if mean > low + CHEAT_LIMIT * (high - low):
            reasons.append(f"a cheat earns {mean:.2f} on average: {name}")
    if report.seconds and _quantile(report.seconds, 0.99) > deadline_s / 2:
        reasons.append(f"one call in a hundred takes more than half the deadline of {deadline_s:g} s")
    return reasons


def _quantile(values: Sequence[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


def histogram(values: Sequence[float], low: float, high: float, *, bins: int = 20) -> str:
    """A one-line picture of how the values spread over the range."""
    counts = [0] * bins
    for value in values:
        counts[min(bins - 1, max(0, int((value - low) / (high - low) * bins)))] += 1
    top = max(counts) or 1
    return "".join(BARS[-(-count * (len(BARS) - 1) // top)] for count in counts)


def _print(target: str, report: Report, low: float, high: float) -> None:
    table = Table(title=f"reward {target}", show_header=False)
    values = report.values
    table.add_row("replies scored", str(len(values)))
    if values:
        table.add_row("mean, lowest, highest", f"{statistics.fmean(values):.3f}, {min(values):g}, {max(values):g}")
        table.add_row(f"distribution {low:g} to {high:g}", f"[{histogram(values, low, high)}]")
    if report.seconds:
        millis = [1000 * s for s in report.seconds]
        table.add_row("latency p50, p99", f"{_quantile(millis, 0.5):.1f} ms, {_quantile(millis, 0.99):.1f} ms")
    table.add_row("faults by kind", ", ".join(f"{k} {n}" for k, n in sorted(report.faults.items())) or "none")
    table.add_row(f"scored differently in {RUNS} runs", str(report.disagreements))
    if report.questions:
        table.add_row("questions left to a judge", str(report.questions))
    table.add_row("groups with equal scores", f"{report.constant_groups} of {report.groups}")
    for name, mean in report.cheats.items():
        table.add_row(f"cheat: {name}", "fault" if mean != mean else f"{mean:.3f}")
    console = Console()
    console.print(table)
    if report.reasons:
        for reason in report.reasons:
            console.print(f"[red]unfit[/]: {reason}")
    else:
        console.print("[green]fit to train on[/]")


def parse_settings(pairs: Sequence[str]) -> dict[str, Any]:
    """``key=value`` settings of a reward; values are JSON where they parse as such, else text."""
    settings: dict[str, Any] = {}
    for pair in pairs:
        key, sign, value = pair.partition("=")
        if not sign or not key:
            raise ValueError(f"a setting must be KEY=VALUE, got {pair!r}")
        try:
            settings[key] = json.loads(value)
        except json.JSONDecodeError:
            settings[key] = value
    return settings
