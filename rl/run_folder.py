"""The run folder: what a run writes there before it begins, and whether an earlier run in it can be continued."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml

from rl.checkpoint import Checkpoints
from rl.config import Config, Resume


def fingerprint_of(config: Config) -> dict[str, str]:
    """Settings under which a checkpoint can be continued; see ``check_folder``."""
    return {
        "seed": str(config.seed),
        "model.path": config.model.path,
        "trainer.ranks": str(config.trainer.ranks),
        "trainer.zero_stage": str(config.trainer.zero_stage),
        "trainer.expert_parallel": str(config.trainer.expert_parallel),
        "tasks.train": str(plain(config.tasks.train)),
        "critic.mode": config.critic.mode.value,
        "budget.policy": str(plain(config.budget.policy)),
        "tasks.stream": str(plain(config.tasks.stream)),
        # The digest of published weights, by which a checkpoint is known, covers how they are laid out in buckets.
        "weights.bucket_mib": str(config.weights.bucket_mib),
    }


def check_folder(
    config: Config, folder: Path, checkpoints: Checkpoints, fingerprint: dict[str, str], *, restarted: bool = False
) -> int | None:
    """Iterations of the checkpoint to go on from, None to start anew. Raises ``ValueError`` if neither may be.

    ``restarted`` says that what the folder holds is this very run's.
    """
    if config.resume is Resume.never and not restarted and (folder / "metrics.jsonl").exists():
        raise ValueError(f"folder must not hold a run with resume=never, got {folder}; choose another name or folder")
    found = checkpoints.newest()
    if found is None:
        return None
    state, _ = found
    for name, value in fingerprint.items():
        if state.fingerprint.get(name) != value:
            raise ValueError(
                f"{name} must be what the run in {folder} began with ({state.fingerprint.get(name)}), got {value}; "
                "keep it, or choose another name or folder"
            )
    if state.iteration >= config.iterations:
        raise ValueError(
            f"iterations must exceed the {state.iteration} that the run in {folder} has done, got {config.iterations}; "
            "raise it, or choose another name or folder"
        )
    return state.iteration


def write_config(config: Config, folder: Path) -> dict[str, Any]:
    """Write ``config.yaml`` into the folder, which is made; returns what stands in it."""
    settings: dict[str, Any] = plain(asdict(config))
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(settings, sort_keys=False))
    return settings


def plain(value: Any) -> Any:
    """The same with enums as text and tuples as lists, for YAML."""
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    return value.value if hasattr(value, "value") else value
