import json
import re
import shutil

import pytest

from rl import checkpoint
from rl.checkpoint import Checkpoints, RunState


def state(iteration):
    return RunState(
        iteration=iteration,
        stream={"position": 3, "shares": {"math": 0.1}},
        version=iteration,
        weights=f"digest {iteration}",
        critic={},
        budget={},
        fingerprint={"seed": "0"},
    )


def write(folder):
    """A checkpoint's files: one in a folder of its own, one that is empty."""
    (folder / "trainer").mkdir()
    (folder / "trainer/rank0.bin").write_bytes(bytes(range(256)) * 64)
    (folder / "latest").write_text("trainer")
    (folder / "empty").touch()


@pytest.fixture
def saved(tmp_path):
    """A folder with the checkpoints of the iterations 1, 2 and 3."""
    checkpoints = Checkpoints(tmp_path / "checkpoints", keep=3)
    for i in (1, 2, 3):
        checkpoints.save(state(i), write)
    return tmp_path / "checkpoints"


def truncate(folder):
    path = folder / "trainer/rank0.bin"
    path.write_bytes(path.read_bytes()[:-1])


def flip(folder, name="trainer/rank0.bin"):
    data = bytearray((folder / name).read_bytes())
    data[len(data) // 2] ^= 1
    (folder / name).write_bytes(data)


def remove(folder):
    (folder / "trainer/rank0.bin").unlink()


def flip_state(folder):
    path = folder / "state.json"
    path.write_text(path.read_text().replace('"position": 3', '"position": 7'))


def cut_state(folder):
    path = folder / "state.json"
    path.write_text(path.read_text()[:-20])


def other_version(folder):
    path = folder / "state.json"
    record = json.loads(path.read_text())
    del record["digest"], record["version"]
    path.write_text(json.dumps(record | {"digest": checkpoint._digest_of(record)}))


DAMAGE = {
    truncate: "trainer/rank0.bin has 16383 bytes, 16384 were written",
    flip: "trainer/rank0.bin does not hold what was written",
    remove: "trainer/rank0.bin is missing",
    flip_state: "state.json is not as it was written",
    cut_state: "state.json cannot be parsed",
    lambda folder: (folder / "state.json").write_bytes(b"\xff\x00"): "state.json cannot be parsed",
    lambda folder: (folder / "state.json").write_text("[]"): "state.json is not as it was written",
    lambda folder: (folder / "state.json").unlink(): "state.json is missing",
    other_version: "state.json is of another version of closedloop: .*version",
}


def test_newest_and_keep(tmp_path):
    checkpoints = Checkpoints(tmp_path / "checkpoints", keep=2)
    assert checkpoints.newest() is None
    assert checkpoints.saved == 0
    for i in (1, 2, 3):
        checkpoints.save(
            state(i),
            lambda folder: (folder / "weights").write_text("w"),
            lambda folder: (folder / "critic").write_text("c"),
        )
    assert checkpoints.saved == 3
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


def test_size_and_digest_of_every_file_are_recorded(saved):
    files = json.loads((saved / "iteration-000003/state.json").read_text())["files"]
    assert {name: size for name, (size, _) in files.items()} == {"empty": 0, "latest": 7, "trainer/rank0.bin": 16384}
    assert all(re.fullmatch("[0-9a-f]{32}", digest) for _, digest in files.values())


@pytest.mark.parametrize(("damage", "text"), DAMAGE.items())
def test_a_damaged_checkpoint_is_passed_over_and_named(saved, damage, text):
    damage(saved / "iteration-000003")
    checkpoints = Checkpoints(saved, keep=3)
    assert checkpoints.newest() == (state(2), saved / "iteration-000002")
    (named,) = checkpoints.damage
    assert re.match(f"{saved}/iteration-000003: {text}", named)


def test_intact_ones_are_not_complained_about(saved):
    flip(saved / "iteration-000002")
    checkpoints = Checkpoints(saved, keep=3)
    assert checkpoints.newest()[0] == state(3)
    assert checkpoints.damage == []


def test_a_file_that_cannot_be_read_is_damage(saved, monkeypatch):
    read = checkpoint._size_and_digest

    def broken(path):
        if "iteration-000003" in str(path):
            raise OSError(5, "Input/output error", str(path))
        return read(path)

    monkeypatch.setattr(checkpoint, "_size_and_digest", broken)
    checkpoints = Checkpoints(saved, keep=3)
    assert checkpoints.newest()[0] == state(2)
    assert "Input/output error" in checkpoints.damage[0]


def test_all_damaged_is_refused(saved):
    for damage, i in ((truncate, 1), (flip, 2), (cut_state, 3)):
        damage(saved / f"iteration-00000{i}")
    with pytest.raises(ValueError, match=f"{saved} must hold an intact checkpoint.*restore one from a copy") as refused:
        Checkpoints(saved, keep=3).newest()
    assert all(f"iteration-00000{i}: " in str(refused.value) for i in (1, 2, 3))


def test_files_are_read_once(saved, monkeypatch):
    flip(saved / "iteration-000003")
    read = []
    size_and_digest = checkpoint._size_and_digest
    monkeypatch.setattr(checkpoint, "_size_and_digest", lambda path: read.append(path) or size_and_digest(path))
    checkpoints = Checkpoints(saved, keep=3)
    assert checkpoints.newest() == checkpoints.newest()
    assert len(read) == len(set(read)) == 6
    assert len(checkpoints.damage) == 1


def test_a_damaged_checkpoint_is_replaced(saved):
    flip(saved / "iteration-000003")
    checkpoints = Checkpoints(saved, keep=3)
    assert checkpoints.newest()[0] == state(2)
    checkpoints.save(state(3), write)
    assert checkpoints.newest()[0] == state(3)
    assert checkpoints.damage == []
    truncate(saved / "iteration-000003")
    assert Checkpoints(saved, keep=3).newest()[0] == state(2)


def test_damaged_checkpoints_are_none_of_those_to_keep(saved):
    flip(saved / "iteration-000003")
    checkpoints = Checkpoints(saved, keep=2)
    assert checkpoints.newest()[0] == state(2)
    checkpoints.save(state(4), write)
    assert sorted(p.name[-1] for p in saved.iterdir()) == ["2", "3", "4"], "2 and 4 are good"
    checkpoints.save(state(5), write)
    assert sorted(p.name[-1] for p in saved.iterdir()) == ["4", "5"]


def test_what_is_left_of_a_removal_that_was_broken_off_counts_for_nothing(saved):
    (saved / "iteration-000002/state.json").unlink()
    checkpoints = Checkpoints(saved, keep=2)
    checkpoints.save(state(4), write)
    assert sorted(p.name[-1] for p in saved.iterdir()) == ["3", "4"]


def test_a_copy_is_as_good_as_the_original(saved, tmp_path):
    shutil.copytree(saved, tmp_path / "copy")
    assert Checkpoints(tmp_path / "copy", keep=3).newest()[0] == state(3)
