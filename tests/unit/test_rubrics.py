import importlib
from dataclasses import replace
from pathlib import Path

import pytest

from critic.rubrics import Rubric, RubricKind, RubricSet, load_rubrics
from rl.compose import REPOSITORY
from rl.types import Task

SHIPPED = ["core", "prescriptive", "inferred", "human", "correct"]
"""Beside the quickstart's, which are written for its small policy."""
CORE = ["clarity and relevance", "conversational fluency and engagement", "objective and grounded interaction"]
PRESCRIPTIVE = ["initial praise", "explicit justification"]


def write(path, text):
    path.write_text(text)
    return str(path)


def task(kind="chat", *tags):
    return Task(id="t", kind=kind, messages=({"role": "user", "content": "Hello"},), tags=tags)


def names(rubrics):
    return [rubric.name for rubric in rubrics]


def test_the_module_wins_over_the_folder_of_its_name():
    assert Path(importlib.import_module("critic.rubrics").__file__) == REPOSITORY / "critic" / "rubrics.py"


def test_every_shipped_file_loads():
    assert sorted(path.stem for path in (REPOSITORY / "critic" / "rubrics").iterdir()) == sorted(
        [*SHIPPED, "quickstart"]
    )
    load_rubrics(["quickstart"])
    rubrics = load_rubrics(SHIPPED)
    assert names(rubrics)[:5] == CORE + PRESCRIPTIVE
    for name in SHIPPED:
        kind = RubricKind.HUMAN if name == "correct" else RubricKind(name)
        assert {rubric.kind for rubric in load_rubrics([name])} == {kind}


def test_exactly_the_prescriptive_ones_are_mandatory():
    assert names(load_rubrics(SHIPPED).mandatory) == PRESCRIPTIVE


def test_the_inferred_rubric_is_marked_and_off_unless_listed():
    (inferred,) = load_rubrics(["inferred"])
    assert (inferred.name, inferred.kind) == ("avoiding self-qualification", RubricKind.INFERRED)
    assert inferred.name not in names(load_rubrics(["core", "prescriptive", "human"]))


def test_shipped_rubrics_reach_the_tasks_they_are_for():
    rubrics = load_rubrics(["core", "human"])
    assert names(rubrics.for_task(task("math"))) == CORE
    assert names(rubrics.for_task(task("chat"))) == CORE
    assert names(rubrics.for_task(task("chat", "en", "legal"))) == [*CORE, "careful advice"]
    assert names(rubrics.for_task(task("code", "legal"))) == CORE


@pytest.mark.parametrize(
    ("scope", "of", "applies"),
    [
        ({}, task("math", "x"), True),
        ({"kinds": ("chat", "judge")}, task("judge"), True),
        ({"kinds": ("chat",)}, task("math"), False),
        ({"tags": ("a", "b")}, task("math", "b", "c"), True),
        ({"tags": ("a",)}, task("math"), False),
        ({"kinds": ("chat",), "tags": ("a",)}, task("chat", "b"), False),
        ({"kinds": ("chat",), "tags": ("a",)}, task("math", "a"), False),
    ],
)
def test_scope(scope, of, applies):
    assert Rubric(name="n", text="t", **scope).applies(of) is applies


def test_what_the_judge_reads():
    rubrics = RubricSet(
        (
            Rubric(name="plain", text="One."),
            Rubric(name="heavy", text="Two.", weight=2.5),
            Rubric(name="both", text="Three.", weight=0.5, mandatory=True),
        )
    )
    assert rubrics.render() == (
        "- plain: One.\n- heavy: Two. (counts 2.5x)\n- both: Three. (counts 0.5x) (must be kept)"
    )


def test_hash_ignores_order_and_layout(tmp_path):
    spread = write(
        tmp_path / "a.yaml", "- {name: b, text: two words, weight: 2, scope: {tags: [y, x]}}\n- {name: a, text: t}"
    )
    first = write(tmp_path / "b.yaml", "- name: a\n  kind: human\n  text: >\n    t\n")
    second = write(
        tmp_path / "c.yaml", "- name: b\n  text: |\n    two\n    words\n  weight: 2.0\n  scope:\n    tags: [x, y]\n"
    )
    digest = load_rubrics([spread]).hash
    assert load_rubrics([first, second]).hash == load_rubrics([second, first]).hash == digest
    assert len(digest) == 16
    assert int(digest, 16) >= 0


@pytest.mark.parametrize(
    "change",
    [
        {"name": "m"},
        {"text": "u"},
        {"kind": RubricKind.CORE},
        {"kinds": ("chat",)},
        {"tags": ("chat",)},
        {"weight": 2.0},
        {"mandatory": True},
    ],
    ids=lambda change: next(iter(change)),
)
def test_hash_changes_with_content(change):
    rubric = Rubric(name="n", text="t")
    assert RubricSet((replace(rubric, **change),)).hash != RubricSet((rubric,)).hash


