"""Advantages of a rollout group, as pure functions of its rewards.

Shape suffix: ``G`` is the group, one entry per rollout of the same task.
"""

from __future__ import annotations

import torch
from torch import Tensor


def group_mean(rewards_G: Tensor) -> Tensor:
    """``r_i - mean_j r_j``, the mean including sample i and without division by the deviation (K2 §3.2.3)."""
    return rewards_G - rewards_G.mean()


def log_partition(rewards_G: Tensor, *, tau: float) -> Tensor:
    """``r_i - tau log (1/K) sum_j exp(r_j / tau)``, the sampled estimate of the exact normaliser (K1.5 §2.3.2).

    The baseline tends to the group mean as tau grows and to the group maximum as tau goes to 0.
    """
    count = torch.tensor(float(len(rewards_G)), dtype=rewards_G.dtype)
    return rewards_G - tau * (torch.logsumexp(rewards_G / tau, dim=0) - count.log())


def group_normalised(rewards_G: Tensor, *, epsilon: float = 1e-6) -> Tensor:
    """``(r_i - mean) / (std + epsilon)`` with the population deviation, as GRPO (DeepSeekMath §4.1)."""
    return (rewards_G - rewards_G.mean()) / (rewards_G.std(correction=0) + epsilon)
