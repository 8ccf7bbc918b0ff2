"""Judging programs for real: right ones pass, wrong ones fail, and attacks gain nothing and leave nothing behind."""

import ast
import gzip
import json
import time
from pathlib import Path

import psutil
import pytest

from rewards.code import CodeReward
from rl.compose import REPOSITORY
from rl.errors import ToolMissingError
from rl.sandbox import isolation
from rl.sandbox.base import CodeJob, Limits
from rl.sandbox.runner import LocalRunner
from rl.types import EndReason, Rollout, Segment, Task

pytestmark = pytest.mark.skipif(isolation.problem() is not None, reason=str(isolation.problem()))

DATA = REPOSITORY / "tests/data"
ATTACKS = sorted((DATA / "red_team").glob("*.py"))
ADD_TESTS = ("assert add(1, 2) == 3", "assert add(-4, 9) == 5", "assert add(10**6, 1) == 1000001")
ESCAPED = "closedloop_escaped"


@pytest.fixture(scope="module")
def runner():
    runner = LocalRunner()
    yield runner
    runner.close()


def rows(name):
    with gzip.open(DATA / "code" / f"{name}.jsonl.gz", "rt") as lines:
        return [json.loads(line) for line in lines]


def humaneval(row, source):
    return CodeJob(
        source=row["prompt"] + source, tests=[f"{row['test']}\ncheck({row['entry_point']})"], setup=row["prompt"],
        entry_points=(row["entry_point"],), limits=Limits(wall_s=30),
    )  # fmt: skip


def mbpp(row, source):
    return CodeJob(source=source, tests=row["test_list"], setup=row["test_setup_code"], limits=Limits(wall_s=30))


def passed(results):
    return bool(results) and all(r.passed for r in results)


class Mutate(ast.NodeTransformer):
    """Every returned value changed to one that no test of it can accept."""

    def visit_Return(self, node):
        wrong = ast.parse("('mutant', None)", mode="eval").body
        return ast.copy_location(ast.Return(value=wrong), node)


def mutant(source):
    return ast.unparse(ast.fix_missing_locations(Mutate().visit(ast.parse(source))))


def test_humaneval_solutions_pass_and_mutants_fail(runner):
    data = rows("humaneval")
    assert len(data) == 164
    assert not [r["task_id"] for r in data if not passed(runner.judge(humaneval(r, r["canonical_solution"])))]
    mutants = [(r, mutant(r["prompt"] + r["canonical_solution"])) for r in data]
    assert not [r["task_id"] for r, m in mutants if passed(runner.judge(humaneval(r | {"prompt": ""}, m)))]


@pytest.mark.slow
def test_mbpp_solutions_pass_and_mutants_fail(runner):
    data = rows("mbpp")
    assert len(data) == 974
    assert not [r["task_id"] for r in data if not passed(runner.judge(mbpp(r, r["code"])))]
    assert not [r["task_id"] for r in data if passed(runner.judge(mbpp(r, mutant(r["code"]))))]


def host_state():
    """What an attack could leave on the machine: processes, files, shared memory."""
    processes = {p.pid for p in psutil.process_iter(["status"]) if p.info["status"] != psutil.STATUS_ZOMBIE}
    files = {str(p) for folder in ("/tmp", "/var/tmp", "/dev/shm", "/usr", "/etc", str(REPOSITORY))
             for p in Path(folder).glob("*")}  # fmt: skip
    shared = {kind: Path(f"/proc/sysvipc/{kind}").read_text() for kind in ("shm", "msg", "sem")}
    return processes, files, shared


def test_there_are_enough_attacks():
    assert len(ATTACKS) >= 40


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda path: path.stem)
def test_attacks_gain_nothing_and_leave_nothing(runner, attack):
    before = host_state()
    limits = Limits(wall_s=3, cpu_s=2, test_s=1, memory_mib=256)
    started = time.monotonic()
    results = runner.judge(CodeJob(source=attack.read_text(), tests=ADD_TESTS, limits=limits))
    assert time.monotonic() - started < limits.wall_s + 2
    assert len(results) == 3
    assert sum(r.passed for r in results) <= (attack.stem in ("visible_example_only", "double_reply"))
    assert not any(f"{ESCAPED}: process 1" in r.detail for r in results), "the attack saw the machine's process 1"
    honest = runner.judge(CodeJob(source="def add(a, b): return a + b", tests=ADD_TESTS))
    assert passed(honest), "the next program must be judged as if nothing had happened"
    after = host_state()
    ours = {p.pid for p in psutil.Process().children(recursive=True)}
    strays = after[0] - before[0] - ours
    deadline = time.monotonic() + 3  # what was killed takes a moment to be gone
    while (strays := {pid for pid in strays if _lives_in_a_sandbox(pid)}) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not strays
    assert not [f for f in after[1] - before[1] if ESCAPED in f]
    assert after[2] == before[2]


