"""Judges programs on this machine: the program in one sandbox, made for it and thrown away, the tests in another.

    reward ── control socket ──► harness (tests; lives on, forks per job)
      └── starts ──► judged program ◄── data socket ── harness

The program never shares a process or a file system with the tests, and what it sends back is data.
"""

from __future__ import annotations

import array
import os
import socket
import subprocess
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rl.errors import ToolMissingError
from rl.sandbox import isolation
from rl.sandbox.base import CodeJob, TestResult, same_output, stdio_case
from rl.sandbox.guest import wire

START_S = 60.0
"""Longest time until a sandbox answers."""


class LocalRunner:
    """Serves one job at a time.

    Args:
        allow_unsandboxed: run programs with nothing but resource limits where bubblewrap does not work.
        packages: folders of Python packages that programs may import besides the standard library.

    Raises ``ToolMissingError`` if programs cannot be isolated and that was not allowed.

    """

    def __init__(self, *, allow_unsandboxed: bool = False, packages: Sequence[str] = ()) -> None:
        reason = isolation.problem()
        if reason is not None and not allow_unsandboxed:
            raise ToolMissingError(reason)
        self._isolated = reason is None
        self._packages = [str(Path(p).resolve()) for p in packages]
        self._harnesses: dict[bool, _Harness] = {}
        """With and without pytest."""

    def judge(self, job: CodeJob) -> list[TestResult]:
        """See ``rl.sandbox.base.Runner``."""
        if job.style != "stdio":
            self._start_harness(with_pytest=job.style == "pytest")
        deadline = time.monotonic() + job.limits.wall_s
        near, far = socket.socketpair()
        with near:
            program = self._start_program(job, far)
            far.close()
            try:
                wire.send(near, asdict(job.limits) | {"paths": self._packages})
                if job.style == "stdio":
                    return self._stdio(job, near, deadline)
                return self._with_tests(job, near, deadline)
            finally:
                program.kill()
                program.wait()

    def close(self) -> None:
        for harness in self._harnesses.values():
            harness.close()
        self._harnesses.clear()

    def _start_program(self, job: CodeJob, link: socket.socket) -> subprocess.Popen[bytes]:
        return start_guest(
            ["judged.py", str(link.fileno())],
            link,
            isolated=self._isolated,
            disk_mib=job.limits.disk_mib,
            paths=self._packages,
        )

    def _stdio(self, job: CodeJob, link: socket.socket, deadline: float) -> list[TestResult]:
        results = []
        for number, test in enumerate(job.tests):
            stdin, wanted = stdio_case(test)
            said = _ask(link, {"do": "run", "source": job.source, "stdin": stdin}, deadline)
            output, status = said.get("output"), said.get("status", "died")
            passed = status == 0 and said.get("cut") is False and same_output(str(output), wanted)
            results.append(TestResult(name=str(number), passed=passed, detail="" if passed else f"exit {status}"[:100]))
        return results

    def _start_harness(self, *, with_pytest: bool) -> None:
        if with_pytest not in self._harnesses:
            paths = _pytest_paths() if with_pytest else []
            self._harnesses[with_pytest] = _Harness(paths, isolated=self._isolated)

    def _with_tests(self, job: CodeJob, link: socket.socket, deadline: float) -> list[TestResult]:
        harness = self._harnesses[job.style == "pytest"]
        results, whole = harness.run(job, link, deadline)
        if harness.broken:
            harness.close()
            del self._harnesses[job.style == "pytest"]
        if job.style == "pytest":
            # How many tests a file holds is known only if it ran to its end.
            return results if whole and results else [*results, TestResult(name="file", passed=False, detail="cut off")]
        seen = {r.name: r for r in results}
        reason = next((r.detail for r in results if r.name in ("load", "setup")), "not reached in time")
        missing = TestResult(name="", passed=False, detail=reason)
        return [seen.get(str(i), missing) for i in range(len(job.tests))]


class _Harness:
    """The process that runs tests. ``broken`` once it missed a deadline or died."""

    def __init__(self, paths: Sequence[str], *, isolated: bool) -> None:
        self._control, far = socket.socketpair()
        self.broken = False
        with far:
            arguments = ["harness.py", str(far.fileno()), *paths]
            self._process = start_guest(arguments, far, isolated=isolated, disk_mib=16, paths=paths)
        try:
            self._control.settimeout(START_S)
            wire.receive(self._control)
        except (OSError, EOFError, ValueError) as error:
            self.close()
            raise ToolMissingError(f"the sandbox for tests did not start: {error!r}") from error

    def run(self, job: CodeJob, link: socket.socket, deadline: float) -> tuple[list[TestResult], bool]:
        """Results of the tests that got as far as one, and whether that is all of them."""
        request = {
            "style": job.style, "source": job.source, "setup": job.setup, "tests": list(job.tests),
            "entry_points": list(job.entry_points), "module": job.module, "wall_s": job.limits.wall_s,
        }  # fmt: skip
        results: list[TestResult] = []
        try:
            fds = array.array("i", [link.fileno()])
            self._control.sendmsg([b"j"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fds)])
            wire.send(self._control, request)
            while True:
                self._control.settimeout(max(0.001, deadline - time.monotonic()))
                message = wire.receive(self._control)
                if "done" in message:
                    return results, True
                results.append(
                    TestResult(name=message["test"], passed=message["passed"], detail=message.get("detail", ""))
                )
        except (OSError, EOFError, ValueError):
            # A ValueError is a message that a killed job left unfinished: what follows on the socket cannot be read.
            self.broken = True
            return results, False

    def close(self) -> None:
        self._control.close()
        self._process.kill()
        self._process.wait()


def start_guest(
    arguments: Sequence[str], link: socket.socket, *, isolated: bool, disk_mib: int, paths: Sequence[str]
) -> subprocess.Popen[bytes]:
    """Start a program of ``rl/sandbox/guest``, the first of ``arguments``, with ``link`` open in it."""
    guest, *rest = arguments
    if isolated:
        command = isolation.bubblewrap([f"/guest/{guest}", *rest], disk_mib=disk_mib, paths=paths)
    else:
        command = isolation.unsandboxed([str(isolation.GUEST / guest), *rest])
    return subprocess.Popen(  # noqa: S603 - our own command
        command,
        pass_fds=[link.fileno()],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={"PATH": os.environ.get("PATH", "/usr/bin:/bin")},
    )


def _ask(link: socket.socket, request: dict[str, Any], deadline: float) -> dict[str, Any]:
    """A program's answer as it came, empty if there is none in time or it makes no sense: nothing in it is trusted."""
    try:
        link.settimeout(max(0.001, deadline - time.monotonic()))
        wire.send(link, request)
        value = wire.receive(link).get("value")
    except (OSError, EOFError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def _pytest_paths() -> list[str]:
    """The folder of installed packages that holds pytest. Raises ``ToolMissingError`` if there is none."""
    import importlib.util

    found = importlib.util.find_spec("pytest")
    if found is None or found.origin is None:
        raise ToolMissingError("code tasks with pytest files need pytest: pip install pytest")
    return [str(Path(found.origin).parent.parent)]
