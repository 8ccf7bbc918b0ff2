"""``closedloop bench rewards``: what rewards cost, and whether hanging ones harm the others."""

from __future__ import annotations

import asyncio
import subprocess
import time
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from rewards.pool import RewardPool
from rl.functions import FUNCTIONS
from rl.sandbox import isolation
from rl.types import Fault, Rollout, Score, Task
from scripts.reward_check import said

MATH_CHECKS = 1000
PROGRAMS = 200
COLD_STARTS = 40
CALLS = 1000
HANGING = 50
HANG_DEADLINE_S = 0.5
ANSWERS = (
    ("12", "12"),
    ("1,200", "1200"),
    ("1/2", "0.5"),
    ("-3", "3"),
    ("50%", "0.5"),
    ("x=4", "4"),
    ("\\frac{3}{4}", "3/4"),
)


def hang(task: Task, rollout: Rollout) -> float:
    """A reward that never ends for some tasks."""
    if task.fields["hang"]:
        time.sleep(3600)
    return 1.0


def _task(**fields: Any) -> Task:
    return Task(id="bench", kind="bench", messages=(), fields=fields)


BLANK = _task()


def measure_rewards() -> int:
    """Print the figures; 0 if every one of them is what it should be."""
    math_calls = [
        (_task(answer=ANSWERS[i % len(ANSWERS)][0]), said(BLANK, f"answer: {ANSWERS[i % len(ANSWERS)][1]}"))
        for i in range(MATH_CHECKS)
    ]
    code_calls = [
        (_task(tests=f.tests()), said(BLANK, f"def {f.name}({f.params}):\n    return {f.body}"))
        for f in (FUNCTIONS[i % len(FUNCTIONS)] for i in range(PROGRAMS))
    ]
    hang_calls = [(_task(hang=i % (CALLS // HANGING) == 0), said(BLANK, "x")) for i in range(CALLS)]
    table = Table("what", "measured", "wanted")
    good = True

    def row(what: str, value: float, unit: str, wanted: float, *, least: bool) -> None:
        nonlocal good
        met = value >= wanted if least else value <= wanted
        good = good and met
        colour = "green" if met else "red"
        table.add_row(what, f"[{colour}]{value:,.0f} {unit}[/]", f"{'at least' if least else 'at most'} {wanted:,.0f}")

    checks, blocked_math = _rate({"_target_": "rewards.math.math_answer"}, math_calls)
    row("math checks, short answers", checks, "per s", 500, least=True)
    programs, blocked_code = _rate({"_target_": "rewards.code.CodeReward"}, code_calls)
    row("sandboxed Python programs", programs, "per s", 40, least=True)
    row("cold start of a sandbox, without Python's own", 1000 * _cold_start(), "ms", 40, least=False)
    scores, seconds, blocked_hang = _run(
        {"_target_": "scripts.bench.rewards.hang"}, hang_calls, workers=8, deadline_s=HANG_DEADLINE_S
    )
    timeouts = [s.fault is Fault.TIMEOUT for s in scores]
    wrong = sum(t != call[0].fields["hang"] for t, call in zip(timeouts, hang_calls, strict=True))
    row(f"{CALLS} calls, {HANGING} hanging: wrong verdicts", wrong, f"in {seconds:.1f} s", 0, least=False)
    row("event loop blocked, longest", 1000 * max(blocked_math, blocked_code, blocked_hang), "ms", 50, least=False)
    Console().print(table)
    return int(not good)


def _rate(spec: dict[str, Any], calls: Sequence[tuple[Task, Rollout]]) -> tuple[float, float]:
    """Calls per second with two workers, and the event loop's longest pause. Raises if a right answer is not scored."""
    scores, seconds, blocked = _run(spec, calls, workers=2, deadline_s=30)
    faults = [s for s in scores if s.fault is not None]
    if faults:
        raise RuntimeError(f"{len(faults)} of {len(scores)} calls failed, the first with: {faults[0].error}")
    return len(calls) / seconds, blocked


def _run(
    spec: dict[str, Any], calls: Sequence[tuple[Task, Rollout]], *, workers: int, deadline_s: float
) -> tuple[list[Score], float, float]:
    """Scores, seconds for all calls queued at once after a warm-up, and the event loop's longest pause in seconds."""
    pool = RewardPool(spec, workers=workers, deadline_s=deadline_s, memory_mib=4096)

    async def all_calls() -> tuple[list[Score], float, float]:
        warm = [call for call in calls[: 40 * workers] if not call[0].fields.get("hang")]
        await asyncio.gather(*(pool.score(*call) for call in warm))
        pauses: list[float] = []
        watch = asyncio.create_task(_watch(pauses))
        started = time.monotonic()
        scores = await asyncio.gather(*(pool.score(*call) for call in calls))
        seconds = time.monotonic() - started
        watch.cancel()
        return scores, seconds, max(pauses, default=0.0)

    try:
        pool.ready()
        return asyncio.run(all_calls())
    finally:
        pool.close()


async def _watch(pauses: list[float]) -> None:
    """Record how much later than asked the event loop wakes up, until cancelled."""
    while True:
        before = time.monotonic()
        await asyncio.sleep(0.005)
        pauses.append(time.monotonic() - before - 0.005)


def _cold_start() -> float:
    """Seconds that a sandbox adds to starting a program."""
    guest = ["-c", "pass"]
    inside = isolation.bubblewrap(guest, disk_mib=16)
    outside = isolation.unsandboxed(guest)
    times = [(_seconds(inside), _seconds(outside)) for _ in range(COLD_STARTS)]
    differences = sorted(a - b for a, b in times)
    return differences[len(differences) // 2]


def _seconds(command: list[str]) -> float:
    started = time.monotonic()
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL)  # noqa: S603 - our own command
    return time.monotonic() - started
