"""A mixture's experts on GPUs: each expert's tokens side by side, one grouped matrix product per layer and direction.

``register()`` adds the implementation ``sorted`` to transformers. It computes what their ``grouped_mm`` does with
less around the products: sorting tokens by expert is a permutation, so its gradient is a permutation too, and no
scattered sum.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS, grouped_mm_experts_forward


class _Dispatch(torch.autograd.Function):
    """Tokens [T, H] to [T * K, H], each once for every expert that it goes to, in the experts' order."""

    @staticmethod
    def forward(ctx: Any, tokens: Tensor, order: Tensor, place: Tensor, top_k: int) -> Tensor:
        ctx.save_for_backward(place)
        ctx.top_k = top_k
        return tokens.index_select(0, order // top_k)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        (place,) = ctx.saved_tensors
        by_token = gradient.index_select(0, place).view(-1, ctx.top_k, gradient.shape[1])
        return by_token.sum(1), None, None, None


class _Combine(torch.autograd.Function):
    """Experts' outputs [T * K, H], in their order, to each token's weighted sum [T, H]; ``weights`` [T, K]."""

    @staticmethod
    def forward(ctx: Any, outputs: Tensor, weights: Tensor, order: Tensor, place: Tensor) -> Tensor:
        ctx.save_for_backward(outputs, weights, order, place)
        by_token = outputs.index_select(0, place).view(*weights.shape, outputs.shape[1])
        return torch.bmm(weights[:, None], by_token)[:, 0]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None, None]:
        outputs, weights, order, place = ctx.saved_tensors
        top_k = weights.shape[1]
        to_outputs = gradient.index_select(0, order // top_k)
        to_weights = (to_outputs * outputs).sum(1, dtype=torch.float32).index_select(0, place).view(weights.shape)
        to_outputs *= weights.flatten().index_select(0, order)[:, None]
        return to_outputs, to_weights.to(weights.dtype), None, None


def sorted_experts(module: Any, tokens: Tensor, chosen: Tensor, weights: Tensor) -> Tensor:
    """Output [T, H] for tokens [T, H] that go to experts ``chosen`` [T, K] with ``weights`` [T, K]."""
    plain = module.has_gate and not module.has_bias and not module.is_transposed
    if tokens.dtype is not torch.bfloat16 or not plain:
        # The grouped product takes bf16 alone; probes compute in fp32.
        result: Tensor = grouped_mm_experts_forward(module, tokens, chosen, weights)
        return result
    top_k = chosen.shape[1]
    experts, order = torch.sort(chosen.flatten(), stable=True)
    place = torch.empty_like(order)
    place[order] = torch.arange(len(order), device=order.device)
    ends = torch.searchsorted(experts, torch.arange(module.num_experts, device=experts.device), right=True)
    ends = ends.to(torch.int32)
    inputs = _Dispatch.apply(tokens, order, place, top_k)
    hidden = module._apply_gate(torch._grouped_mm(inputs, module.gate_up_proj.transpose(1, 2), offs=ends))
    outputs = torch._grouped_mm(hidden, module.down_proj.transpose(1, 2), offs=ends)
    combined: Tensor = _Combine.apply(outputs, weights.to(outputs.dtype), order, place)
    return combined


def register() -> None:
    """Make ``sorted`` known to transformers. Calling it again does nothing."""
    ALL_EXPERTS_FUNCTIONS.register("sorted", sorted_experts)
