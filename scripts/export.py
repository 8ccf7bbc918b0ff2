"""A run's policy as a Hugging Face folder: weights, configuration, tokenizer."""

from __future__ import annotations

import shutil
from pathlib import Path

from rl.checkpoint import Checkpoints
from rl.tracking.console import warn


def export(run_folder: Path, target: Path) -> None:
    """Copy the policy of the newest checkpoint to ``target``, which must not exist. Raises ``ValueError``."""
    checkpoints = Checkpoints(run_folder / "checkpoints", keep=1)
    found = checkpoints.newest()
    if found is None:
        raise ValueError(f"the run folder must hold a complete checkpoint, got {run_folder} without one")
    for damage in checkpoints.damage:
        warn(f"a damaged checkpoint is passed over: {damage}")
    if target.exists():
        raise ValueError(f"the target must not exist, got {target}; choose another folder or remove it")
    state, checkpoint = found
    aside = target.with_name(target.name + ".writing")
    shutil.rmtree(aside, ignore_errors=True)
    shutil.copytree(checkpoint / "model", aside)
    aside.rename(target)
    print(f"{target}: the policy after iteration {state.iteration} of {run_folder}")
