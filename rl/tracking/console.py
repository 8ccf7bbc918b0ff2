"""The console: a live table on a terminal, one line per iteration elsewhere."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from rl.types import RolloutGroup

ROWS = 12
COLUMNS = (
    ("iteration", "iteration", "{:.0f}"),
    ("reward", "reward/mean", "{:.3f}"),
    ("held-out pass", "eval/pass_rate", "{:.3f}"),
    ("critic right", "critic/guard/accuracy", "{:.3f}"),
    ("critic weight", "critic/weight", "{:.2f}"),
    ("tokens", "rollout/length/mean", "{:.1f}"),
    ("entropy", "rollout/entropy", "{:.3f}"),
    ("grad norm", "optim/grad_norm", "{:.2f}"),
    ("probe", "weights/probe_max_abs_diff", "{:.4f}"),
    ("rollout s", "time/rollout_s", "{:.2f}"),
    ("update s", "time/update_s", "{:.2f}"),
    ("publish s", "time/publish_s", "{:.2f}"),
)


def warn(text: str) -> None:
    """Tell the user, before or between the lives of a ``ConsoleTracker``, what went wrong and is being dealt with."""
    Console(stderr=True).print(f"closedloop: {text}", markup=False, emoji=False, highlight=False, soft_wrap=True)


class ConsoleTracker:
    """Shows progress; ``step`` says what happens before the first iteration."""

    def __init__(self, *, name: str, folder: Path, iterations: int, done: int = 0) -> None:
        self._console = Console()
        self._name = name
        self._folder = folder
        self._started = time.monotonic()
        self._records: list[Mapping[str, float]] = []
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=self._console,
        )
        self._bar = self._progress.add_task(name, total=iterations, completed=done)
        self._live = Live(console=self._console, get_renderable=self._picture, refresh_per_second=4)
        if self._console.is_terminal:
            self._live.start()

    def step(self, text: str) -> None:
        """Say what is being done before the first iteration."""
        self._progress.update(self._bar, description=f"{self._name}: {text}")
        if not self._console.is_terminal:
            self._say(text)

    def log(self, iteration: int, metrics: Mapping[str, float], groups: Sequence[RolloutGroup] = ()) -> None:
        record = {"iteration": float(iteration), **metrics}
        self._records.append(record)
        self._progress.update(self._bar, completed=iteration, description=self._name)
        if not self._console.is_terminal:
            cells = [f"{label} {form.format(record[key])}" for label, key, form in COLUMNS if key in record]
            self._say(", ".join(cells))

    def _say(self, text: str) -> None:
        self._console.print(f"[{time.monotonic() - self._started:6.1f} s] {text}", highlight=False, soft_wrap=True)

    def _picture(self) -> Group:
        table = Table(title=f"{self._name} · {self._folder}", title_justify="left")
        columns = [column for column in COLUMNS if any(column[1] in record for record in self._records)]
        for label, _, _ in columns:
            table.add_column(label, justify="right")
        for record in self._records[-ROWS:]:
            table.add_row(*(form.format(record[key]) if key in record else "" for _, key, form in columns))
        return Group(table, self._progress)

    def stop(self) -> None:
        """Give the terminal back."""
        self._live.stop()

    def close(self, summary: Mapping[str, float]) -> None:
        self.stop()
        for name, value in summary.items():
            self._console.print(f"  {name:32s} {value:.4g}", highlight=False)
        self._console.print(f"Everything is in {self._folder}", highlight=False)
