"""Repositories in real sandboxes: what the policy can do there, what comes of it, and what does not pay."""

import asyncio
import json
import time

import pytest

from envs.workspace import CHANGED_CHARS, Workspace
from rewards.workspace import WorkspaceReward
from rl.errors import ToolMissingError
from rl.repo_tasks import RepoTasks
from rl.sandbox import isolation
from rl.sandbox.session import SessionLostError
from rl.types import EndReason, Rollout, Task

pytestmark = pytest.mark.skipif(isolation.problem() is not None, reason=str(isolation.problem()))

FILES = {
    "maths/__init__.py": "",
    "maths/sums.py": "def add(a, b):\n    return a - b\n",
    "tests/__init__.py": "",
    "tests/test_sums.py": "import unittest\n\nfrom maths.sums import add\n\n\nclass Test(unittest.TestCase):\n"
    "    def test_add(self):\n        self.assertEqual(add(2, 0), 2)\n",
    "notes.txt": "one\r\ntwo\nthree\n",
}
HIDDEN = """
import unittest

from maths.sums import add

class Test(unittest.TestCase):
    def test_add(self):
        self.assertEqual(add(2, 3), 5)

    def test_lists(self):
        self.assertEqual(add([1], [2]), [1, 2])
"""
TASK = Task(
    id="t",
    kind="swe",
    messages=({"role": "user", "content": "add subtracts"},),
    fields={"files": FILES, "tests": {"test_hidden.py": HIDDEN}},
)
GOLD = {"maths/sums.py": "def add(a, b):\n    return a + b\n"}


def call(name, **arguments):
    part = {"id": f"functions.{name}:0", "type": "function", "function": {"name": name, "arguments": arguments}}
    return {"role": "assistant", "content": "", "tool_calls": [part]}


def shell(command):
    return call("shell", command=command)


DONE = {"role": "assistant", "content": "Done."}


def play(*turns, **settings):
    """What the tools said to each turn, and the last step."""

    async def work():
        env = Workspace(**settings)
        try:
            await env.reset(TASK)
            steps = [await env.step(turn) for turn in turns]
        finally:
            await env.close()
        return [m["content"] for step in steps for m in step.messages], steps[-1]

    return asyncio.run(work())


def test_tools_share_one_sandbox_and_the_outcome_is_what_changed():
    said, last = play(
        shell("cat maths/sums.py; ls /tmp; ls tests"),
        call("replace", path="maths/sums.py", old="a - b", new="a + b"),
        call("write_file", path="docs/new.txt", text="hello\n"),
        shell("rm tests/test_sums.py; cat docs/new.txt; chmod 000 docs/new.txt; false"),
        call("read_file", path="maths/sums.py"),
        call("read_file", path="notes.txt", first_line=2, last_line=2),
        DONE,
    )
    assert said == [
        "def add(a, b):\n    return a - b\nrepo\n__init__.py\ntest_sums.py",
        "changed maths/sums.py",
        "wrote docs/new.txt",
        "hello\n[exit status 1]",
        "def add(a, b):\n    return a + b\n",
        "two\n",
    ]
    assert last.end is EndReason.STOP
    assert last.outcome["files"] == {**GOLD, "tests/test_sums.py": None}
    assert "-    return a - b\n+    return a + b" in last.outcome["patch"]
    json.dumps(last.outcome)


def test_visible_tests_run_and_say_the_same_every_time():
    said, _ = play(*[shell("python3 -m unittest; python3 -c 'print({*\"abcdef\"})'")] * 3)
    assert "FAILED" not in said[0]
    assert "Ran 1 test in 0.000s" in said[0]
    assert len(set(said)) == 1


@pytest.mark.parametrize(
    ("turn", "error"),
    [
        (call("replace", path="maths/sums.py", old="a", new="b"), "in maths/sums.py exactly once, and is 3 times"),
        (call("replace", path="maths/sums.py", old="x * y", new="b"), "and is 0 times"),
        (call("read_file", path="nothing.py"), "No such file"),
        (call("read_file", path="maths"), "is not a file"),
        (call("read_file", path="/dev/zero"), "is not a file"),
        (call("read_file", path="notes.txt", first_line=9), "notes.txt has lines 1 to 3"),
        (call("read_file", path="notes.txt", first_line=0), "less than the minimum of 1"),
        (call("write_file", path="maths", text=""), "Is a directory"),
        (call("write_file", path="a\0", text=""), "null byte"),
        (call("shell"), "'command' is a required property"),
    ],
)  # fmt: skip
def test_what_cannot_be_done_comes_back_to_the_policy(turn, error):
    (said,), last = play(turn, DONE)
    assert said.startswith("error: ")
    assert error in said
    assert last.outcome == {"files": {}, "patch": ""}


def test_turns_are_limited_and_the_work_until_then_counts():
    _, last = play(shell("echo x > new"), shell("echo y > new"), turns=2)
    assert last.end is EndReason.TURN_LIMIT
    assert last.outcome["files"] == {"new": "x\n"}


def test_a_slow_command_is_ended_and_the_work_is_kept():
    started = time.monotonic()
    (_, slow, still), _ = play(
        shell("echo x > new"), shell("echo begun; sleep 60"), shell("cat new"), limits={"wall_s": 2.5}
    )
    assert slow == "begun\n[ended after 2 s]"
    assert still == "x"
    assert time.monotonic() - started < 10


def test_a_policy_that_ends_its_sandbox_starts_over():
    (_, died, fresh), last = play(shell("echo x > new"), shell("kill -9 -1; sleep 5"), shell("ls"), DONE)
    assert "all files are again what they were at the beginning" in died
    assert fresh == "maths\nnotes.txt\ntests"
    assert last.outcome["files"] == {}


