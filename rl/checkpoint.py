"""Checkpoints: written aside, then renamed, so that whatever is there under its final name is complete."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

STATE = "state.json"
_PREFIX = "iteration-"
_ASIDE = ".writing-"


@dataclass(frozen=True, kw_only=True)
class RunState:
    """Where a run stands after an iteration. With the trainer's own files, all that is needed to go on."""

    iteration: int
    """Iterations done."""
    stream: dict[str, Any]
    """State of the training tasks' stream."""
    version: int
    """Optimizer steps done."""
    critic: dict[str, Any]
    """State of the critic, empty without one."""
    budget: dict[str, Any]
    """State of the policy that decides on budgets."""
    fingerprint: dict[str, str]
    """Settings that must not change between the parts of a run."""


class Checkpoints:
    """The checkpoints of one run folder."""

    def __init__(self, folder: Path, *, keep: int) -> None:
        self._folder = folder
        self._keep = keep

    def newest(self) -> tuple[RunState, Path] | None:
        """State and folder of the newest complete checkpoint."""
        for path in reversed(self._complete()):
            return RunState(**json.loads((path / STATE).read_text())), path
        return None

    def save(self, state: RunState, *writers: Callable[[Path], None]) -> Path:
        """Let the ``writers`` fill a new checkpoint, then make it the newest; drop all but the last ``keep``.

        If anything fails or the process dies before the end, the earlier checkpoints are as they were.
        """
        final = self._folder / f"{_PREFIX}{state.iteration:06d}"
        aside = self._folder / f"{_ASIDE}{final.name}"
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(parents=True)
        for write in writers:
            write(aside)
        (aside / STATE).write_text(json.dumps(asdict(state), indent=2) + "\n")
        _sync(aside)
        if final.exists():
            shutil.rmtree(final)
        aside.rename(final)
        _sync_folder(self._folder)
        for old in self._complete()[: -self._keep]:
            shutil.rmtree(old)
        return final

    def _complete(self) -> list[Path]:
        return sorted(p for p in self._folder.glob(f"{_PREFIX}*") if (p / STATE).is_file())


def _sync(folder: Path) -> None:
    """Force a folder's files to disk, so that the rename cannot become visible before their content."""
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
    for path in [*folder.rglob("*"), folder]:
        if path.is_dir():
            _sync_folder(path)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
