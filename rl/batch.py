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
from rl.types import Rollout, RolloutGroup, Segment


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
    """Sequences for one forward and backward pass of one rank. Those with one prompt share it: it is laid down once.

    A rollout is one sequence and has a row for each of its views.
    """

    token_ids_N: NDArray[np.int64]
    rows: Sequence[Sequence[range]]
    """Each view of a sequence as stretches of ``token_ids_N``."""
    sampled_T: NDArray[np.int64]
    """Ids of the sampled tokens."""
    predict_at_T: NDArray[np.int64]
    """Position in ``token_ids_N`` whose output predicts the sampled token."""
    seq_ids_T: NDArray[np.int64]
    sampler_logprobs_T: NDArray[np.float32]
    advantages_S: NDArray[np.float32]
    weights_S: NDArray[np.float32]
    temperatures_S: NDArray[np.float32]
    supervised_S: NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainBatch:
    """One update: ``micro_batches[rank][step]``."""

    micro_batches: Sequence[Sequence[MicroBatch]]
    tokens: int
    """Of all sequences, prompts included in each."""
    computed_tokens: int
    """What is left of them when shared prompts are counted once."""
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
            if not any(segment.from_model for segment in rollout.segments):
                continue  # all of it is context: it counts in the baseline, and teaches nothing itself
            sequences.append(WeightedRollout(rollout=rollout, advantage=a, weight=weight, supervised=group.supervised))
    return sequences


def make_batch(sequences: Sequence[WeightedRollout], *, ranks: int, max_tokens: int) -> TrainBatch:
    """Distribute sequences over ranks and micro-batches. Raises ``ValueError`` if one does not fit."""
    bundles = _bundles(sequences, max_tokens)
    costs = [_cost([sequences[i] for i in bundle]) for bundle in bundles]
    plan: Plan = plan_micro_batches(costs, ranks=ranks, max_tokens=max_tokens)
    return TrainBatch(
        micro_batches=[
            [make_micro_batch([sequences[i] for bundle in step for i in bundles[bundle]]) for step in rank]
            for rank in plan
        ],
        tokens=sum(len(s.rollout.token_ids) for s in sequences),
        computed_tokens=sum(costs),
        sequences=len(sequences),
    )


def _prompt(view: Sequence[Segment]) -> tuple[int, ...]:
    return () if view[0].from_model else tuple(view[0].token_ids)


def _cost(bundle: Sequence[WeightedRollout]) -> int:
    """Tokens to compute for sequences that are laid down together."""
    views = [view for sequence in bundle for view in sequence.rollout.views]
    prompts = {_prompt(view) for view in views}
    return sum(map(len, prompts)) + sum(sum(len(s.token_ids) for s in view) - len(_prompt(view)) for view in views)


def _bundles(sequences: Sequence[WeightedRollout], max_tokens: int) -> list[list[int]]:
    """Sequences with one prompt together, as far as they fit into one micro-batch."""
    open_bundles: dict[tuple[int, ...], list[int]] = {}
    bundles = []
    for i, sequence in enumerate(sequences):
        prompt = _prompt(sequence.rollout.views[0])
        bundle = open_bundles.get(prompt)
        if bundle is None or _cost([*(sequences[j] for j in bundle), sequence]) > max_tokens:
            bundle = open_bundles[prompt] = []
            bundles.append(bundle)
        bundle.append(i)
    return bundles


def make_micro_batch(sequences: Sequence[WeightedRollout]) -> MicroBatch:
    """Lay sequences end to end. None at all gives a placeholder of weight 0 that keeps ranks in step."""
    if not sequences:
        return MicroBatch(
            token_ids_N=np.zeros(2, np.int64),
            rows=[[range(2)]],
            sampled_T=np.zeros(1, np.int64),
            predict_at_T=np.zeros(1, np.int64),
            seq_ids_T=np.zeros(1, np.int64),
            sampler_logprobs_T=np.zeros(1, np.float32),
            advantages_S=np.zeros(1, np.float32),
            weights_S=np.zeros(1, np.float32),
            temperatures_S=np.ones(1, np.float32),
            supervised_S=np.zeros(1, bool),
        )
    ids, rows, owners = _lay_down(sequences)
    places = [np.concatenate([np.arange(span.start, span.stop) for span in row]) for row in rows]
    masks = [_sampled(view) for sequence in sequences for view in sequence.rollout.views]
    at_T = np.concatenate([place[:-1][mask[1:]] for place, mask in zip(places, masks, strict=True)])
    sampled_at_T = np.concatenate([place[mask] for place, mask in zip(places, masks, strict=True)])
    logprobs = [np.array(s.rollout.sampler_logprobs, np.float32) for s in sequences]
    sampled = [np.concatenate([m for m, o in zip(masks, owners, strict=True) if o == i]) for i in range(len(sequences))]
    return MicroBatch(
        token_ids_N=ids,
        rows=rows,
        sampled_T=ids[sampled_at_T],
        predict_at_T=at_T,
        seq_ids_T=np.repeat(owners, [int(mask.sum()) for mask in masks]),
        sampler_logprobs_T=np.concatenate([x[mask] for x, mask in zip(logprobs, sampled, strict=True)]),
        advantages_S=np.array([s.advantage for s in sequences], np.float32),
        weights_S=np.array([s.weight for s in sequences], np.float32),
        temperatures_S=np.array([s.rollout.temperature for s in sequences], np.float32),
        supervised_S=np.array([s.supervised for s in sequences], bool),
    )


def _sampled(view: Sequence[Segment]) -> NDArray[np.bool_]:
    mask = np.array([s.from_model for s in view for _ in s.token_ids], bool)
    mask[0] = False  # nothing predicts a view's first token
    return mask


def _lay_down(sequences: Sequence[WeightedRollout]) -> tuple[NDArray[np.int64], list[list[range]], list[int]]:
    """All tokens, where each view's are, and the number of the sequence that it belongs to."""
    ids: list[int] = []
    prompts: dict[tuple[int, ...], range] = {}
    rows, owners = [], []
    for number, sequence in enumerate(sequences):
        for view in sequence.rollout.views:
            prompt, tokens = _prompt(view), [t for segment in view for t in segment.token_ids]
            if prompt not in prompts:
                prompts[prompt] = range(len(ids), len(ids) + len(prompt))
                ids += prompt
            own = range(len(ids), len(ids) + len(tokens) - len(prompt))
            ids += tokens[len(prompt) :]
            rows.append([prompts[prompt], own])
            owners.append(number)
    return np.array(ids, np.int64), rows, owners
