"""A run that fails: when it goes on by itself, from where, and what a resumed run's first publish must be."""

from contextlib import nullcontext
from types import SimpleNamespace

import pytest

from rl import launch
from rl.checkpoint import Checkpoints, RunState
from rl.compose import load_config
from rl.errors import RunInterrupted, TransferError, WeightMismatchError, WorkerFailedError
from rl.recover import Restarts
from rl.run_folder import fingerprint_of
from rl.system import System
from rl.validation import validate


def test_failures_in_a_row_end_a_run():
    restarts = Restarts(limit=2, began=True)
    assert [restarts.allow(saved=0) for _ in range(3)] == [True, True, False]
    assert restarts.count == 2


def test_a_new_checkpoint_begins_a_new_row():
    restarts = Restarts(limit=1, began=True)
    assert [restarts.allow(saved=saved) for saved in (0, 2, 4)] == [True, True, True]
    assert not restarts.allow(saved=0)
    again = Restarts(limit=1, began=True)
    assert [again.allow(saved=saved) for saved in (2, 2)] == [True, False], "the same one once more is no progress"


def test_what_never_ran_is_not_restarted():
    assert not Restarts(limit=3).allow(saved=0)


def test_a_negative_limit_is_refused():
    with pytest.raises(ValueError, match="restarts must not be negative, got -1"):
        validate(load_config(["restarts=-1"]))


@pytest.fixture
def attempts(tmp_path, monkeypatch):
    """``train`` with made-up attempts: each entry is an iteration to save, then what is raised or returned."""
    stop = {"asked": False}
    seen = []

    def run(script, *overrides):
        config = load_config([f"folder={tmp_path}", "iterations=9", *overrides])
        script = iter(script)

        def attempt(config, parts, checkpoints, done, restarts, stop_requested):
            restarts.began = True
            (tmp_path / "metrics.jsonl").touch()
            seen.append((done, restarts.count))
            saved, end = next(script)
            if saved:
                checkpoints.save(state(saved, fingerprint_of(config)), lambda folder: (folder / "w").write_text("w"))
            if isinstance(end, Exception):
                raise end
            return end

        monkeypatch.setattr(launch, "_attempt", attempt)
        monkeypatch.setattr(launch, "prepare", lambda config: None)
        monkeypatch.setattr(launch, "stop_on_interrupt", lambda: nullcontext(lambda: stop["asked"]))
        return launch.train(config)

    return SimpleNamespace(run=run, seen=seen, stop=stop)


def state(iteration, fingerprint, weights="abc"):
    return RunState(
        iteration=iteration, stream={}, version=iteration, weights=weights, critic={}, budget={},
        fingerprint=fingerprint,
    )  # fmt: skip


FAILURE = WorkerFailedError("trainer rank 1 failed: it died")


def test_a_run_goes_on_from_its_newest_checkpoint_or_from_the_start(attempts, tmp_path, capsys):
    other = TransferError("trainer rank 1 failed: it died")
    assert attempts.run([(None, FAILURE), (4, other), (9, 9)], "resume=never") == tmp_path
    assert attempts.seen == [(None, 0), (None, 1), (4, 2)]
    said = capsys.readouterr().err
    assert said.count("trainer rank 1 failed: it died") == 2
    assert "restart 1: the run begins anew" in said
    assert "restart 2: the run goes on after iteration 4" in said


def test_a_damaged_checkpoint_is_named_and_passed_over(attempts, tmp_path, capsys):
    config = load_config([f"folder={tmp_path}"])
    checkpoints = Checkpoints(tmp_path / "checkpoints", keep=2)
    for i in (2, 4):
        checkpoints.save(state(i, fingerprint_of(config)), lambda folder: (folder / "w").write_text("w"))
    (tmp_path / "checkpoints/iteration-000004/w").write_text("v")
    attempts.run([(9, 9)])
    assert attempts.seen == [(2, 0)]
    assert "iteration-000004: w does not hold what was written" in capsys.readouterr().err


def test_too_many_failures_are_raised(attempts):
    with pytest.raises(WorkerFailedError, match="it died"):
        attempts.run([(None, FAILURE)] * 3, "restarts=2")
    assert [count for _, count in attempts.seen] == [0, 1, 2]


@pytest.mark.parametrize("error", [ValueError("no"), WeightMismatchError("no"), RunInterrupted("no")])
def test_other_errors_are_raised_at_once(attempts, error):
    with pytest.raises(type(error), match="no"):
        attempts.run([(None, error)])
    assert len(attempts.seen) == 1


def test_a_run_that_was_asked_to_stop_does_not_begin_again(attempts):
    attempts.stop["asked"] = True
    with pytest.raises(WorkerFailedError):
        attempts.run([(None, FAILURE)])


def system(weights, published):
    """A system that has taken up a checkpoint whose state says ``weights``, and publishes ``published``."""
    parts = dict.fromkeys(System.__dataclass_fields__)
    del parts["_restored"]
    publisher = SimpleNamespace(digest=published, publish=lambda: (None, {"weights/version": 4.0}))
    made = System(**parts | {"publisher": publisher})
    made._restored = None if weights is None else state(4, {}, weights)
    return made


@pytest.mark.parametrize("weights", [None, "", "abc"])
def test_the_first_publish_of_a_run(weights):
    assert system(weights, "abc").publish_first() == {"weights/version": 4.0}


def test_a_resumed_run_must_publish_what_its_checkpoint_says():
    with pytest.raises(WeightMismatchError, match=r"from the checkpoint of iteration 4, but those published .* def;"):
        system("def", "abc").publish_first()
