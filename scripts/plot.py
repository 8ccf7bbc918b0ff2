"""Curves of runs as a picture."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rl.tracking.files import read_metrics

Records = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Panel:
    """One measured metric over iterations."""

    metric: str
    title: str
    faint: str = ""
    """A metric to draw behind it, iteration by iteration."""


PANELS = (
    Panel("eval/pass_rate", "Held-out pass rate; faint: training reward", "reward/mean"),
    Panel("critic/guard/accuracy", "Critic: accuracy on held-out pairs; faint: its weight", "critic/weight"),
    Panel("eval/open/score", "Open-ended replies: how true, hidden from training"),
    Panel("critic/guard/open/order_flip_rate", "Critic: order flips on open-ended pairs"),
)
"""Those that no run has measured are left out."""


def plot(run_folders: Sequence[Path], output: Path) -> None:
    """Draw what the runs have measured. Raises ``ValueError`` for a folder without metrics.

    Folders whose names differ only in a number at the end (``self-0``, ``self-1``) are one curve: their mean, with bars
    from the lowest to the highest. A run by itself has the intervals that it measured.
    """
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    curves = _curves(run_folders)
    measured = {metric for runs in curves.values() for records in runs for record in records for metric in record}
    panels = [panel for panel in PANELS if panel.metric in measured] or [PANELS[0]]
    rows = (len(panels) + 1) // 2
    figure, axes = pyplot.subplots(
        rows, min(2, len(panels)), figsize=(7.5 * min(2, len(panels)), 4.2 * rows), layout="constrained", squeeze=False
    )
    for number, axis in enumerate(axes.flat):
        if number >= len(panels):
            axis.set_axis_off()
            continue
        for place, (label, runs) in enumerate(curves.items()):
            _draw(axis, panels[number], runs, colour=f"C{place}", label=label)
        axis.set(xlabel="iteration", ylim=(0, 1.02), title=panels[number].title)
        axis.grid(alpha=0.3)
        axis.legend(loc="best")
    figure.savefig(output, dpi=110)
    print(output)


def _curves(run_folders: Sequence[Path]) -> dict[str, list[Records]]:
    """The runs by the name of their curve."""
    names = [re.sub(r"[-_]\d+$", "", folder.name) for folder in run_folders]
    curves: dict[str, list[Records]] = {}
    for folder, name in zip(run_folders, names, strict=True):
        records = read_metrics(folder)
        if not records:
            raise ValueError(f"a run folder must hold metrics.jsonl, got {folder} without it")
        several = names.count(name) > 1
        curves.setdefault(f"{name} ({names.count(name)} runs)" if several else folder.name, []).append(records)
    return curves


def _draw(axis: Any, panel: Panel, runs: Sequence[Records], *, colour: str, label: str) -> None:
    if panel.faint:
        behind = _spread(runs, panel.faint)
        axis.plot(list(behind), [mean for mean, _, _ in behind.values()], color=colour, alpha=0.35)
    points = _spread(runs, panel.metric)
    bars = [[mean - low for mean, low, _ in points.values()], [high - mean for mean, _, high in points.values()]]
    means = [mean for mean, _, _ in points.values()]
    axis.errorbar(list(points), means, yerr=bars, color=colour, marker="o", capsize=3, label=label)


def _spread(runs: Sequence[Records], metric: str) -> dict[int, tuple[float, float, float]]:
    """Mean, lower and upper end of a metric at each iteration at which all runs have it."""
    of_run = [{record["iteration"]: record for record in records if metric in record} for records in runs]
    shared = sorted(set.intersection(*(set(by_iteration) for by_iteration in of_run)))
    points = {}
    for iteration in shared:
        found = [by_iteration[iteration] for by_iteration in of_run]
        values = [record[metric] for record in found]
        ends = values
        if len(found) == 1:
            ends = [found[0].get(f"{metric}/{end}", values[0]) for end in ("low", "high")]
        points[iteration] = (sum(values) / len(values), min(ends), max(ends))
    return points
