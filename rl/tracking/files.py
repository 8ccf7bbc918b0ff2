"""Run files: ``metrics.jsonl``, full rollouts, ``summary.json``. Each line is on disk before the next iteration."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rl.types import RolloutGroup

METRICS = "metrics.jsonl"
SUMMARY = "summary.json"


class FileTracker:
    """Writes into the run folder. ``resume_after`` drops what a broken-off part wrote beyond that iteration."""

    def __init__(self, folder: Path, *, resume_after: int | None) -> None:
        self._folder = folder
        self._rollouts = folder / "rollouts"
        self._rollouts.mkdir(parents=True, exist_ok=True)
        kept = [] if resume_after is None else [r for r in read_metrics(folder) if r["iteration"] <= resume_after]
        self._lines = (folder / METRICS).open("w", encoding="utf-8")
        for record in kept:
            self._write(record)

    def log(self, iteration: int, metrics: Mapping[str, float], groups: Sequence[RolloutGroup] = ()) -> None:
        self._write({"iteration": iteration, **metrics})
        if groups:
            with (self._rollouts / f"{iteration:06d}.jsonl").open("w", encoding="utf-8") as file:
                file.writelines(json.dumps(record) + "\n" for record in rollout_records(iteration, groups))

    def _write(self, record: Mapping[str, Any]) -> None:
        self._lines.write(json.dumps(record) + "\n")
        self._lines.flush()

    def close(self, summary: Mapping[str, float]) -> None:
        self._lines.close()
        (self._folder / SUMMARY).write_text(json.dumps(dict(summary), indent=2) + "\n")


def rollout_records(iteration: int, groups: Sequence[RolloutGroup]) -> Iterator[dict[str, Any]]:
    """One JSON-ready record per rollout: the tokens as sampled, the text, and where its reward came from."""
    for group in groups:
        for rollout, score in zip(group.rollouts, group.scores, strict=True):
            yield {
                "iteration": iteration,
                "task": group.task.id,
                "kind": group.task.kind,
                "prompt": list(group.task.messages),
                "messages": list(rollout.messages),
                "end_reason": rollout.end_reason,
                "outcome": dict(rollout.outcome),
                "budget": rollout.budget,
                "score": score.value,
                "parts": dict(score.parts),
                "verdicts": dict(score.verdicts),
                "critic_version": score.critic_version,
                "rubric_hash": score.rubric_hash,
                "fault": score.fault,
                "error": score.error,
                "segments": [
                    {
                        "from_model": s.from_model,
                        "new_view": s.new_view,
                        "policy_version": s.policy_version,
                        "token_ids": list(s.token_ids),
                        "sampler_logprobs": [round(x, 5) for x in s.sampler_logprobs],
                    }
                    for s in rollout.segments
                ],
                "timings": dict(rollout.timings),
            }


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """All records of a run's ``metrics.jsonl``; a last line that was cut off is left out."""
    path = folder / METRICS
    records = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return records


def summarise(records: Sequence[Mapping[str, Any]], *, total_s: float) -> dict[str, float]:
    """The run in one line, over all its parts if it was resumed. Speeds are medians over iterations."""
    trained = [r for r in records if r["iteration"] >= 1]
    summary = {"time/total_s": total_s, "iterations": float(len(trained))}
    for name in ("eval/pass_rate", "critic/guard/accuracy"):
        measured = [r[name] for r in records if name in r]
        if measured:
            summary |= {f"{name}/first": measured[0], f"{name}/last": measured[-1]}
    if trained:
        summary |= {
            "time/first_iteration_s": trained[0]["time/since_start_s"],
            "time/iteration_s": statistics.median(r["time/iteration_s"] for r in trained),
            "time/other_share": sum(r["time/other_share"] * r["time/iteration_s"] for r in trained)
            / sum(r["time/iteration_s"] for r in trained),
            "perf/rollout_tokens_per_s": _median(trained, "perf/rollout_tokens_per_s"),
            "perf/train_tokens_per_s": _median(trained, "perf/train_tokens_per_s"),
        }
    proofs = [r for r in records if "weights/probe_max_abs_diff" in r]
    if proofs:
        summary |= {
            "weights/publishes": float(len(proofs)),
            "weights/probe_max_abs_diff": max(r["weights/probe_max_abs_diff"] for r in proofs),
            "weights/probe_mean_abs_diff": max(r["weights/probe_mean_abs_diff"] for r in proofs),
        }
    return summary


def _median(records: Sequence[Mapping[str, Any]], name: str) -> float:
    values = [r[name] for r in records if name in r]
    return statistics.median(values) if values else 0.0
