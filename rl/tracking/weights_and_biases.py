"""W&B: metrics, configuration and a table of rollouts. Offline unless the user is logged in."""

from __future__ import annotations

import netrc
import os
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rl.config import TrackingConfig, WandbMode
from rl.types import RolloutGroup


class WandbTracker:
    """One W&B run; a resumed run goes on under the same id."""

    def __init__(self, tracking: TrackingConfig, *, name: str, folder: Path, config: Mapping[str, Any]) -> None:
        import wandb

        self._wandb = wandb
        self._tracking = tracking
        id_file = folder / "wandb_id"
        if not id_file.exists():
            id_file.write_text(uuid.uuid4().hex[:8])
        self._run = wandb.init(
            project=tracking.project,
            name=name,
            id=id_file.read_text(),
            resume="allow",
            dir=str(folder),
            mode=_mode(tracking.wandb),
            config=dict(config),
            tags=list(tracking.tags),
            settings=wandb.Settings(silent=True, console="off"),
        )

    def log(self, iteration: int, metrics: Mapping[str, float], groups: Sequence[RolloutGroup] = ()) -> None:
        data: dict[str, Any] = dict(metrics)
        if groups and iteration % self._tracking.table_every == 0:
            data["rollouts"] = self._table(groups)
        self._run.log(data, step=iteration)

    def _table(self, groups: Sequence[RolloutGroup]) -> Any:
        table = self._wandb.Table(columns=["task", "prompt", "completion", "score", "end_reason", "tokens", "version"])
        for group in groups[: self._tracking.table_rows]:
            rollout, score = group.rollouts[0], group.scores[0]
            table.add_data(
                group.task.id,
                str(group.task.messages[-1]["content"]),
                rollout.completion,
                score.value,
                str(rollout.end_reason),
                rollout.completion_tokens,
                rollout.segments[-1].policy_version,
            )
        return table

    def stop(self) -> None:
        """End a run that failed, so that it can be taken up again; nothing after ``close``."""
        self._run.finish(exit_code=1)

    def close(self, summary: Mapping[str, float]) -> None:
        self._run.summary.update(dict(summary))
        self._run.finish()


def _mode(mode: WandbMode) -> Any:
    if mode is not WandbMode.auto:
        return mode.value
    return "online" if logged_in() else "offline"


def logged_in() -> bool:
    """Whether W&B has a key for its own server."""
    try:
        return bool(os.environ.get("WANDB_API_KEY") or netrc.netrc().authenticators("api.wandb.ai"))
    except (OSError, netrc.NetrcParseError):
        return False
