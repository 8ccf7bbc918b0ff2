"""Packing: which sequence is computed where. Pure functions of lengths; no tensors, no processes."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

Plan = list[list[list[int]]]
"""``plan[rank][step]`` lists the sequences of one micro-batch. All ranks have equally many steps."""


def plan_micro_batches(lengths: Sequence[int], *, ranks: int, max_tokens: int) -> Plan:
    """Distribute whole sequences over ranks and micro-batches of at most ``max_tokens`` tokens.

    Ranks get nearly equal token counts (longest first to the least loaded), then each rank packs first-fit
    decreasing. Ranks that need fewer steps get empty micro-batches at the end, because every rank must take part
    in every collective. Raises ``ValueError`` if one sequence alone exceeds ``max_tokens``.
    """
    if lengths and max(lengths) > max_tokens:
        raise ValueError(
            f"trainer.micro_batch_tokens must be at least the longest sequence, got {max_tokens} for a sequence of "
            f"{max(lengths)} tokens; raise it or lower rollout.max_tokens"
        )
    order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    loads = [0] * ranks
    shares: list[list[int]] = [[] for _ in range(ranks)]
    for i in order:
        rank = min(range(ranks), key=lambda r: (loads[r], r))
        loads[rank] += lengths[i]
        shares[rank].append(i)
    plan = [_first_fit(share, lengths, max_tokens) for share in shares]
    steps = max(1, *(len(bins) for bins in plan)) if plan else 1
    return [[*bins, *([] for _ in range(steps - len(bins)))] for bins in plan]


def _first_fit(share: list[int], lengths: Sequence[int], max_tokens: int) -> list[list[int]]:
    bins: list[list[int]] = []
    room: list[int] = []
    for i in share:
        for b, free in enumerate(room):
            if lengths[i] <= free:
                bins[b].append(i)
                room[b] -= lengths[i]
                break
        else:
            bins.append([i])
            room.append(max_tokens - lengths[i])
    return bins


def split_evenly(count: int, parts: int) -> list[range]:
    """``count`` items in ``parts`` contiguous ranges whose sizes differ by at most one."""
    bounds = [count * p // parts for p in range(parts + 1)]
    return [range(a, b) for a, b in pairwise(bounds)]
