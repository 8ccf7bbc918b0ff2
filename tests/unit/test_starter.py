import hashlib
import json
import random
import subprocess
import sys

import pytest
from safetensors import safe_open

from rl.compose import REPOSITORY
from rl.procedural import FAMILIES, problem_at
from scripts import starter_mix


@pytest.mark.parametrize("name", ["starter", "starter_dsv3"])
def test_committed_weights_are_small_and_as_recorded(name):
    path = REPOSITORY / "models" / name / "model.safetensors"
    manifest = json.loads((path.parent / "starter.json").read_text())
    assert path.stat().st_size <= 8 * 2**20
    assert hashlib.sha256(path.read_bytes()).hexdigest() == manifest["weights_sha256"]
    with safe_open(path, "pt") as tensors:
        dtypes = {tensors.get_tensor(k).dtype for k in tensors.keys() if not k.endswith("bias")}  # noqa: SIM118
    assert {str(d) for d in dtypes} == {"torch.bfloat16"}


def test_building_is_deterministic(tmp_path):
    digests = []
    for attempt in ("a", "b"):
        command = ["-m", "scripts.make_starter", "qwen3moe", str(tmp_path / attempt), "--steps", "2"]
        subprocess.run(
            [sys.executable, *command, "--no-evaluation"], cwd=REPOSITORY, check=True, capture_output=True, timeout=300
        )
        digests.append(json.loads((tmp_path / attempt / "starter.json").read_text())["weights_sha256"])
    assert digests[0] == digests[1]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_slip_spoils_the_answer_and_any_part_of_a_step(family):
    rng = random.Random(family)
    changed = set()
    for number in range(400):
        problem = problem_at(number, families=[family], seed=0, held_out=False)
        right = problem.steps.rpartition(": ")[2].split(", ")
        assert all(str(starter_mix._value(work, problem)) == value for work, value in (s.split("=") for s in right))
        steps, answer = starter_mix._slip(rng, problem)
        assert answer != problem.answer
        wrong = steps.rpartition(": ")[2].split(", ")
        first = next(i for i, (a, b) in enumerate(zip(right, wrong, strict=True)) if a != b)
        changed.add(right[first].split("=")[0] == wrong[first].split("=")[0])
    assert changed == {True, False}