def _lives_in_a_sandbox(pid):
    try:
        process = psutil.Process(pid)
        dead = process.status() == psutil.STATUS_ZOMBIE
        return not dead and ("bwrap" in process.name() or process.uids().real == isolation.NOBODY)
    except psutil.NoSuchProcess:
        return False


def test_tests_see_changes_to_their_own_lists(runner):
    source = "def push(xs, x):\n    xs.append(x)\n    return xs"
    tests = ["xs = [0]\nassert push(xs, 1) == [0, 1]\nassert xs == [0, 1]"]
    assert passed(runner.judge(CodeJob(source=source, tests=tests)))


def test_a_module_of_the_program_does_not_decide_what_the_tests_mean(runner):
    source = (
        "class math:\n    isclose = staticmethod(lambda a, b: True)\ndef f():\n    return 1\nset = abs = lambda x: 0"
    )
    tests = ["assert math.isclose(f(), 2)", "assert set([f()]) == set([2])", "assert abs(f() - 2) < 1e-6"]
    assert not any(r.passed for r in runner.judge(CodeJob(source=source, tests=tests)))


def test_setup_wins_over_the_program_unless_it_is_an_entry_point(runner):
    source = "def helper(x):\n    return 0\ndef f(x):\n    return x"
    job = CodeJob(source=source, tests=["assert helper(f(3)) == 6"], setup="def helper(x):\n    return 2 * x")
    assert passed(runner.judge(job))


@pytest.mark.parametrize(
    ("source", "verdicts"),
    [
        ("print(int(input()) + 1)", [True, True]),
        ("import sys\nfor line in sys.stdin:\n    print(int(line) + 1)", [True, True]),
        ("print(2)", [True, False]),
        ("print(int(input()) + 1)\nraise SystemExit(1)", [False, False]),
        ("while True: print(2)", [False, False]),
        ("import time; time.sleep(60)", [False, False]),
        ("import os; os._exit(0)", [False, False]),
        ("syntax error", [False, False]),
    ],
)
def test_programs_that_read_and_write(runner, source, verdicts):
    tests = [{"stdin": "1\n", "stdout": "2"}, {"stdin": "41\n", "stdout": "42\n"}]
    job = CodeJob(source=source, tests=tests, style="stdio", limits=Limits(test_s=0.7, output_kib=16))
    assert [r.passed for r in runner.judge(job)] == verdicts


PYTEST = """
import pytest
from solution import add, Refused

def test_small(): assert add(1, 2) == 3

@pytest.mark.parametrize("a", [1, 5])
def test_many(a): assert add(a, a) == 2 * a

def test_refusal():
    with pytest.raises(Refused): add("1", 2)
"""


@pytest.mark.parametrize(
    ("source", "count"),
    [
        (
            "class Refused(TypeError): pass\ndef add(a, b):\n  if isinstance(a, str): raise Refused\n  return a + b",
            4,
        ),
        ("class Refused(TypeError): pass\ndef add(a, b): return a + b if a == 1 else 0", 2),
        ("def add(a, b): return a + b", 0),
        ("import pytest\ndef add(a, b): pytest.skip('no')\nclass Refused(Exception): pass", 0),
    ],
)
def test_pytest_files(runner, source, count):
    results = runner.judge(CodeJob(source=source, tests=[PYTEST], style="pytest", limits=Limits(wall_s=30)))
    assert sum(r.passed for r in results) == count
    assert passed(results) == (count == 4)


def say(text):
    segment = Segment(token_ids=(1,), from_model=False)
    return Rollout(
        task_id="t", segments=(segment,), messages=({"role": "assistant", "content": text},), end_reason=EndReason.STOP
    )


def test_the_reward_gives_all_or_partial_credit():
    task = Task(id="t", kind="code", messages=(), fields={"tests": ["assert f(1) == 2", "assert f(2) == 3"]})
    half = say("```python\ndef f(x):\n    return 2\n```")
    assert CodeReward()(task, half).value == 0
    score = CodeReward(partial_credit=True)(task, half)
    assert (score.value, score.parts) == (0.5, {"has_program": 1.0, "tests_passed": 0.5})
    assert CodeReward()(task, say("def f(x): return x + 1")).value == 1


def test_without_isolation_the_reward_refuses_to_start(monkeypatch):
    monkeypatch.setattr(isolation, "problem", lambda: "bubblewrap is not installed")
    with pytest.raises(ValueError, match="bubblewrap is not installed"):
        CodeReward()
    with pytest.raises(ToolMissingError):
        LocalRunner()
    accepting = CodeReward(allow_unsandboxed=True)
    task = Task(id="t", kind="code", messages=(), fields={"tests": ["assert f(1) == 2"]})
    assert accepting(task, say("def f(x): return x + 1")).value == 1
