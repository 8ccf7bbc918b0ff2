"""Whole runs of the command, in processes of their own: they learn, survive a kill, stop on request, and resume."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter

import psutil
import pytest

from rl.compose import REPOSITORY
from rl.tracking.files import read_metrics

SETTINGS = [
    "iterations=10",
    "tasks.per_iteration=28",
    "~tasks.train.sources.tools",
    "~tasks.held_out.sources.tools",
    "~tasks.sets.without_tools",
    "trainer.learning_rate=8e-4",
    "evaluation.every=5",
    "evaluation.tasks=64",
    "checkpoint.every=2",
    "critic.refresh.tasks=4",
    "critic.guard.floor=0.99",
    "critic.guard.full=1",
]
"""The critic learns, and its scores never count: what it ranks, and rollouts whose tools take their time, are not the
same twice (docs/reproducibility.md)."""
DEADLINE_S = 240


def command(folder, *overrides):
    return [sys.executable, "-m", "scripts.cli", "train", *SETTINGS, f"folder={folder}", *overrides]


def finish(folder, *overrides, code=0):
    done = subprocess.run(
        command(folder, *overrides), cwd=REPOSITORY, capture_output=True, text=True, timeout=DEADLINE_S, check=False
    )
    assert done.returncode == code, done.stdout[-3000:] + done.stderr[-3000:]
    return done


def start_and_wait(folder, iteration, *overrides):
    """Start a run and return it as soon as it has logged this iteration."""
    process = subprocess.Popen(
        command(folder, *overrides),
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    deadline = time.monotonic() + DEADLINE_S
    while time.monotonic() < deadline:
        assert process.poll() is None, process.stdout.read()
        if any(r["iteration"] >= iteration for r in read_metrics(folder)):
            return process
        time.sleep(0.1)
    process.kill()
    pytest.fail(f"iteration {iteration} was not reached in {DEADLINE_S} s")


def children(process):
    """The run's engines and trainer ranks; Ray's own small agents only notice the end a minute later."""
    workers = [p for p in psutil.Process(process.pid).children(recursive=True) if "Worker" in p.name()]
    assert len(workers) == 3
    return workers


def assert_gone(processes):
    _, alive = psutil.wait_procs(processes, timeout=60)
    assert not alive, [p.name() for p in alive]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    finish(folder)
    return folder


def comparable(folder):
    """Every metric of every iteration that must not depend on the machine's speed."""
    timing = ("time/", "perf/")
    return [{k: v for k, v in r.items() if not k.startswith(timing)} for r in read_metrics(folder)]


def test_the_reward_rises(whole):
    summary = json.loads((whole / "summary.json").read_text())
    assert 0.2 <= summary["eval/pass_rate/first"] <= 0.5
    assert summary["eval/pass_rate/last"] >= summary["eval/pass_rate/first"] + 0.15
    assert summary["weights/publishes"] == 11
    assert summary["weights/probe_max_abs_diff"] <= 0.05
    for name in (
        "time/total_s",
        "time/first_iteration_s",
        "perf/rollout_tokens_per_s",
        "perf/train_tokens_per_s",
    ):
        assert summary[name] > 0


def test_rollouts_are_written_in_full(whole):
    lines = [json.loads(line) for line in (whole / "rollouts/000003.jsonl").read_text().splitlines()]
    kinds = Counter(line["kind"] for line in lines)
    assert kinds["math"] + kinds["code"] == 20 * 8, "of seven tasks five have a verifier"
    assert kinds["judge"] > 0
    assert kinds["judge"] % 8 == 0
    assert "chat" not in kinds, "the critic has not earned any weight yet"
    sampled = lines[0]["segments"][1]
    assert len(sampled["token_ids"]) == len(sampled["sampler_logprobs"])
    assert sampled["policy_version"] == 2


