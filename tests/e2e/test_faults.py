"""Runs that lose a trainer rank, an engine, a checkpoint or their driver: they go on, and end where others do."""

import json
import os
import re
import signal
import subprocess
import sys
import time

import psutil
import pytest

from rl.compose import REPOSITORY
from rl.tracking.files import read_metrics

pytestmark = pytest.mark.slow
# Arithmetic alone is the same twice (docs/reproducibility.md). A constant rate does not depend on when the run ends.
SETTINGS = [
    "experiment=smoke",
    "tasks=arithmetic",
    "reward=math",
    "tasks.per_iteration=8",
    "evaluation.every=100",
    "trainer.schedule=constant",
    "checkpoint.every=1",
    "checkpoint.keep=9",
]
KILLED, WHOLE = 6, 7
"""Iterations."""
DEADLINE_S = 240


def start(folder, iterations, program=("scripts.cli",)):
    command = [sys.executable, "-m", *program, "train", *SETTINGS, f"folder={folder}", f"iterations={iterations}"]
    return subprocess.Popen(
        command, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )


def finish(process):
    """What the run said. It must end well."""
    output, _ = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 0, output[-3000:]
    return output


def die(folder, point, count):
    """Run until the driver is killed at the ``count``-th time it comes to this point, and until its workers are gone.

    Returns what it said.
    """
    process = start(folder, KILLED, ("tests.e2e.dying", "driver", point, str(count)))
    output, _ = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == -signal.SIGKILL, output[-3000:]
    pids = [int(pid) for pid in re.search(r"^workers: (.*)$", output, re.MULTILINE)[1].split()]
    assert len(pids) == 3
    deadline = time.monotonic() + 60
    while any(psutil.pid_exists(pid) for pid in pids):
        assert time.monotonic() < deadline, "workers outlive their driver"
        time.sleep(0.1)
    return output


def workers(process, kind):
    """The run's own workers: those that descend from it, whatever else this machine is at."""
    found = psutil.Process(process.pid).children(recursive=True)
    return [p for p in found if p.is_running() and kind in " ".join(p.cmdline()[:1])]


def await_checkpoint(process, folder, iteration):
    deadline = time.monotonic() + DEADLINE_S
    while not (folder / f"checkpoints/iteration-{iteration:06d}/state.json").exists():
        assert process.poll() is None, process.stdout.read()
        assert time.monotonic() < deadline
        time.sleep(0.02)


def iterations(folder):
    return [record["iteration"] for record in read_metrics(folder)]


def checkpoints(folder):
    return sorted(int(path.name[-6:]) for path in folder.glob("checkpoints/iteration-*"))


