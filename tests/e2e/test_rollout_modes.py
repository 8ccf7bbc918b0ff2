"""Runs whose rollouts take tools, are paused between iterations, or run ahead of training; real engines and ranks."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from rl.compose import REPOSITORY
from rl.sandbox import isolation
from rl.tracking.files import read_metrics
from scripts.cli import main

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(isolation.problem() is not None, reason="no sandbox here"),
]
TOOLS = (
    "tasks=tools reward=math tasks.per_iteration=8 rollout.group_size=4 evaluation.tasks=16 evaluation.samples=2 "
    "evaluation.every=10 tracking.wandb=disabled"
)


def train(folder, *overrides):
    assert main(["train", *TOOLS.split(), f"folder={folder}", *overrides]) == 0
    records = read_metrics(folder)
    rollouts = [
        json.loads(line) for path in sorted(folder.glob("rollouts/*")) for line in path.read_text().splitlines()
    ]
    assert not sum(r.get("fault/env", 0) for r in records)
    return records, rollouts


def test_tools_are_called_and_answered_and_long_rollouts_are_paused(tmp_path):
    records, rollouts = train(
        tmp_path, "iterations=3", "rollout.iteration_tokens=40", "rollout.max_staleness=2", "env_pool.services=1"
    )
    assert records[-1]["fault/env_service"] == 0
    called = [r for r in rollouts if any(m["role"] == "tool" for m in r["messages"])]
    assert called
    right = [r for r in called if r["score"] == 1.0]
    assert len(right) > 0.8 * len(called), "the tools' results are right"
    assert {m["role"] for r in called for m in r["messages"]} == {"assistant", "tool"}
    many = [r for r in rollouts if len({s["policy_version"] for s in r["segments"] if s["from_model"]}) > 1]
    assert many, "a call takes more than 40 tokens, so it went on under new weights"
    assert max(len(s["token_ids"]) for r in rollouts for s in r["segments"] if s["from_model"]) <= 40
    assert records[1]["rollout/pending"] > 0
    assert records[3]["staleness/max"] >= 1
    assert records[3]["staleness/left_out"] == 0


def test_running_ahead_of_training(tmp_path):
    records, _ = train(
        tmp_path, "iterations=4", "rollout.asynchronous=true", "rollout.max_staleness=1", "algorithm.importance_cap=2"
    )
    trained = records[1:]
    assert [r["rollout/count"] for r in trained] == [32.0] * 4
    assert max(r["staleness/max"] for r in trained) >= 1
    assert trained[-1]["weights/version"] == 4


def paused(folder, iteration):
    """What the checkpoint of an iteration holds of rollouts under way: the tokens that the policy wrote, by name."""
    text = (folder / f"checkpoints/iteration-{iteration:06d}/in_flight.json").read_text()
    return {
        f"{group['stream']}/{number}": [t for s in episode["segments"] if s["from_model"] for t in s["token_ids"]]
        for group in json.loads(text)
        for number, episode in group["episodes"].items()
    }


def test_a_kill_in_the_middle_of_paused_rollouts_loses_no_more_than_the_iteration_under_way(tmp_path):
    settings = ["rollout.iteration_tokens=40", "rollout.max_staleness=4", "checkpoint.every=1", "checkpoint.keep=9"]
    command = [sys.executable, "-m", "scripts.cli", "train", *TOOLS.split(), f"folder={tmp_path}", *settings]
    process = subprocess.Popen(
        [*command, "iterations=20"], cwd=REPOSITORY, stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT
    )
    deadline = time.monotonic() + 240
    while not (tmp_path / "checkpoints/iteration-000002/state.json").exists():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    time.sleep(0.5)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    done = max(int(path.parent.name[-6:]) for path in tmp_path.glob("checkpoints/iteration-*/state.json"))
    before = paused(tmp_path, done)
    assert len(before) > 10
    train(tmp_path, *settings, f"iterations={done + 3}")
    ended = [
        [t for s in json.loads(line)["segments"] if s["from_model"] for t in s["token_ids"]]
        for number in range(done + 1, done + 4)
        for line in (tmp_path / f"rollouts/{number:06d}.jsonl").read_text().splitlines()
    ]
    still = {name: ids for name, ids in paused(tmp_path, done + 3).items() if name in before}
    for name, ids in before.items():
        if name in still:
            assert still[name][: len(ids)] == ids
        else:
            assert any(tokens[: len(ids)] == ids for tokens in ended), "it went on from exactly where it stood"
    assert len(still) < len(before)
