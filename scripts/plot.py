"""Curves of runs as a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rl.tracking.files import read_metrics

Records = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Panel:
    """One measured metric over iterations, with its interval where the run has ``<metric>/low`` and ``/high``."""

    metric: str
    title: str
    faint: str = ""
    """A metric to draw behind it, iteration by iteration."""


PANELS = (
    Panel("eval/pass_rate", "Held-out pass rate; faint: training reward", "reward/mean"),
    Panel("critic/guard/accuracy", "Critic: accuracy on held-out pairs; faint: its weight", "critic/weight"),
    Panel("eval/open/score", "Open-ended replies: share that is true"),
    Panel("critic/guard/open/order_flip_rate", "Critic: order flips on open-ended pairs"),
)
"""Those that no run has measured are left out."""


def plot(run_folders: Sequence[Path], output: Path) -> None:
    """Draw what the runs have measured. Raises ``ValueError`` for a folder without metrics."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    runs = {folder: read_metrics(folder) for folder in run_folders}
    for folder, records in runs.items():
        if not records:
            raise ValueError(f"a run folder must hold metrics.jsonl, got {folder} without it")
    panels = [p for p in PANELS if any(p.metric in r for records in runs.values() for r in records)] or [PANELS[0]]
    rows = (len(panels) + 1) // 2
    figure, axes = pyplot.subplots(
        rows, min(2, len(panels)), figsize=(7.5 * min(2, len(panels)), 4.2 * rows), layout="constrained", squeeze=False
    )
    for number, axis in enumerate(axes.flat):
        if number >= len(panels):
            axis.set_axis_off()
            continue
        for place, (folder, records) in enumerate(runs.items()):
            _draw(axis, panels[number], records, colour=f"C{place}", label=folder.name)
        axis.set(xlabel="iteration", ylim=(0, 1), title=panels[number].title)
        axis.grid(alpha=0.3)
        axis.legend(loc="lower right")
    figure.savefig(output, dpi=110)
    print(output)


def _draw(axis: Any, panel: Panel, records: Records, *, colour: str, label: str) -> None:
    if panel.faint:
        behind = [r for r in records if panel.faint in r]
        axis.plot([r["iteration"] for r in behind], [r[panel.faint] for r in behind], color=colour, alpha=0.35)
    measured = [r for r in records if panel.metric in r]
    values = [r[panel.metric] for r in measured]
    spread = None
    if all(f"{panel.metric}/low" in r for r in measured):
        spread = [
            [r[panel.metric] - r[f"{panel.metric}/low"] for r in measured],
            [r[f"{panel.metric}/high"] - r[panel.metric] for r in measured],
        ]
    axis.errorbar(
        [r["iteration"] for r in measured], values, yerr=spread, color=colour, marker="o", capsize=3, label=label
    )
