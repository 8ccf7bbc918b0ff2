"""Checkpoints: written aside, then renamed, so that whatever is there under its final name was complete when it was.

What happens to it afterwards shows when it is read: size and digest of every file are in ``state.json``.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

STATE = "state.json"
_PREFIX = "iteration-"
_ASIDE = ".writing-"
_BLOCK = 4 * 2**20
_THREADS = 8
"""Files digested at once; hashing releases the GIL."""


@dataclass(frozen=True, kw_only=True)
class RunState:
    """Where a run stands after an iteration. With the trainer's own files, all that is needed to go on."""

    iteration: int
    """Iterations done."""
    stream: dict[str, Any]
    """State of the training tasks' stream."""
    version: int
    """Optimizer steps done."""
    weights: str
    """Digest of the weights that were published last, empty if it is not known."""
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
        self._checked: dict[Path, RunState | str] = {}
        """What was found in those that were read: the state, or what is wrong."""
        self.saved = 0
        """Iteration of the one saved last, 0 before."""

    @property
    def damage(self) -> list[str]:
        """What is wrong with the checkpoints that ``newest`` passed over."""
        return [found for found in self._checked.values() if isinstance(found, str)]

    def newest(self) -> tuple[RunState, Path] | None:
        """State and folder of the newest checkpoint whose every file is as it was written, None if there are none.

        The files are read once, however often this is called. Raises ``ValueError`` if there are only damaged ones.
        """
        folders = self._all()
        for path in reversed(folders):
            found = self._check(path)
            if isinstance(found, RunState):
                return found, path
        if not folders:
            return None
        raise ValueError(
            f"{self._folder} must hold an intact checkpoint, got only damaged ones ({'; '.join(self.damage)}); restore "
            "one from a copy, or choose another name or folder"
        )

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
        record = asdict(state) | {"files": _digests(aside, _files_in(aside))}
        (aside / STATE).write_text(json.dumps(record | {"digest": _digest_of(record)}, indent=2) + "\n")
        _sync(aside)
        if final.exists():
            shutil.rmtree(final)
        aside.rename(final)
        _sync_folder(self._folder)
        self._checked.pop(final, None)
        self.saved = state.iteration
        self._prune()
        return final

    def _prune(self) -> None:
        """Drop what is older than the last ``keep`` checkpoints; those known to be damaged are none of them."""
        folders = self._all()
        good = [p for p in folders if (p / STATE).is_file() and not isinstance(self._checked.get(p), str)]
        oldest = good[-self._keep :][0]
        for path in folders:
            if path < oldest:
                shutil.rmtree(path)

    def _all(self) -> list[Path]:
        return sorted(path for path in self._folder.glob(f"{_PREFIX}*") if path.is_dir())

    def _check(self, path: Path) -> RunState | str:
        if path not in self._checked:
            try:
                self._checked[path] = _load(path)
            except (OSError, ValueError) as error:
                self._checked[path] = f"{path}: {error}"
        return self._checked[path]


def _load(folder: Path) -> RunState:
    """The state in a checkpoint. Raises ``OSError`` or ``ValueError`` unless every file is as it was written."""
    if not (folder / STATE).is_file():
        raise ValueError(f"{STATE} is missing")
    try:
        record = json.loads((folder / STATE).read_bytes())
    except ValueError as error:
        raise ValueError(f"{STATE} cannot be parsed: {error}") from error
    if not isinstance(record, dict) or record.pop("digest", None) != _digest_of(record):
        raise ValueError(f"{STATE} is not as it was written")
    files: dict[str, list[Any]] = record.pop("files")
    try:
        state = RunState(**record)
    except TypeError as error:
        raise ValueError(f"{STATE} is of another version of closedloop: {error}") from error
    for name, (size, _) in files.items():
        path = folder / name
        if not path.is_file():
            raise ValueError(f"{name} is missing")
        if path.stat().st_size != size:
            raise ValueError(f"{name} has {path.stat().st_size} bytes, {size} were written")
    for name, found in _digests(folder, files).items():
        if found != files[name]:
            raise ValueError(f"{name} does not hold what was written, its digest differs")
    return state


def _digest_of(record: Mapping[str, Any]) -> str:
    """Of the state itself."""
    return hashlib.blake2b(json.dumps(record).encode(), digest_size=16).hexdigest()


def _digests(folder: Path, names: Iterable[str]) -> dict[str, list[Any]]:
    """Size in bytes and digest of each of these files."""
    names = list(names)
    with ThreadPoolExecutor(_THREADS) as pool:
        return dict(zip(names, pool.map(_size_and_digest, [folder / name for name in names]), strict=True))


def _size_and_digest(path: Path) -> list[Any]:
    digest, size = hashlib.blake2b(digest_size=16), 0
    with path.open("rb", buffering=0) as file:
        for block in iter(partial(file.read, _BLOCK), b""):
            digest.update(block)
            size += len(block)
    return [size, digest.hexdigest()]


def _files_in(folder: Path) -> list[str]:
    """Relative paths of all files below the folder."""
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def _sync(folder: Path) -> None:
    """Force a folder's files to disk, so that the rename cannot become visible before their content."""
    for name in _files_in(folder):
        with (folder / name).open("rb") as file:
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
