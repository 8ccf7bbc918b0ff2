"""Real actors that die: the error names the one that did, and quotes its last words."""

import os
import signal
import sys
import time

import pytest
import ray

from rl.compose import load_config
from rl.errors import WorkerFailedError
from rl.workers import calls, placement
from rl.workers.calls import translate, wait_all

pytestmark = pytest.mark.slow
ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers cannot import this file


class Worker:
    def answer(self):
        return os.getpid()

    def say_and_exit(self, lines):
        for number in range(lines):
            print(f"line {number}")
        print("no more memory", file=sys.stderr)
        os._exit(3)

    def say_and_be_killed(self):
        print("I felt well this morning")
        os.kill(os.getpid(), signal.SIGKILL)

    def exit_silently(self):
        os._exit(3)

    def fail(self):
        raise RuntimeError("connection closed by peer")

    def refuse(self):
        raise ValueError("size must be even, got 3")

    def answer_late(self, seconds):
        time.sleep(seconds)


@pytest.fixture(scope="module")
def start():
    placement.connect(load_config([]).cluster)
    yield lambda: ray.remote(num_cpus=0, max_restarts=0)(Worker).remote()
    placement.disconnect()


def failure(made):
    with pytest.raises(WorkerFailedError) as failed:
        wait_all(made, deadline_s=60)
    return str(failed.value)


def test_answers_come_in_order(start):
    a, b = start(), start()
    first, second = wait_all({"a": a.answer.remote(), "b": b.answer.remote()}, deadline_s=60)
    assert first != second


def test_the_log_of_a_worker_that_exits_is_quoted(start):
    text = failure({"trainer rank 3": start().say_and_exit.remote(50)})
    assert text.startswith("trainer rank 3 failed: ")
    assert [line for line in text.splitlines() if line.startswith("  line ")] == [f"  line {i}" for i in range(30, 50)]
    assert text.endswith("\n  no more memory")
    assert ":job_id:" not in text


def test_the_log_of_a_worker_that_is_killed_is_quoted(start):
    assert "  I felt well this morning" in failure({"rollout worker 0": start().say_and_be_killed.remote()})


def test_a_later_call_to_a_dead_worker_quotes_it_too(start):
    worker = start()
    failure({"w": worker.say_and_be_killed.remote()})
    assert "  I felt well this morning" in failure({"w": worker.answer.remote()})


def test_a_worker_that_said_nothing_is_named_without_a_log(start):
    text = failure({"w": start().exit_silently.remote()})
    assert text.startswith("w failed: ")
    assert "the end of" not in text


def test_the_log_of_a_worker_elsewhere_is_named(start):
    report = RayDeath("The actor died.\n\tpid: 77\n\tip: 10.1.2.3\nIt was killed.")
    text = str(translate("trainer rank 9", report))
    assert "its log is on node 10.1.2.3: " in text
    assert text.endswith("worker-*-77.out and .err")


def test_a_report_without_a_process_gives_no_log(start):
    assert str(translate("w", RayDeath("The actor died."))) == "w failed: The actor died."


class RayDeath(ray.exceptions.RayActorError):
    def __init__(self, text):
        super().__init__(actor_id="00", error_msg=text)


def test_the_one_that_died_is_named_and_not_the_one_that_noticed(start):
    a, b = start(), start()
    wait_all({"a": a.answer.remote(), "b": b.answer.remote()}, deadline_s=60)
    noticed = a.fail.remote()
    ray.wait([noticed], timeout=60)
    assert failure({"a": noticed, "b": b.say_and_be_killed.remote()}).startswith("b failed: ")


def test_without_a_death_the_first_failure_is_named(start, monkeypatch):
    monkeypatch.setattr(calls, "_GRACE_S", 0.2)
    a, b = start(), start()
    text = failure({"a": a.fail.remote(), "b": b.answer_late.remote(30)})
    assert text.startswith("a failed: ")
    assert "connection closed by peer" in text
    ray.kill(b)


def test_what_the_user_can_mend_stays_a_value_error(start):
    with pytest.raises(ValueError, match="size must be even"):
        wait_all({"a": start().refuse.remote()}, deadline_s=60)
