"""Code: whether the program in the reply passes the task's unit tests.

The program runs in a sandbox (``rl.sandbox``), apart from its tests. Without a working sandbox this reward refuses to
start.
"""

from __future__ import annotations

import atexit
import re
from collections.abc import Mapping, Sequence
from typing import Any

from rewards.base import Declaration
from rl.plugins import build
from rl.sandbox.base import CodeJob, Limits, Runner
from rl.types import Rollout, Score, Task

STYLES = ("asserts", "stdio", "pytest")
_FENCE = re.compile(r"```[ \t]*([A-Za-z0-9_+-]*)[^\n]*\n(.*?)(?:```|\Z)", re.DOTALL)


class CodeReward:
    """Share of the tests that the program in the reply passes, or 1 for all and 0 otherwise.

    Task fields: ``tests`` (see ``CodeJob``; a list, or text for one), and optionally ``test_style`` (``asserts``, which
    is the default, ``stdio`` or ``pytest``), ``setup`` (the task's own code that tests need), ``entry_points``, and
    ``prefix`` (put before the program, for tasks that begin a function).

    Args:
        partial_credit: score the share of tests passed instead of all or nothing.
        allow_unsandboxed: accept running programs without isolation where bubblewrap does not work.
        packages: folders of Python packages that programs may import besides the standard library.
        limits: settings of ``rl.sandbox.base.Limits`` for one program.
        runner: a mapping with ``_target_`` for something else that judges programs (a container, a remote service).

    """

    declaration = Declaration(low=0.0, high=1.0, fields=("tests",))

    def __init__(
        self,
        *,
        partial_credit: bool = False,
        allow_unsandboxed: bool = False,
        packages: Sequence[str] = (),
        limits: Mapping[str, Any] | None = None,
        runner: Mapping[str, Any] | None = None,
    ) -> None:
        self._partial_credit = partial_credit
        self._limits = Limits(**(limits or {}))
        self._runner = _runner(runner, allow_unsandboxed, packages)
        atexit.register(self._runner.close)

    def __call__(self, task: Task, rollout: Rollout) -> Score:
        source = program(rollout.completion)
        if source is None:
            return Score(value=0.0, parts={"has_program": 0.0})
        results = self._runner.judge(job(task, source, self._limits))
        share = sum(r.passed for r in results) / len(results)
        value = share if self._partial_credit else float(share == 1.0)
        return Score(value=value, parts={"has_program": 1.0, "tests_passed": share})


def _runner(spec: Mapping[str, Any] | None, allow_unsandboxed: bool, packages: Sequence[str]) -> Runner:
    if spec is not None:
        return build(spec, name="reward.runner")  # type: ignore[no-any-return]
    from rl.errors import ToolMissingError
    from rl.sandbox.runner import LocalRunner

    try:
        return LocalRunner(allow_unsandboxed=allow_unsandboxed, packages=packages)
    except ToolMissingError as error:
        raise ValueError(str(error)) from error


def job(task: Task, source: str, limits: Limits) -> CodeJob:
    """What the runner is asked for a task and a program. Raises ``ValueError`` for a malformed task."""
    fields = task.fields
    style = str(fields.get("test_style", "asserts"))
    tests = [fields["tests"]] if isinstance(fields["tests"], str | Mapping) else list(fields["tests"])
    if style not in STYLES or not tests:
        raise ValueError(f"task {task.id}: test_style must be one of {', '.join(STYLES)} with tests, got {style!r}")
    points = fields.get("entry_points", ())
    return CodeJob(
        source=str(fields.get("prefix", "")) + source,
        tests=tests,
        style=style,  # type: ignore[arg-type]
        setup=str(fields.get("setup", "")),
        entry_points=(points,) if isinstance(points, str) else tuple(points),
        limits=limits,
    )


def program(reply: str) -> str | None:
    """The program in a reply: its last fenced block that is Python or unnamed, or the whole reply without any fence."""
    blocks = [body for name, body in _FENCE.findall(reply) if name.lower() in ("", "python", "python3", "py")]
    if blocks:
        return str(blocks[-1])
    return reply if reply.strip() and "```" not in reply else None
