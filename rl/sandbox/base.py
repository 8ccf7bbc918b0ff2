"""Judging a program by its tests where it can do no harm: the contract that every isolation serves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

Style = Literal["asserts", "stdio", "pytest"]


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What one judged program may use. Memory is address space per process."""

    wall_s: float = 10.0
    """For the whole job, all tests together."""
    test_s: float = 5.0
    """For one run of a program in the ``stdio`` style."""
    cpu_s: int = 10
    memory_mib: int = 512
    processes: int = 8
    disk_mib: int = 16
    output_kib: int = 256


@dataclass(frozen=True, kw_only=True)
class CodeJob:
    """A program and how to judge it.

    ``asserts``: each test is code that raises if it fails and calls the program's functions by name. ``pytest``: the
    tests are parts of one pytest file that imports the program as ``module``. ``stdio``: each test is a mapping with
    ``stdin`` and ``stdout``. ``setup`` is the task's own code, run before the tests and never with the program.
    """

    source: str
    tests: Sequence[Any]
    style: Style = "asserts"
    setup: str = ""
    entry_points: Sequence[str] = ()
    """Names that the tests take from the program, even where the setup defines them; found by themselves if empty."""
    module: str = "solution"
    limits: Limits = field(default_factory=Limits)


@dataclass(frozen=True, kw_only=True)
class TestResult:
    """One test's verdict."""

    name: str
    passed: bool
    detail: str = ""


class Runner(Protocol):
    """Something that judges programs. A container or a remote service takes this place by implementing it."""

    def judge(self, job: CodeJob) -> list[TestResult]:
        """One result per test. The program's faults are failed tests; raises ``ToolMissingError`` for its own."""
        ...

    def close(self) -> None: ...


def same_output(said: str, wanted: str) -> bool:
    """Whether two program outputs agree token by token; spaces and line ends do not count."""
    return said.split() == wanted.split()


def stdio_case(test: Mapping[str, Any]) -> tuple[str, str]:
    """A ``stdio`` test's input and wanted output. Raises ``ValueError`` if it has none."""
    if not isinstance(test, Mapping) or not {"stdin", "stdout"} <= set(test):
        raise ValueError(f"a stdio test must have stdin and stdout, got {test}")
    return str(test["stdin"]), str(test["stdout"])
