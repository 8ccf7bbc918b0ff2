"""Waiting for remote calls: always with a deadline, and with a failure that says who failed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayActorError, RayTaskError

from rl.errors import WorkerFailedError


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
        results[done[0]] = _result(names[done[0]], done[0])
    return [results[ref] for ref in names]


def _result(name: str, ref: Any) -> Any:
    try:
        return ray.get(ref, timeout=60)
    except RayTaskError as error:
        raise translate(name, error) from error
    except (RayActorError, GetTimeoutError) as error:
        raise translate(name, error) from error


def translate(name: str, error: BaseException) -> Exception:
    """The exception to raise for a failed call."""
    if isinstance(error, RayTaskError) and isinstance(error.cause, ValueError):
        return error.cause
    text = str(error).strip()
    return WorkerFailedError(f"{name} failed: {text}")
