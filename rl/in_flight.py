"""Rollout groups under way, as JSON and back, so that a restart of the run loses no more than the turns in flight."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

from rl.collect import Collector, PendingGroup
from rl.types import EndReason, Rollout, Segment, Task


def record_of(group: PendingGroup) -> dict[str, Any]:
    """Everything that ``group_from`` needs, as JSON. Scores are left out: they can be had again."""
    sampled = next(iter(group.episodes.values()), None)
    return {
        "task": asdict(group.task),
        "stream": group.stream,
        "rollouts": len(group.episodes) + len(group.ended),
        "needed": group.needed,
        "temperature": sampled.temperature if sampled else next(iter(group.ended.values())).temperature,
        "limits": asdict(sampled.limits) if sampled else None,
        "episodes": {
            str(k): {
                "segments": [asdict(s) for s in e.segments],
                "messages": e.messages,
                "heard": e.heard,
                "budget": e.budget,
                "prompt_tokens": e.prompt_tokens,
                "cached_tokens": e.cached_tokens,
            }
            for k, e in group.episodes.items()
        },
        "ended": {str(k): asdict(rollout) for k, rollout in group.ended.items()},
    }


def group_from(record: Mapping[str, Any], collector: Collector) -> PendingGroup:
    """The group as it was; environments are new and will be told again what the policy said."""
    task = record["task"]
    limits = record["limits"]
    group = collector.begin(
        Task(**{**task, "messages": tuple(task["messages"]), "tags": tuple(task["tags"])}),
        size=record["needed"],
        spare=record["rollouts"] - record["needed"],
        temperature=record["temperature"],
        stream=record["stream"],
        limits=None if limits is None else replace(collector.limits, **limits),
    )
    for number, state in record["episodes"].items():
        episode = group.episodes[int(number)]
        episode.segments = [_segment(s) for s in state["segments"]]
        episode.messages, episode.heard = list(state["messages"]), list(state["heard"])
        episode.budget = state["budget"]
        episode.prompt_tokens, episode.cached_tokens = state["prompt_tokens"], state["cached_tokens"]
    for number, rollout in record["ended"].items():
        del group.episodes[int(number)]
        group.ended[int(number)] = Rollout(
            **{
                **rollout,
                "segments": tuple(map(_segment, rollout["segments"])),
                "messages": tuple(rollout["messages"]),
                "end_reason": EndReason(rollout["end_reason"]),
            }
        )
    return group


def _segment(record: Mapping[str, Any]) -> Segment:
    return Segment(
        **{
            **record,
            "token_ids": tuple(record["token_ids"]),
            "sampler_logprobs": tuple(record["sampler_logprobs"]),
        }
    )
