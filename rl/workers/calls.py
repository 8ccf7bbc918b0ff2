"""Waiting for remote calls: always with a deadline, and with a failure that says who failed, and its last words."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayActorError, RayError, RayTaskError

from rl.errors import WorkerFailedError

LOG_LINES = 20
"""How much of a dead worker's log is quoted, of its output and its errors each."""
_LOG_BYTES = 8192
_MARK = re.compile(r":(job_id|actor_name|task_name):")
_GRACE_S = 2.0
"""A rank that dies fails those that talk to it, and often that is known before its death is. So long the others are
waited for, to name the one that died."""


def wait_all(calls: Mapping[str, Any], *, deadline_s: float) -> list[Any]:
    """Results of remote calls by worker name, in order.

    Returns when all are there; raises as soon as one fails. A ``ValueError`` of the worker stays one; a death, another
    exception or a missed deadline becomes ``WorkerFailedError``.
    """
    names = {ref: name for name, ref in calls.items()}
    waiting = list(names)
    results: dict[Any, Any] = {}
    while waiting:
        done, waiting = ray.wait(waiting, num_returns=1, timeout=deadline_s)
        if not done:
            raise WorkerFailedError(
                f"{', '.join(names[ref] for ref in waiting)} gave no answer within {deadline_s:.0f} s"
            )
        try:
            results[done[0]] = ray.get(done[0], timeout=60)
        except RayError as error:
            ref, cause = _cause(done[0], error, waiting)
            raise translate(names[ref], cause) from cause
    return [results[ref] for ref in names]


def _cause(ref: Any, error: RayError, others: list[Any]) -> tuple[Any, RayError]:
    """The call whose worker died, if one did, and how; else the one that failed with ``error``."""
    if not isinstance(error, RayTaskError) or isinstance(error.cause, ValueError) or not others:
        return ref, error
    ended, _ = ray.wait(others, num_returns=len(others), timeout=_GRACE_S)
    for other in ended:
        try:
            ray.get(other, timeout=0)
        except RayActorError as death:
            return other, death
        except RayError:
            continue
    return ref, error


def translate(name: str, error: BaseException) -> Exception:
    """The exception to raise for a failed call."""
    if isinstance(error, RayTaskError) and isinstance(error.cause, ValueError):
        return error.cause
    text = str(error).strip()
    if isinstance(error, RayActorError):
        text += _last_words(text)
    return WorkerFailedError(f"{name} failed: {text}")


def _last_words(report: str) -> str:
    """The end of a dead worker's log, or where it lies. Empty if Ray's ``report`` of the death does not tell."""
    pid, address = (re.search(rf"^\s*{label}: (\S+)$", report, re.MULTILINE) for label in ("pid", "ip"))
    node = ray._private.worker.global_worker.node  # the public ways to a log need Ray's dashboard
    if pid is None or node is None:
        return ""
    folder, name = Path(node.get_logs_dir_path()), f"worker-*-{pid[1]}"
    if address is not None and address[1] != node.node_ip_address:
        return f"\nits log is on node {address[1]}: {folder / name}.out and .err"
    said = ""
    for ending in ("out", "err"):
        # Should the number have been another worker's before, that one's log is older.
        log = max(folder.glob(f"{name}.{ending}"), key=lambda path: path.stat().st_mtime, default=None)
        lines = [] if log is None else _last_lines(log)
        if lines:
            said += f"\nthe end of {log}:\n" + "\n".join(f"  {line}" for line in lines)
    return said


def _last_lines(log: Path) -> list[str]:
    """Without those by which Ray marks whose they are; none if the file cannot be read."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - _LOG_BYTES))
            lines = file.read().decode(errors="replace").splitlines()
    except OSError:
        return []
    return [line for line in lines if line.strip() and not _MARK.match(line)][-LOG_LINES:]
