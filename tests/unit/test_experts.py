"""Experts with their tokens side by side compute, forwards and backwards, what the definition says."""

from types import SimpleNamespace

import pytest
import torch
from torch.nn import functional

from rl.experts import sorted_experts

TOKENS, EXPERTS, TOP_K, HIDDEN, INNER = 40, 6, 2, 32, 16


def gate(gate_up):
    first, second = gate_up.chunk(2, dim=-1)
    return functional.silu(first) * second


def module(gate_up, down):
    return SimpleNamespace(
        gate_up_proj=gate_up, down_proj=down, num_experts=EXPERTS, has_gate=True, has_bias=False, is_transposed=False,
        _apply_gate=gate, _is_expert_parallel=False,
    )  # fmt: skip


def by_definition(tokens, chosen, weights, gate_up, down):
    rows = []
    for t in range(TOKENS):
        parts = [w * (down[e] @ gate(gate_up[e] @ tokens[t])) for e, w in zip(chosen[t], weights[t], strict=True)]
        rows.append(sum(parts))
    return torch.stack(rows)


@pytest.mark.parametrize("empty", [False, True])
def test_outputs_and_gradients_are_those_of_the_definition(empty):
    draw = torch.Generator().manual_seed(0)
    inputs = [
        torch.randn(shape, generator=draw)
        for shape in ((TOKENS, HIDDEN), (TOKENS, TOP_K), (EXPERTS, 2 * INNER, HIDDEN), (EXPERTS, HIDDEN, INNER))
    ]
    # With ``empty``, some experts get no token at all.
    among = EXPERTS - 3 if empty else EXPERTS
    chosen = torch.stack([torch.randperm(among, generator=draw)[:TOP_K] for _ in range(TOKENS)])
    wanted_at = torch.randn((TOKENS, HIDDEN), generator=draw)
    rounded = [x.bfloat16() for x in inputs]
    exact = [x.float().requires_grad_() for x in rounded]
    ours = [x.requires_grad_() for x in rounded]

    def compute(function, of):
        tokens, weights, gate_up, down = of
        return function(tokens, weights, gate_up, down)

    out = compute(lambda t, w, g, d: sorted_experts(module(g, d), t, chosen, w), ours)
    wanted = compute(lambda t, w, g, d: by_definition(t, chosen, w, g, d), exact)
    out.backward(wanted_at.bfloat16())
    wanted.backward(wanted_at.bfloat16().float())
    for a, b in [(out, wanted), *((x.grad, y.grad) for x, y in zip(ours, exact, strict=True))]:
        assert torch.linalg.vector_norm(a.float() - b) <= 0.01 * torch.linalg.vector_norm(b)
