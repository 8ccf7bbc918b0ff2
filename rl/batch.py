"""Rollout groups to training batches: advantages, weights, and the arrays that travel to the trainer ranks.

Shape suffixes: ``N`` tokens of the micro-batch, prompts included; ``T`` sampled tokens; ``S`` sequences.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rl.packing import Plan, plan_micro_batches
from rl.types import Rollout, RolloutGroup


@dataclass(frozen=True, kw_only=True, slots=True)
class WeightedRollout:
    """One rollout with its place in the objective. ``weight`` is its share of the update's mean."""

    rollout: Rollout
    advantage: float
    weight: float
    supervised: bool = False
    """Learnt by cross-entropy; the advantage is not used."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MicroBatch:
    """Sequences laid end to end, for one forward and backward pass of one rank."""

    token_ids_N: NDArray[np.int64]
    lengths_S: NDArray[np.int64]
    predict_at_T: NDArray[np.int64]
    """Position whose output predicts the sampled token; the token itself is at the next position."""
    seq_ids_T: NDArray[np.int64]
    sampler_logprobs_T: NDArray[np.float32]
    advantages_S: NDArray[np.float32]
    weights_S: NDArray[np.float32]
    supervised_S: NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainBatch:
    """One update: ``micro_batches[rank][step]``."""

    micro_batches: Sequence[Sequence[MicroBatch]]
    tokens: int
    sequences: int


def weigh(groups: Sequence[RolloutGroup], advantage: Callable[[Tensor], Tensor]) -> list[WeightedRollout]:
    """Advantages within each group; groups count by their weight, and every rollout the same within its group.

    Rollouts without a valid score are left out first. A group with fewer than two left contributes nothing, unless it
    is supervised, and neither does one of weight 0.
    """
    kept = []
    for group in groups:
        valid = [(r, s.value) for r, s in zip(group.rollouts, group.scores, strict=True) if s.fault is None]
        if len(valid) >= (1 if group.supervised else 2) and group.weight > 0:
            kept.append((group, valid))
    total = sum(group.weight for group, _ in kept)
    sequences = []
    for group, valid in kept:
        advantages = advantage(torch.tensor([value for _, value in valid], dtype=torch.float64))
        weight = group.weight / (total * len(valid))
        for (rollout, _), a in zip(valid, advantages.tolist(), strict=True):
            sequences.append(WeightedRollout(rollout=rollout, advantage=a, weight=weight, supervised=group.supervised))
    return sequences


def make_batch(sequences: Sequence[WeightedRollout], *, ranks: int, max_tokens: int) -> TrainBatch:
    """Distribute sequences over ranks and micro-batches. Raises ``ValueError`` if one does not fit."""
    lengths = [len(s.rollout.token_ids) for s in sequences]
    plan: Plan = plan_micro_batches(lengths, ranks=ranks, max_tokens=max_tokens)
    return TrainBatch(
        micro_batches=[[make_micro_batch([sequences[i] for i in step]) for step in rank] for rank in plan],
        tokens=sum(lengths),
        sequences=len(sequences),
    )


def make_micro_batch(sequences: Sequence[WeightedRollout]) -> MicroBatch:
    """Lay sequences end to end. None at all gives a placeholder of weight 0 that keeps ranks in step."""
    if not sequences:
        return MicroBatch(
            token_ids_N=np.zeros(2, np.int64),
            lengths_S=np.array([2]),
            predict_at_T=np.zeros(1, np.int64),
            seq_ids_T=np.zeros(1, np.int64),
            sampler_logprobs_T=np.zeros(1, np.float32),
            advantages_S=np.zeros(1, np.float32),
            weights_S=np.zeros(1, np.float32),
            supervised_S=np.zeros(1, bool),
        )
    lengths = np.array([len(s.rollout.token_ids) for s in sequences])
    mask_N = np.concatenate([s.rollout.loss_mask for s in sequences]).astype(bool)
    starts_S = np.cumsum(lengths) - lengths
    mask_N[starts_S] = False  # nothing predicts a sequence's first token
    (sampled_T,) = mask_N.nonzero()
    return MicroBatch(
        token_ids_N=np.concatenate([s.rollout.token_ids for s in sequences]).astype(np.int64),
        lengths_S=lengths,
        predict_at_T=sampled_T - 1,
        seq_ids_T=np.repeat(np.arange(len(sequences)), lengths)[sampled_T],
        sampler_logprobs_T=np.concatenate([s.rollout.sampler_logprobs for s in sequences]).astype(np.float32)[
            sampled_T
        ],
        advantages_S=np.array([s.advantage for s in sequences], np.float32),
        weights_S=np.array([s.weight for s in sequences], np.float32),
        supervised_S=np.array([s.supervised for s in sequences], bool),
    )
