import pytest

from rl.checkpoint import Checkpoints, RunState


def state(iteration):
    return RunState(
        iteration=iteration, stream={"position": 3}, version=iteration, critic={}, budget={}, fingerprint={"seed": "0"}
    )


def test_newest_and_keep(tmp_path):
    checkpoints = Checkpoints(tmp_path / "checkpoints", keep=2)
    assert checkpoints.newest() is None
    for i in (1, 2, 3):
        checkpoints.save(
            state(i),
            lambda folder: (folder / "weights").write_text("w"),
            lambda folder: (folder / "critic").write_text("c"),
        )
    found, folder = checkpoints.newest()
    assert found == state(3)
    assert [(folder / name).read_text() for name in ("weights", "critic")] == ["w", "c"]
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == ["iteration-000002", "iteration-000003"]


def test_a_failed_save_leaves_the_last_good_one(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=1)
    checkpoints.save(state(1), lambda folder: (folder / "weights").write_text("w"))

    def fail(folder):
        (folder / "weights").write_text("half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        checkpoints.save(state(2), fail)
    found, folder = checkpoints.newest()
    assert (found, (folder / "weights").read_text()) == (state(1), "w")
    checkpoints.save(state(2), lambda folder: (folder / "weights").write_text("w2"))
    assert checkpoints.newest()[0] == state(2)
