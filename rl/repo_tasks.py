"""Small repositories with one planted bug each: an endless source of software-engineering tasks that needs no files.

A task is a package of two modules with a README and visible tests, one of which fails. The user reports what is wrong.
Hidden tests pass with the bug mended and fail with it. As in ``rl.procedural`` the report's text alone decides whether
a task is held out.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from rl.procedural import is_held_out
from rl.repo_programs import PROGRAMS
from rl.types import Task


def repository(rng: random.Random) -> tuple[str, dict[str, Any]]:
    """A report of what is wrong, and the task's fields: ``files``, ``tests`` and ``gold``, all path to text."""
    program = rng.choice(PROGRAMS)
    bug = rng.choice(program.bugs)
    words = {name: rng.choice(choices) for name, choices in program.words.items()}
    package, module = words["package"], words["module"]

    def filled(text: str) -> str:
        for name, word in words.items():
            text = text.replace(f"<{name}>", word)
        return text

    right = filled(program.source)
    wrong = right.replace(filled(bug.right), filled(bug.wrong))
    calls = [filled(call) for call in program.calls]
    values = [value_of(call, right) for call in calls]
    shown = [i for i, call in enumerate(calls) if value_of(call, wrong) != values[i]]
    kept = [i for i in range(len(calls)) if i not in shown]
    files = {
        f"{package}/__init__.py": f'"""{program.purpose}"""\n',
        f"{package}/{module}.py": wrong,
        f"{package}/report.py": filled(program.user),
        "tests/__init__.py": "",
        f"tests/test_{module}.py": _tests(package, module, [(calls[i], values[i]) for i in (*kept[:1], shown[0])]),
        "README.md": f"# {package}\n\n{program.purpose} Run the tests with `python3 -m unittest`.\n",
    }
    hidden = _tests(package, module, list(zip(calls, values, strict=True)))
    fields = {"files": files, "tests": {"test_hidden.py": hidden}, "gold": {f"{package}/{module}.py": right}}
    return f"In the repository {package}: {filled(bug.report)} Please mend it; do not change the tests.", fields


def value_of(call: str, source: str) -> str:
    """What a call comes to in a module, as a Python literal, or the name of what it raises."""
    names: dict[str, Any] = {}
    exec(source, names)  # noqa: S102 - our own constants
    try:
        return repr(eval(call, names))  # noqa: S307 - likewise
    except Exception as error:  # noqa: BLE001 - a broken program may raise anything
        return type(error).__name__


def _tests(package: str, module: str, cases: Sequence[tuple[str, str]]) -> str:
    names = sorted({call.partition("(")[0] for call, _ in cases})
    lines = ["import unittest", "", f"from {package}.{module} import {', '.join(names)}", "", "",
             f"class Test{module.title()}(unittest.TestCase):"]  # fmt: skip
    for number, (call, value) in enumerate(cases):
        lines += [f"    def test_{number}(self):", f"        self.assertEqual({call}, {value})", ""]
    return "\n".join(lines)


class RepoTasks:
    """Repositories with a planted bug, without end, for the environment ``workspace``.

    Each task has ``fields["files"]`` (the repository), ``fields["tests"]`` (hidden) and ``fields["gold"]`` (the files
    that mend it), all path to text.
    """

    size = None

    def __init__(self, *, seed: int = 0, held_out: bool = False) -> None:
        self._seed, self._held_out = seed, held_out

    def task_at(self, index: int) -> Task:
        rng = random.Random(f"repos/{self._seed}/{self._held_out}/{index}")
        while True:
            report, fields = repository(rng)
            if is_held_out(report) == self._held_out:
                break
        return Task(
            id=f"repo-{index}",
            kind="swe",
            messages=({"role": "user", "content": report},),
            fields=fields,
            env="workspace",
            tags=("repo",),
        )