def test_every_metric_is_documented(whole):
    text = (REPOSITORY / "docs/metrics.md").read_text()
    documented = [re.escape(n).replace("<[^>]*>", "") for n in re.findall(r"^\| `([^`]+)`", text, re.MULTILINE)]
    patterns = [re.sub(r"<\w+>", "[^/]+", name.replace("\\", "")).replace("…", ".+") for name in documented]
    logged = {k for r in read_metrics(whole) for k in r} - {"iteration"}
    unknown = sorted(k for k in logged if not any(re.fullmatch(p, k) for p in patterns))
    assert not unknown
    unused = [p for p in patterns if not any(re.fullmatch(p, k) for k in logged)]
    optional = {p for p in unused if p.startswith(("rollout/end/", "loss/clipped_share"))}
    other_critics = {"critic/refresh/accuracy_change", "critic/refresh/undone", "loss/supervised"}
    without_weight = {"critic/order_flip_rate", "critic/ties"}
    elsewhere = {"optim/skipped_updates", "fault/env_service"}
    assert set(unused) <= optional | other_critics | without_weight | elsewhere, unused


def test_offline_wandb_run_exists(whole):
    assert list(whole.glob("wandb/offline-run-*/*.wandb"))


def test_killed_and_resumed_equals_uninterrupted(whole, tmp_path):
    process = start_and_wait(tmp_path, iteration=5)
    workers = children(process)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert_gone(workers)
    finish(tmp_path, "resume=auto")
    ours, theirs = comparable(tmp_path), comparable(whole)
    assert [r["iteration"] for r in ours] == [r["iteration"] for r in theirs]
    for a, b in zip(ours, theirs, strict=True):
        assert a == pytest.approx(b, abs=1e-6, rel=1e-6)


def test_interrupt_saves_and_resumes(tmp_path):
    process = start_and_wait(tmp_path, iteration=1)
    workers = children(process)
    os.kill(process.pid, signal.SIGINT)
    assert process.wait(timeout=120) == 130
    assert_gone(workers)
    done = read_metrics(tmp_path)[-1]["iteration"]
    assert done < 10
    assert (tmp_path / "checkpoints" / f"iteration-{done:06d}" / "state.json").exists()
    assert "keep it, or choose another" in finish(tmp_path, "seed=5", code=2).stderr
    finish(tmp_path, f"iterations={done + 1}")
    assert read_metrics(tmp_path)[-1]["iteration"] == done + 1


def test_export_loads(whole, tmp_path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    target = tmp_path / "policy"
    export = [sys.executable, "-m", "scripts.cli", "export", str(whole), str(target)]
    assert subprocess.run(export, cwd=REPOSITORY, check=False).returncode == 0
    assert subprocess.run(export, cwd=REPOSITORY, check=False, capture_output=True).returncode == 2, "never overwrites"
    tokenizer = AutoTokenizer.from_pretrained(target)
    model = AutoModelForCausalLM.from_pretrained(target)
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": "What is 2+3?"}], add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    prompt.pop("token_type_ids", None)
    reply = model.generate(**prompt, max_new_tokens=40, do_sample=False)[0, prompt["input_ids"].shape[1] :]
    assert "answer:" in tokenizer.decode(reply)


def test_a_plugin_trains_without_a_change_to_this_repository(tmp_path):
    """What docs/rewards.md tells a new user to do, with the template as it is."""
    cli = [sys.executable, "-m", "scripts.cli"]
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    subprocess.run([*cli, "reward", "new", "loud"], cwd=tmp_path, env=environment, check=True, timeout=60)
    done = subprocess.run(
        [*cli, "train", "--config-dir", "conf", "reward=loud", "experiment=smoke", "reward.least_letters=2"],
        cwd=tmp_path / "loud",
        env=environment,
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    records = read_metrics(tmp_path / "loud/runs/smoke")
    assert [r["iteration"] for r in records] == [0, 1, 2]
    assert not any(value for r in records for name, value in r.items() if name.startswith("fault/"))
