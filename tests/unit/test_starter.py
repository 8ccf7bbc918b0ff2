import hashlib
import json
import subprocess
import sys

import pytest
from safetensors import safe_open

from rl.compose import REPOSITORY


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
