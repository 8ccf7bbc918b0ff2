"""``closedloop bench modes``: waiting for the longest rollout, pausing it, and running ahead of training.

Three trainings on the same long-tailed tasks (``tasks=long_tail``), one after the other, each in a process of its own.
Partial and asynchronous rollouts favour what is short while they run, so their lengths are compared with those of the
run that waits (Seer, §4.4.3).
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from rl.tracking.files import read_metrics

ITERATIONS, WARMUP = 16, 8
"""Of each run, and how many of them are left out of the speeds: paused rollouts must first have piled up."""
MODES: Mapping[str, Sequence[str]] = {
    "synchronous": (),
    "partial": ("rollout.iteration_tokens=128",),
    "asynchronous": ("rollout.asynchronous=true", "rollout.max_staleness=2", "algorithm.importance_cap=2"),
}


def modes(overrides: Sequence[str]) -> int:
    """Run the three trainings and print the comparison; returns the exit status."""
    folder = Path(tempfile.mkdtemp(prefix="closedloop-modes-"))
    reports: dict[str, dict[str, Any]] = {}
    lengths: dict[str, list[int]] = {}
    for name, settings in MODES.items():
        print(f"{name}: {' '.join(settings) or 'as configured'}", flush=True)
        own = folder / name
        command = [
            sys.executable, "-m", "scripts.cli", "train", "tasks=long_tail", "reward=long_tail", f"folder={own}",
            f"iterations={ITERATIONS}", f"evaluation.every={ITERATIONS}", f"checkpoint.every={ITERATIONS}",
            "tracking.wandb=disabled", *settings, *overrides,
        ]  # fmt: skip
        with (folder / f"{name}.log").open("w") as log:
            subprocess.run(command, check=True, stdout=log, stderr=subprocess.STDOUT)  # noqa: S603 - our own program
        reports[name] = speeds(read_metrics(own))
        lengths[name] = policy_lengths(own)
    for name, report in reports.items():
        report |= length_bias(lengths[name], lengths["synchronous"])
    _print(reports)
    print(json.dumps({"folder": str(folder), "modes": reports}))
    return 0


def speeds(records: Sequence[Mapping[str, float]]) -> dict[str, Any]:
    """Rollouts and tokens per second of rollout time, and of all time, from the iterations after ``WARMUP``."""
    measured = [r for r in records if r["iteration"] > WARMUP]

    def total(name: str) -> float:
        return sum(r.get(name, 0.0) for r in measured)

    rollout_s = total("time/rollout_s") + total("time/reward_s")
    return {
        "rollouts_per_rollout_s": total("rollout/count") / rollout_s,
        "tokens_per_rollout_s": total("rollout/tokens") / rollout_s,
        "tokens_per_s": total("rollout/tokens") / total("time/iteration_s"),
        "rollout_share": rollout_s / total("time/iteration_s"),
        "update_share": total("time/update_s") / total("time/iteration_s"),
        "pass_rate": records[-1]["eval/pass_rate"],
        "pass_rate_low": records[-1]["eval/pass_rate/low"],
        "pass_rate_high": records[-1]["eval/pass_rate/high"],
        "staleness_mean": total("staleness/mean") / len(measured),
        "staleness_left_out": total("staleness/left_out") / len(measured),
    }


def policy_lengths(folder: Path) -> list[int]:
    """Tokens that the policy wrote in each rollout of the measured iterations."""
    files = sorted((folder / "rollouts").glob("*.jsonl"))[WARMUP:]
    rollouts = [json.loads(line) for path in files for line in path.read_text().splitlines()]
    return [sum(len(s["token_ids"]) for s in r["segments"] if s["from_model"]) for r in rollouts]


def length_bias(lengths: Sequence[int], reference: Sequence[int]) -> dict[str, float]:
    """How lengths differ from those of a synchronous run (I15).

    ``ks`` is the largest distance between the two distribution functions, ``top_decile`` the share of rollouts that are
    longer than nine in ten of the reference's.
    """
    own, other = np.sort(lengths), np.sort(reference)
    at = np.concatenate([own, other])
    below = [np.searchsorted(values, at, side="right") / len(values) for values in (own, other)]
    return {
        "ks": float(np.abs(below[0] - below[1]).max()),
        "top_decile": float((own > np.quantile(other, 0.9)).mean()),
    }


def _print(reports: Mapping[str, Mapping[str, Any]]) -> None:
    table = Table("", *reports)
    names = list(reports["synchronous"])
    for name in names:
        table.add_row(name, *(f"{r[name]:.3g}" for r in reports.values()))
    base = reports["synchronous"]
    for name in ("rollouts_per_rollout_s", "tokens_per_rollout_s", "tokens_per_s"):
        table.add_row(f"{name}, ratio", *(f"{r[name] / base[name]:.2f}" for r in reports.values()))
    Console().print(table)
