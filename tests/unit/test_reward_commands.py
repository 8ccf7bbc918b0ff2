"""``closedloop reward new`` and ``closedloop reward check``, as a user would meet them."""

import json
import subprocess
import sys

import pytest

from rl.compose import REPOSITORY
from scripts.cli import main
from scripts.reward_check import histogram, parse_settings


def rows(path, content):
    path.write_text("".join(json.dumps(row) + "\n" for row in content))
    return str(path)


ANSWERS = [
    {"question": f"What is {a}+1?", "answer": str(a + 1), "responses": [f"answer: {a + 1}", f"answer: {a}"]}
    for a in range(5)
]


def test_a_sound_reward_is_fit(tmp_path, capsys):
    data = rows(tmp_path / "rows.jsonl", ANSWERS)
    assert main(["reward", "check", "math", 'extract=["marker"]', "--data", data]) == 0
    out = capsys.readouterr().out
    assert "fit to train on" in out
    assert "unfit" not in out
    assert "0.500, 0, 1" in out


REWARDS = """
import random, time
def coin(task, rollout): return float(random.random() < 0.5)
def constant(task, rollout): return 0.5
def flatterer(task, rollout): return float(task.messages[0]["content"] in rollout.completion)
def broken(task, rollout): return task.fields["nothing"]
def loose(task, rollout): return float(task.fields["answer"] in rollout.completion)
def slow(task, rollout): time.sleep(0.4); return float("1" in rollout.completion)
def length(task, rollout): return min(1.0, len(rollout.completion) / 100)
"""


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("coin", "scored differently in 3 runs"),
        ("constant", "every reply got 0.5"),
        ("flatterer", "a cheat earns 1.00 on average: the prompt echoed"),
        ("broken", "calls failed"),
        ("loose", "a cheat earns 1.00 on average: every number at once"),
        ("length", "a cheat earns 1.00 on average: every number at once"),
        ("slow", "takes more than half the deadline"),
    ],
)
def test_unfit_rewards_are_found_out(name, reason, tmp_path, monkeypatch, capsys):
    (tmp_path / "bad_rewards.py").write_text(REWARDS)
    monkeypatch.syspath_prepend(str(tmp_path))
    data = rows(tmp_path / "rows.jsonl", ANSWERS)
    deadline = ["--deadline", "0.6"] if name == "slow" else []
    assert main(["reward", "check", f"bad_rewards.{name}", "--data", data, *deadline]) == 1
    assert reason in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([{"answer": "1"}], "rows.jsonl:1: a row must have one of prompt, question, text, problem or messages"),
        ([{"question": "x", "answer": "1"}], "there must be replies to judge"),
        ([{"question": "x", "responses": ["1"]}], "the reward needs the fields answer"),
        ([], "--data must hold at least one row"),
    ],
)
def test_wrong_rows_are_one_line(content, message, tmp_path, capsys):
    assert main(["reward", "check", "math", "--data", rows(tmp_path / "rows.jsonl", content)]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_responses_from_another_file(tmp_path, capsys):
    data = rows(tmp_path / "rows.jsonl", [{"question": "1+1?", "answer": "2"}])
    more = rows(tmp_path / "more.jsonl", [{"id": "0", "response": "answer: 2"}, {"id": "0", "response": "answer: 3"}])
    assert main(["reward", "check", "math", "--data", data, "--responses", more]) == 0
    assert main(["reward", "check", "math", "--data", data, "--responses", data]) == 2
    assert "a row must have the id of a task and a response" in capsys.readouterr().err


def test_a_new_package_passes_its_own_test_and_check(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["reward", "new", "loud"]) == 0
    assert main(["reward", "new", "loud"]) == 2
    assert main(["reward", "new", "Loud Reward"]) == 2
    assert "NAME must be a Python name in lower case" in capsys.readouterr().err
    folder = tmp_path / "loud"
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "."], cwd=folder, capture_output=True,
        text=True, check=False, env={"PYTHONPATH": f"{folder}:{REPOSITORY}", "PATH": ""},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    monkeypatch.syspath_prepend(str(folder))
    assert main(["reward", "check", "loud_plugin.reward.loud", "--data", str(folder / "rows.jsonl")]) == 0
    assert "loud_plugin.reward.loud" in (folder / "conf/reward/loud.yaml").read_text()


def test_histogram_and_settings():
    assert histogram([0, 0, 1], 0, 1, bins=4) == "█  ▄"
    assert parse_settings(["a=1", 'b=["x"]', "c=word"]) == {"a": 1, "b": ["x"], "c": "word"}
    with pytest.raises(ValueError, match="a setting must be KEY=VALUE, got 'a'"):
        parse_settings(["a"])


def test_what_a_judge_decides_is_said_and_not_called_unfit(tmp_path, capsys):
    row = {"question": "Tell me about 12.", "criteria": ["is true", "is short"], "responses": ["It is even.", "Hm."]}
    assert main(["reward", "check", "checklist", "--data", rows(tmp_path / "rows.jsonl", [row])]) == 0
    assert "questions left to a judge │ 4" in " ".join(capsys.readouterr().out.split())
