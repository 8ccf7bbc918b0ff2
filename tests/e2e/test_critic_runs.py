"""Whole runs with each sort of critic, and with a judge and an engine that fail."""

import json
import os
import signal

import psutil
from test_run import finish, start_and_wait

from rl.tracking.files import read_metrics

SMALL = [
    "iterations=3",
    "tasks.per_iteration=24",
    "evaluation.tasks=16",
    "critic.guard.floor=0",
    "critic.guard.full=0",
]
"""The critic's scores count from the start, whatever it is worth."""


def ranked(folder, iteration):
    lines = [json.loads(line) for line in (folder / f"rollouts/{iteration:06d}.jsonl").read_text().splitlines()]
    return [line for line in lines if line["kind"] == "chat"]


def test_a_separate_critic_learns_beside_the_policy_and_is_resumed(tmp_path):
    settings = [*SMALL, "critic.mode=separate", "+critic.refresh.objective=supervised"]
    finish(tmp_path, *settings)
    first, *_, last = read_metrics(tmp_path)
    assert first["critic/guard/pairs"] > 0
    assert last["critic/refresh/tasks"] > 0
    assert last["critic/loss/supervised"] > 0
    assert last["critic/weights/probe_max_abs_diff"] < 0.005
    assert last["critic/judgements"] > 0
    versions = {line["critic_version"] for line in ranked(tmp_path, 3)}
    assert max(versions) in (1, 2), "refreshed once by then, and perhaps undone"
    lines = ranked(tmp_path, 3)
    assert all(line["rubric_hash"] for line in lines)
    assert len({line["score"] for line in lines}) > 1
    assert (tmp_path / "checkpoints/iteration-000003/critic").is_dir()
    finish(tmp_path, *settings, "iterations=4")
    assert read_metrics(tmp_path)[-1]["critic/weights/version"] > last["critic/weights/version"]


def test_a_frozen_critic_ranks_and_never_learns(tmp_path):
    finish(tmp_path, *SMALL, "critic.mode=frozen", "iterations=2")
    assert [r["critic/refresh/tasks"] for r in read_metrics(tmp_path)[1:]] == [0, 0]
    lines = ranked(tmp_path, 2)
    assert {line["critic_version"] for line in lines} == {-1}
    assert any(name.startswith("over/") for line in lines for name in line["verdicts"])


def test_nonsense_and_a_dying_engine_are_counted_and_the_run_goes_on(tmp_path):
    nonsense = ["critic.prompts.comparison='{prompt} {a} {b}'", "critic.prompts.rule='{rule} {reply}'"]
    settings = [*SMALL, "rollout.workers=2", *nonsense]
    process = start_and_wait(tmp_path, 1, *settings)
    engines = [p for p in psutil.Process(process.pid).children(recursive=True) if "RolloutWorker" in p.cmdline()[0]]
    assert len(engines) == 2
    os.kill(engines[0].pid, signal.SIGKILL)
    output, _ = process.communicate(timeout=240)
    assert process.returncode == 0, output[-3000:]
    records = read_metrics(tmp_path)
    assert [r["iteration"] for r in records] == [0, 1, 2, 3]
    assert sum(r["fault/engines"] for r in records[1:]) == 1, "one was lost; another in its place may come in time"
    assert sum(r.get("fault/critic/unparsed", 0) for r in records) > 0
    assert sum(r.get("fault/critic/unranked", 0) for r in records) > 0
    assert records[-1]["reward/kind/math"] > 0, "what has a verifier is learnt all the same"