def test_hash_changes_with_the_number_of_rubrics():
    assert len({load_rubrics(SHIPPED[:count]).hash for count in range(5)}) == 5


def test_a_file_of_ones_own_works_beside_shipped_ones(tmp_path):
    mine = write(
        tmp_path / "my.yaml", "- name: metric units\n  text: Quantities are metric.\n  scope: {tags: [cooking]}\n"
    )
    rubrics = load_rubrics(["core", mine])
    assert names(rubrics) == [*CORE, "metric units"]
    assert list(rubrics)[-1] == Rubric(name="metric units", text="Quantities are metric.", tags=("cooking",))
    assert names(rubrics.for_task(task("chat"))) == CORE


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("", ["the file must be a list", "got nothing"]),
        ("# nothing yet\n", ["the file must be a list", "got nothing"]),
        ("[]", ["the file must be a list of at least one rubric"]),
        ("name: n\ntext: t", ["the file must be a list", "got dict", "- name:"]),
        ("- [unclosed", ["the file must be YAML", "line 1"]),
        ("- name: a\n  text: t\n  name: b\n  text: u", ["the file must be YAML", "'name' comes twice", "line 1"]),
        ("- name: 2026-99-99", ["the file must be YAML", "month"]),
        ("- just words", ["rubric 1 must be a mapping", "'just words'"]),
        ("- {name: n, text: t, wieght: 2}", ["rubric 'n'", "field must be one of name, text", "got wieght"]),
        ("- {name: n, text: t}\n- {text: t}", ["rubric 2: name must be a text", "got nothing", "short name"]),
        ("- {name: n}", ["rubric 'n': text must be a text", "got nothing"]),
        ("- {name: n, text: ' '}", ["rubric 'n': text must be a text that is not empty", "got str ' '"]),
        ("- {name: '', text: t}", ["rubric 1: name must be a text that is not empty"]),
        ("- {name: yes, text: t}", ["rubric 1: name must be a text", "got bool 'True'", "quotes"]),
        ("- {name: n, text: [t]}", ["rubric 'n': text must be a text", "got list"]),
        ("- {name: n, text: t, kind: nice}", ["kind must be one of core, prescriptive, inferred, human", "'nice'"]),
        ("- {name: n, text: t, kind: [core]}", ["kind must be one of", "got list"]),
        ("- {name: n, text: t, weight: 0}", ["weight must be a finite number above 0", "got int '0'"]),
        ("- {name: n, text: t, weight: -1.5}", ["weight must be", "got float '-1.5'", "leave it out for 1"]),
        ("- {name: n, text: t, weight: .nan}", ["weight must be", "'nan'"]),
        ("- {name: n, text: t, weight: .inf}", ["weight must be", "'inf'"]),
        ("- {name: n, text: t, weight: true}", ["weight must be", "got bool"]),
        ("- {name: n, text: t, weight: '2'}", ["weight must be", "got str"]),
        ("- {name: n, text: t, mandatory: 1}", ["mandatory must be true or false", "got int '1'"]),
        ("- {name: n, text: t, scope: [chat]}", ["scope must be a mapping", "got list"]),
        ("- {name: n, text: t, scope:}", ["scope must be a mapping", "got nothing"]),
        (
            "- {name: n, text: t, scope: {kind: [chat]}}",
            ["field must be one of scope.kinds, scope.tags", "scope.kind;"],
        ),
        ("- {name: n, text: t, scope: {kinds: chat}}", ["scope.kinds must be a list", "got str 'chat'", "[chat]"]),
        ("- {name: n, text: t, scope: {tags: [3]}}", ["scope.tags must be a list", "'[3]'"]),
        ("- {name: n, text: t}\n- {name: n, text: u}", ["rubric 2: name must be unique over all files", "'n'"]),
    ],
)
def test_a_malformed_file_is_refused(tmp_path, text, parts):
    file = write(tmp_path / "bad.yaml", text)
    with pytest.raises(ValueError, match="must be") as refusal:
        load_rubrics(["core", file])
    for part in [file, *parts]:
        assert part in str(refusal.value)


def test_a_name_may_not_come_from_two_files(tmp_path):
    file = write(tmp_path / "my.yaml", "- {name: initial praise, text: t}")
    with pytest.raises(ValueError, match="must be unique") as refusal:
        load_rubrics(["prescriptive", file])
    assert f"{file}: rubric 1: name" in str(refusal.value)
    assert "prescriptive has already" in str(refusal.value)


@pytest.mark.parametrize("entry", ["cores", "core.yaml", "no/such/file.yaml", "."])
def test_a_file_that_does_not_exist_is_refused_with_the_shipped_names(tmp_path, monkeypatch, entry):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="core, correct, human, inferred, prescriptive") as refusal:
        load_rubrics([entry])
    assert f"critic.rubrics must be YAML files or names of shipped ones, got {entry!r}" in str(refusal.value)