def weights(folder, iteration):
    return json.loads((folder / f"checkpoints/iteration-{iteration:06d}/state.json").read_text())["weights"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run that nothing happened to."""
    folder = tmp_path_factory.mktemp("whole")
    finish(start(folder, WHOLE))
    return folder


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """A run one of whose trainer ranks was killed in the third iteration, and what it said."""
    folder = tmp_path_factory.mktemp("killed")
    process = start(folder, KILLED)
    await_checkpoint(process, folder, 2)
    _, rank = workers(process, "TrainerWorker")
    os.kill(rank.pid, signal.SIGKILL)
    return folder, finish(process)


def test_nothing_happened(whole):
    assert iterations(whole) == [*range(WHOLE + 1)]
    assert {record["fault/restarts"] for record in read_metrics(whole)[1:]} == {0}
    assert len({weights(whole, i) for i in range(1, WHOLE + 1)}) == WHOLE, "each iteration changes them"


def test_a_run_goes_on_after_a_trainer_rank_was_killed(whole, killed):
    folder, said = killed
    assert iterations(folder) == [*range(KILLED + 1)], "each iteration is there, and once"
    restarts = [record["fault/restarts"] for record in read_metrics(folder)[1:]]
    assert restarts == sorted(restarts)
    assert (restarts[0], restarts[-1]) == (0, 1)
    assert re.search(r"trainer rank [01] failed: ", said)
    assert "restart 1: the run goes on after iteration " in said
    assert "the end of " in said, "the rank's log is quoted"
    assert weights(folder, KILLED) == weights(whole, KILLED), "as if nothing had happened"


def test_a_run_goes_on_from_the_checkpoint_before_a_damaged_one(whole, killed):
    folder, _ = killed
    damaged = folder / f"checkpoints/iteration-{KILLED:06d}"
    largest = max((p for p in damaged.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    with largest.open("r+b") as file:
        file.seek(largest.stat().st_size // 2)
        byte = file.read(1)[0]
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte ^ 16]))
    said = finish(start(folder, WHOLE))
    assert f"{largest.relative_to(damaged)} does not hold what was written" in said
    assert f"resuming after iteration {KILLED - 1}" in said
    assert iterations(folder) == [*range(WHOLE + 1)]
    assert weights(folder, KILLED) == weights(whole, KILLED), "the damaged one was replaced"
    assert weights(folder, WHOLE) == weights(whole, WHOLE)


def test_a_run_goes_on_without_a_restart_after_an_engine_was_killed(whole, tmp_path):
    process = start(tmp_path, KILLED)
    await_checkpoint(process, tmp_path, 2)
    (engine,) = workers(process, "RolloutWorker")
    os.kill(engine.pid, signal.SIGKILL)
    finish(process)
    records = read_metrics(tmp_path)[1:]
    assert iterations(tmp_path) == [*range(KILLED + 1)], "each iteration is there, and once"
    assert {record["fault/restarts"] for record in records} == {0}
    assert sum(record["fault/engines"] for record in records) == 1
    assert weights(tmp_path, KILLED) == weights(whole, KILLED), "as if nothing had happened"


@pytest.mark.timeout(5 * DEADLINE_S)  # five runs, each with its own deadline
def test_a_run_whose_driver_is_killed_anywhere_goes_on_at_the_same_command(whole, tmp_path):
    said = die(tmp_path, "sampling", 2)
    assert (iterations(tmp_path), checkpoints(tmp_path)) == ([0, 1], [1])
    assert "resuming" not in said

    said = die(tmp_path, "update", 2)
    assert (iterations(tmp_path), checkpoints(tmp_path)) == ([0, 1, 2], [1, 2])
    assert "resuming after iteration 1" in said

    said = die(tmp_path, "publish", 3)
    assert (iterations(tmp_path), checkpoints(tmp_path)) == ([*range(4)], [1, 2, 3])
    assert "resuming after iteration 2" in said, "what is taken up is published first"

    said = die(tmp_path, "checkpoint", 2)
    assert (iterations(tmp_path), checkpoints(tmp_path)) == ([*range(6)], [1, 2, 3, 4]), "the log comes first"
    assert "resuming after iteration 3" in said
    broken_off = tmp_path / "checkpoints/.writing-iteration-000005"
    assert {path.name for path in broken_off.iterdir()} >= {"trainer", "model"}
    assert not (broken_off / "state.json").exists()

    said = finish(start(tmp_path, KILLED))
    assert "resuming after iteration 4" in said
    assert not broken_off.exists()
    assert iterations(tmp_path) == [*range(KILLED + 1)], "each iteration is there, and once"
    every = [*range(1, KILLED + 1)]
    assert [weights(tmp_path, i) for i in every] == [weights(whole, i) for i in every], "as if nothing had happened"


@pytest.mark.parametrize("rank", [0, 1])
def test_a_run_goes_on_after_a_trainer_rank_was_killed_while_it_published(whole, tmp_path, rank):
    said = finish(start(tmp_path, KILLED, ("tests.e2e.dying", str(rank), "publish", "3")))
    assert f"trainer rank {rank} failed: " in said
    assert "restart 1: the run goes on after iteration 1" in said
    assert iterations(tmp_path) == [*range(KILLED + 1)], "each iteration is there, and once"
    assert [record["fault/restarts"] for record in read_metrics(tmp_path)[1:]] == [0] + [1] * (KILLED - 1)
    assert weights(tmp_path, KILLED) == weights(whole, KILLED), "as if nothing had happened"