def test_traps_and_floods_are_no_fault_of_the_environment():
    _, trapped = play(
        shell("mkfifo a; ln -s /dev/zero b; ln -s b c; printf '\\377' > d; touch $(printf 'e\\377')"), DONE
    )
    assert trapped.outcome["files"] == {}
    _, much = play(shell(f"head -c {CHANGED_CHARS} /dev/zero | tr '\\0' x > new"), DONE)
    assert much.outcome["files"] == {}
    assert "changed files must have at most" in much.outcome["problem"]
    _, flood = play(shell("head -c 5000000 /dev/zero > new"), DONE)
    assert "files must have at most" in flood.outcome["problem"]


def test_a_sandbox_that_cannot_be_read_is_a_fault():
    async def work():
        env = Workspace()
        try:
            await env.reset(TASK)
            await env.step(shell("(sleep 0.3; kill -9 -1) > /dev/null 2>&1 &"))
            await asyncio.sleep(1)
            await env.step(DONE)
        finally:
            await env.close()

    with pytest.raises(SessionLostError):
        asyncio.run(work())


def test_wrong_tasks_and_machines_without_a_sandbox(monkeypatch):
    with pytest.raises(ValueError, match="task t: files must map at least one path to a text"):
        asyncio.run(Workspace().reset(Task(id="t", kind="swe", messages=())))
    monkeypatch.setattr(isolation, "problem", lambda: "bubblewrap is not installed")
    with pytest.raises(ToolMissingError, match="bubblewrap is not installed"):
        Workspace()
    with pytest.raises(ToolMissingError, match="bubblewrap is not installed"):
        WorkspaceReward()


@pytest.fixture(scope="module")
def reward():
    return WorkspaceReward(limits={"wall_s": 20})


def ended(files):
    return Rollout(
        task_id="t", segments=(), messages=(), end_reason=EndReason.STOP, outcome={"files": files, "patch": ""}
    )


def test_the_hidden_tests_decide(reward):
    assert reward(TASK, ended(GOLD)).parts == {"changed": 1.0, "tests_passed": 1.0}
    assert reward(TASK, ended(GOLD)).value == 1
    assert reward(TASK, ended({})).value == 0
    half = reward(TASK, ended({"maths/sums.py": "def add(a, b):\n    return int(a) + int(b)\n"}))
    assert (half.value, half.parts["tests_passed"]) == (0, 0.5)
    assert reward(TASK, ended({"maths/sums.py": None})).value == 0
    before_any_turn = Rollout(task_id="t", segments=(), messages=(), end_reason=EndReason.STOP)
    assert reward(TASK, before_any_turn).value == 0


def test_a_solution_may_span_several_files(reward):
    files = {
        "maths/sums.py": "from maths.more import plus as add\nfrom .kinds import Wrong\n",
        "maths/more.py": "def plus(a, b):\n    return a + b\n",
        "maths/kinds.py": "class Wrong(ValueError):\n    pass\n",
    }
    assert reward(TASK, ended(files)).value == 1


EXIT = "import os\nprint('OK')\nos._exit(0)\n"
PATCHED = """
import sys, unittest
for name in dir(unittest.TestCase):
    if name.startswith("assert"):
        setattr(unittest.TestCase, name, lambda self, *a, **k: None)
unittest.TestCase.run = lambda self, result=None: result
"""
AGREEABLE = """
class Yes:
    def __eq__(self, other):
        return True
    def __ne__(self, other):
        return False
    def __bool__(self):
        return True

def add(a, b):
    return Yes()
"""
CHEATS = {
    "site": dict.fromkeys(("sitecustomize.py", "usercustomize.py", "conftest.py", "tests/conftest.py"), EXIT),
    "shadowed unittest": {
        "unittest/__init__.py": "class TestCase:\n    pass\ndef main(*a, **k):\n    raise SystemExit(0)\n",
        "pytest.py": EXIT,
        "solution.py": "def attribute(*a):\n    return lambda *a: 5\n",
    },
    "exit": {"maths/__init__.py": EXIT},
    "late exit": {"maths/sums.py": "import os\ndef add(a, b):\n    os._exit(0)\n"},
    "patched asserts": {"maths/__init__.py": PATCHED},
    "equal to everything": {"maths/sums.py": AGREEABLE},
    "own tests": {"test_hidden.py": "", "tests/test_hidden.py": "", "pytest.ini": "[pytest]\ncollect_ignore_glob=*\n"},
    "skip": {"maths/sums.py": "import unittest\ndef add(a, b):\n    raise unittest.SkipTest('no')\n"},
}


@pytest.mark.parametrize("files", CHEATS.values(), ids=CHEATS.keys())
def test_cheats_gain_nothing_and_do_not_spoil_a_right_solution(reward, files):
    assert reward(TASK, ended(files)).value == 0
    assert reward(TASK, ended(GOLD)).value == 1


def test_a_sandbox_that_does_not_work_is_a_fault_and_no_zero(monkeypatch):
    broken = WorkspaceReward()
    honest = isolation.bubblewrap

    def without_the_program(arguments, **options):
        return ["/bin/false"] if "judged.py" in arguments[0] else honest(arguments, **options)

    monkeypatch.setattr(isolation, "bubblewrap", without_the_program)
    with pytest.raises(ToolMissingError, match="a sandbox for the repository of task t did not work"):
        broken(TASK, ended(GOLD))


@pytest.mark.slow
def test_procedural_repositories_fail_as_they_are_and_pass_with_the_gold_patch_every_time(reward):
    source = RepoTasks(seed=0)
    for index in range(20):
        task = source.task_at(index)
        for _ in range(3):
            assert reward(task, ended({})).value == 0, task.messages
            assert reward(task, ended(task.fields["gold"])).value == 1, task.messages
