"""Reward curves as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rl.tracking.files import read_metrics


def plot(run_folders: Sequence[Path], output: Path) -> None:
    """Draw training reward and held-out pass rate of each run. Raises ``ValueError`` for a folder without metrics."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 4.5), layout="constrained")
    for number, folder in enumerate(run_folders):
        records = read_metrics(folder)
        if not records:
            raise ValueError(f"a run folder must hold metrics.jsonl, got {folder} without it")
        colour = f"C{number}"
        trained = [r for r in records if "reward/mean" in r]
        tested = [r for r in records if "eval/pass_rate" in r]
        axes.plot([r["iteration"] for r in trained], [r["reward/mean"] for r in trained], color=colour, alpha=0.35)
        rates = [r["eval/pass_rate"] for r in tested]
        spread = [
            [r["eval/pass_rate"] - r["eval/pass_rate/low"] for r in tested],
            [r["eval/pass_rate/high"] - r["eval/pass_rate"] for r in tested],
        ]
        axes.errorbar(
            [r["iteration"] for r in tested], rates, yerr=spread, color=colour, marker="o", capsize=3, label=folder.name
        )
    axes.set(xlabel="iteration", ylabel="pass rate", ylim=(0, 1))
    axes.set_title("Held-out pass rate (dots, 95 %) and training reward (faint)")
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")
    figure.savefig(output, dpi=120)
    print(output)
