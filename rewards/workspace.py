"""Repositories: whether hidden tests pass with what the policy changed.

The repository and the tests never share a process or a file system (``rl.sandbox``): the tests import its modules as
proxies, and see plain data. So a repository can decide neither what a test means nor what comes of it, whatever it
patches, shadows or exits with.
"""

from __future__ import annotations

import ast
import atexit
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from rewards.base import Declaration
from rl.errors import ToolMissingError
from rl.plugins import build
from rl.sandbox.base import CodeJob, Limits, Runner
from rl.sandbox.runner import LocalRunner
from rl.types import Rollout, Score, Task

_UNPACK = """
import importlib, os, sys, types

for path, text in FILES.items():
    path = os.path.join("/tmp/repo", path)
    try:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "w", encoding="utf-8", newline="") as file:
            file.write(text)
    except (OSError, ValueError):
        pass  # no sandbox's fault: such a file cannot be
os.chdir("/tmp/repo")
sys.path.insert(0, "/tmp/repo")

def attribute(module, name):
    value = getattr(importlib.import_module(module), name)
    if isinstance(value, types.ModuleType):
        raise AttributeError(name)
    return value
"""
"""Beside the repository: puts it in place and hands out what is in its modules."""

_IMPORT = """
def _import_from_afar():
    import functools, importlib.abc, importlib.machinery, sys
    from solution import attribute

    class Modules(importlib.abc.MetaPathFinder, importlib.abc.Loader):
        def find_spec(self, name, path, target=None):
            if name.partition(".")[0] in NAMES:
                return importlib.machinery.ModuleSpec(name, self, is_package=True)

        def create_module(self, spec):
            return None

        def exec_module(self, module):
            def get(name):
                if name.startswith("__"):
                    raise AttributeError(name)
                return attribute(module.__name__, name)

            module.__getattr__ = get

    sys.meta_path.insert(0, Modules())

_import_from_afar()
"""
"""Beside the tests: modules of the repository are proxies."""


class WorkspaceReward:
    """1 if all hidden tests of the task pass on its repository with the rollout's changes, else 0.

    Task fields: ``files``, the repository as the policy found it, and ``tests``, both path to text. Each of the tests
    is a pytest file (``unittest`` classes are fine too) that imports modules and packages of the repository's top
    folder; those that are called like one of the standard library cannot be tested. Tests can hand plain data and
    built-ins to the repository's code, but no functions or objects of their own, and what they get is plain data or
    something to call and to look into. The part ``tests_passed`` is the share of the tests that pass.

    Args:
        packages: folders of Python packages that the repository may import besides the standard library.
        limits: settings of ``rl.sandbox.base.Limits``, for one file of tests.
        runner: a mapping with ``_target_`` for something else that runs tests (a container, a remote service).

    """

    declaration = Declaration(low=0.0, high=1.0, fields=("files", "tests"))

    def __init__(
        self,
        *,
        packages: Sequence[str] = (),
        limits: Mapping[str, Any] | None = None,
        runner: Mapping[str, Any] | None = None,
    ) -> None:
        self._limits = Limits(**(limits or {}))
        self._runner: Runner = build(runner, name="reward.runner") if runner else LocalRunner(packages=packages)
        atexit.register(self._runner.close)

    def __call__(self, task: Task, rollout: Rollout) -> Score:
        changed = rollout.outcome.get("files", {})
        results = [r for job in jobs(task, changed, self._limits) for r in self._runner.judge(job)]
        unpacked = [r for r in results if r.name != "load"]
        if len(unpacked) < len(results):
            # No code of the policy has run by then.
            raise ToolMissingError(f"a sandbox for the repository of task {task.id} did not work")
        share = sum(r.passed for r in results) / len(results)
        return Score(value=float(share == 1.0), parts={"changed": float(bool(changed)), "tests_passed": share})


def jobs(task: Task, changed: Mapping[str, str | None], limits: Limits) -> list[CodeJob]:
    """One job per file of tests. Raises ``ValueError`` for a task without any."""
    files, tests = task.fields["files"], task.fields["tests"]
    if not tests or not all(isinstance(text, str) for text in (*files.values(), *tests.values())):
        raise ValueError(f"task {task.id}: files and tests must be mappings of paths to texts, with at least one test")
    now = {path: text for path, text in {**files, **changed}.items() if text is not None}
    # Only the snapshot says which names are the repository's: a new file math.py must not decide what tests import.
    names = {path.partition("/")[0].removesuffix(".py") for path in files if path.endswith(".py")}
    names -= {*sys.stdlib_module_names, "pytest", "_pytest"}
    proxies = _IMPORT.replace("NAMES", repr(sorted(names)))
    return [
        CodeJob(
            source=f"FILES = {now!a}\n{_UNPACK}",
            tests=[_before_imports(text, proxies)],
            style="pytest",
            limits=limits,
        )
        for _, text in sorted(tests.items())
    ]


def _before_imports(test: str, code: str) -> str:
    """The test with code ahead of it, but not ahead of ``from __future__ import``, which must come first."""
    lines = test.splitlines(keepends=True)
    futures = [
        statement.end_lineno or 0
        for statement in ast.parse(test).body
        if isinstance(statement, ast.ImportFrom) and statement.module == "__future__"
    ]
    at = max(futures, default=0)
    return "".join(lines[:at]) + code + "".join(lines[at:])
