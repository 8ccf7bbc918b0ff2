"""Repositories to work on: the tasks, what counts as a change, and how tests come to see a repository from afar."""

import ast

import pytest

from envs.workspace import PATCH_LINES, patch
from rewards.workspace import jobs
from rl.repo_programs import PROGRAMS
from rl.repo_tasks import RepoTasks, value_of
from rl.sandbox.base import Limits
from rl.types import Task


def first_and_last_words(program):
    """Two fillings of a program's words: all first choices, and all last ones."""
    for place in (0, -1):
        yield {f"<{name}>": choices[place] for name, choices in program.words.items()}


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda p: p.words["package"][0])
def test_every_bug_shows_in_a_call_that_the_right_program_answers(program):
    for words in first_and_last_words(program):

        def filled(text, words=words):
            for name, word in words.items():
                text = text.replace(name, word)
            return text

        right = filled(program.source)
        calls = [filled(call) for call in program.calls]
        values = [value_of(call, right) for call in calls]
        for value in values:
            ast.literal_eval(value)
        for bug in program.bugs:
            assert right.count(filled(bug.right)) == 1
            wrong = right.replace(filled(bug.right), filled(bug.wrong))
            assert [value_of(call, wrong) for call in calls] != values, bug.report
            assert "<" not in filled(bug.report)


def test_tasks_depend_on_their_arguments_alone_and_splits_share_no_report():
    train, held_out = RepoTasks(seed=3), RepoTasks(seed=3, held_out=True)
    assert train.task_at(5) == RepoTasks(seed=3).task_at(5)
    assert train.task_at(5) != RepoTasks(seed=4).task_at(5)
    reports = [{s.task_at(i).messages[0]["content"] for i in range(300)} for s in (train, held_out)]
    assert not reports[0] & reports[1]
    assert min(map(len, reports)) > 200


def test_a_task_shows_neither_the_gold_nor_the_hidden_tests():
    fields = RepoTasks(seed=0).task_at(1).fields
    ((path, right),) = fields["gold"].items()
    assert fields["files"][path] != right
    assert fields["tests"]["test_hidden.py"] not in fields["files"].values()


def test_a_patch_shows_new_changed_and_deleted_files():
    before = {"a.py": "x = 1\ny = 2\n", "b.py": "z = 3\n", "same.py": ""}
    shown = patch(before, {"a.py": "x = 1\ny = 5\n", "b.py": None, "c.py": "w = 4\n"})
    assert shown.splitlines() == [
        "--- a/a.py", "+++ b/a.py", "@@ -1,2 +1,2 @@", " x = 1", "-y = 2", "+y = 5",
        "--- a/b.py", "+++ /dev/null", "@@ -1 +0,0 @@", "-z = 3",
        "--- /dev/null", "+++ b/c.py", "@@ -0,0 +1 @@", "+w = 4",
    ]  # fmt: skip


def test_a_patch_is_not_made_of_more_lines_than_can_be_compared_in_time():
    assert patch({}, {"big.txt": "x\n" * (PATCH_LINES + 1)}) == "(too long to show: big.txt)"


def task(**fields):
    return Task(id="t", kind="swe", messages=(), fields=fields)


def test_one_job_per_file_of_tests_with_the_changes_and_without_what_was_deleted():
    files = {"pkg/a.py": "A = 1", "pkg/b.py": "B = 2", "json.py": ""}
    changed = {"pkg/a.py": "A = 3", "pkg/b.py": None, "math.py": "pi = 3"}
    tests = {"test_b.py": "pass", "test_a.py": "from __future__ import annotations\nfrom pkg.a import A\n"}
    first, second = jobs(task(files=files, tests=tests), changed, Limits())
    names = {}
    exec(first.source.splitlines()[0], names)
    assert names["FILES"] == {"pkg/a.py": "A = 3", "json.py": "", "math.py": "pi = 3"}
    assert first.tests[0].startswith("from __future__ import annotations\n\ndef _import_from_afar")
    assert "in ['pkg']" in first.tests[0], "neither new modules nor ones of the standard library"
    assert second.tests[0].endswith("\npass")


@pytest.mark.parametrize(
    "fields", [{"files": {"a.py": ""}, "tests": {}}, {"files": {"a.py": 1}, "tests": {"t.py": ""}}]
)
def test_tasks_without_tests_or_texts_are_refused(fields):
    with pytest.raises(ValueError, match="task t: files and tests must be mappings of paths to texts"):
        jobs(task(**fields), {}, Limits())
