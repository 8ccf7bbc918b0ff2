"""Log-probabilities of given tokens, at the temperature they were sampled with."""

from __future__ import annotations

import torch
from torch import Tensor


def token_logprobs(logits_TV: Tensor, targets_T: Tensor, *, temperature: float | Tensor) -> Tensor:
    """``log softmax(logits / temperature)[target]`` per position, computed in fp32. Shape [T].

    ``temperature`` is one number, or one per position [T].
    """
    per_row = temperature[:, None] if isinstance(temperature, Tensor) else temperature
    scaled_TV = logits_TV.float() / per_row
    chosen_T = scaled_TV.gather(-1, targets_T[:, None])[:, 0]
    return chosen_T - torch.logsumexp(scaled_TV, dim=-1)
