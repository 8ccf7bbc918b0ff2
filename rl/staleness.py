"""Which of a rollout's tokens an update learns from, when not all were sampled by the present weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from rl.types import Rollout, RolloutGroup, Segment


def learnable(
    groups: Sequence[RolloutGroup], *, version: int, oldest: int
) -> tuple[list[RolloutGroup], dict[str, float]]:
    """The groups with all that weights before version ``oldest`` sampled turned into context, which is not learnt.

    So with ``oldest`` the present ``version``, an update learns from the present iteration's segments alone (K1.5
    §2.6.2). Also returns metrics: how many versions the policy's tokens are behind.
    """
    kept = [replace(g, rollouts=tuple(_without(r, oldest) for r in g.rollouts)) for g in groups]
    return kept, _ages(groups, version=version, oldest=oldest)


def _without(rollout: Rollout, oldest: int) -> Rollout:
    if all(s.policy_version is None or s.policy_version >= oldest for s in rollout.segments):
        return rollout
    return replace(rollout, segments=tuple(_context(s, oldest) for s in rollout.segments))


def _context(segment: Segment, oldest: int) -> Segment:
    if segment.policy_version is None or segment.policy_version >= oldest:
        return segment
    return replace(segment, from_model=False, sampler_logprobs=(), policy_version=None)


def _ages(groups: Sequence[RolloutGroup], *, version: int, oldest: int) -> dict[str, float]:
    ages = [
        (version - s.policy_version, len(s.token_ids), s.policy_version >= oldest)
        for g in groups
        for r in g.rollouts
        for s in r.segments
        if s.policy_version is not None
    ]
    tokens = sum(count for _, count, _ in ages)
    return {
        "staleness/mean": sum(age * count for age, count, _ in ages) / tokens if tokens else 0.0,
        "staleness/max": float(max((age for age, _, _ in ages), default=0)),
        "staleness/left_out": sum(count for _, count, kept in ages if not kept) / tokens if tokens else 0.0,
    }
