"""Policy losses. Each is one pure function of a packed micro-batch; sequences are told apart by ``seq_ids``.

Shape suffixes: ``T`` is sampled tokens of the micro-batch, all sequences one after the other, prompts and
environment text left out; ``S`` is sequences.

Every loss is a sum over the micro-batch's sequences weighted by ``weights_S``. The weights add up to 1 over the
whole update, all ranks and micro-batches together, so loss and gradient do not depend on how sequences are
distributed: micro-batches and ranks are simply added.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class LossInputs:
    """``logprobs_T`` carries the gradient. ``old_logprobs_T`` are those of the iteration's starting policy."""

    logprobs_T: Tensor
    old_logprobs_T: Tensor
    seq_ids_T: Tensor
    advantages_S: Tensor
    weights_S: Tensor
    """0 for sequences that the loss must pass over."""
    correction_T: Tensor | None = None
    """Factor of each token's gradient, without a gradient of its own; None for 1. See ``importance``."""


@dataclass(frozen=True, kw_only=True)
class LossOutputs:
    """``loss`` is a scalar; ``metrics`` are detached sums weighted like the loss, to be added over micro-batches."""

    loss: Tensor
    metrics: Mapping[str, Tensor] = field(default_factory=dict)


class Scale(StrEnum):
    """Which constant stands before K2's square; the direction of the gradient is the same."""

    PRINTED = "printed"
    """``(A - tau l)^2`` as printed (K2 §3.2.3). Its gradient is ``-2 tau`` times K1.5's Eq. 3."""
    GRADIENT = "gradient"
    """``(A - tau l)^2 / (2 tau)``. Its gradient is K1.5's Eq. 3 itself, so the learning rate does not hide tau."""


def sequence_sum(values_T: Tensor, seq_ids_T: Tensor, count: int) -> Tensor:
    """Sum of ``values_T`` per sequence, shape [count]."""
    return values_T.new_zeros(count).index_add(0, seq_ids_T, values_T)


def importance(old_logprobs_T: Tensor, sampler_logprobs_T: Tensor, *, cap: float) -> Tensor:
    """``min(pi_old / pi_sampler, cap)`` per token, for tokens that another policy sampled than the one that learns.

    Truncated importance sampling: the cap bounds the variance, at the price of some bias.
    """
    return (old_logprobs_T - sampler_logprobs_T).exp().clamp(max=cap)


def _corrected(inputs: LossInputs) -> Tensor:
    """``log pi - log pi_old`` per token with its gradient weighed by the correction, its value as it is."""
    ratio_T = inputs.logprobs_T - inputs.old_logprobs_T
    if inputs.correction_T is None:
        return ratio_T
    return ratio_T.detach() + inputs.correction_T * (ratio_T - ratio_T.detach())


def cross_entropy(logprobs_T: Tensor, seq_ids_T: Tensor, weights_S: Tensor) -> Tensor:
    """``- sum_i w_i sum_t log pi(y_t)`` over the sequences' own tokens, a scalar."""
    return -(weights_S * sequence_sum(logprobs_T, seq_ids_T, len(weights_S))).sum()


def k2(inputs: LossInputs, *, tau: float, scale: Scale | str = Scale.GRADIENT) -> LossOutputs:
    """Kimi K2's squared regression on the sequence log-ratio (K2 §3.2.3; K1.5 §2.3.2).

    ``L = sum_i w_i c (A_i - tau l_i)^2`` with ``l_i = sum_t log pi(y_t) - log pi_old(y_t)`` over the sequence's
    sampled tokens, and c = 1 (printed) or 1 / (2 tau) (gradient). Raises ``ValueError`` unless tau > 0.
    """
    if tau <= 0:
        raise ValueError(f"algorithm.loss.tau must be positive, got {tau}")
    count = len(inputs.advantages_S)
    ratio_S = sequence_sum(_corrected(inputs), inputs.seq_ids_T, count)
    residual_S = inputs.advantages_S - tau * ratio_S
    factor = 1.0 if Scale(scale) is Scale.PRINTED else 1 / (2 * tau)
    loss = factor * (inputs.weights_S * residual_S.square()).sum()
    with torch.no_grad():
        metrics = {
            "loss/sequence_log_ratio": (inputs.weights_S * ratio_S).sum(),
            "loss/sequence_log_ratio_abs": (inputs.weights_S * ratio_S.abs()).sum(),
            "loss/residual_squared": (inputs.weights_S * residual_S.square()).sum(),
        }
    return LossOutputs(loss=loss, metrics=metrics)


def grpo(inputs: LossInputs, *, clip_low: float = 0.2, clip_high: float = 0.2) -> LossOutputs:
    """GRPO's clipped token ratio, averaged over each sequence's tokens (DeepSeekMath Eq. 3, without the KL term).

    ``L = - sum_i w_i 1/|y_i| sum_t min(rho_t A_i, clip(rho_t, 1 - clip_low, 1 + clip_high) A_i)`` with
    ``rho_t = pi(y_t) / pi_old(y_t)``.
    """
    if clip_low < 0 or clip_high < 0:
        raise ValueError(f"algorithm.loss.clip_low and clip_high must not be negative, got {clip_low}, {clip_high}")
    count = len(inputs.advantages_S)
    log_ratio_T = _corrected(inputs)
    ratio_T = log_ratio_T.exp()
    advantage_T = inputs.advantages_S[inputs.seq_ids_T]
    plain_T = ratio_T * advantage_T
    clipped_T = ratio_T.clamp(1 - clip_low, 1 + clip_high) * advantage_T
    lengths_S = sequence_sum(torch.ones_like(ratio_T), inputs.seq_ids_T, count).clamp(min=1)
    weights_T = (inputs.weights_S / lengths_S)[inputs.seq_ids_T]
    loss = -(weights_T * torch.minimum(plain_T, clipped_T)).sum()
    with torch.no_grad():
        ratio_S = sequence_sum(log_ratio_T, inputs.seq_ids_T, count)
        metrics = {
            "loss/sequence_log_ratio": (inputs.weights_S * ratio_S).sum(),
            "loss/sequence_log_ratio_abs": (inputs.weights_S * ratio_S.abs()).sum(),
            "loss/clipped_share": (weights_T * (clipped_T < plain_T)).sum(),
        }
    return LossOutputs(loss=loss, metrics=metrics)
