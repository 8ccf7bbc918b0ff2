"""What only GPUs run, beside what is tested everywhere: FlashAttention over packed rows, and the experts."""

from types import SimpleNamespace

import pytest
import torch

from rl.attention import _block_attention, packed_attention, packed_rows
from rl.experts import sorted_experts

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize(("heads", "key_heads", "width", "value_width"), [(8, 2, 64, 64), (4, 4, 192, 128)])
def test_flash_attention_over_rows_that_share_a_prompt_is_plain_attention(heads, key_heads, width, value_width):
    prompt, own = range(37), [range(37, 137), range(137, 144), range(144, 301)]
    alone = range(301, 350)
    rows = packed_rows([[prompt, span] for span in own] + [[alone]], "cuda")
    draw = torch.Generator("cuda").manual_seed(0)

    def tensor(count, size):
        return torch.randn((count, 350, size), generator=draw, device="cuda").requires_grad_()

    exact = tensor(heads, width), tensor(key_heads, width), tensor(key_heads, value_width)
    ours = [x.detach().bfloat16()[None].requires_grad_() for x in exact]
    module = torch.nn.Module().eval()
    out = packed_attention(module, *ours, None, packed_rows=rows)[0][0]
    wanted = _block_attention(*exact, rows, None, 0.0)
    pull = torch.randn(wanted.shape, generator=draw, device="cuda")
    out.backward(pull.bfloat16())
    wanted.backward(pull)
    for a, b in [(out, wanted), *((x.grad[0], y.grad) for x, y in zip(ours, exact, strict=True))]:
        assert torch.linalg.vector_norm(a.float() - b) <= 0.02 * torch.linalg.vector_norm(b)


def test_experts_on_a_gpu_are_those_on_a_cpu():
    draw = torch.Generator().manual_seed(0)

    def gate(x):
        a, b = x.chunk(2, dim=-1)
        return torch.nn.functional.silu(a) * b

    shapes = (512, 256), (512, 4), (16, 256, 256), (16, 256, 128)
    inputs = [torch.randn(shape, generator=draw).bfloat16() for shape in shapes]
    chosen = torch.stack([torch.randperm(16, generator=draw)[:4] for _ in range(512)])
    results = []
    for device in ("cpu", "cuda"):
        tokens, weights, up, down = (x.detach().to(device).requires_grad_() for x in inputs)
        module = SimpleNamespace(
            gate_up_proj=up, down_proj=down, num_experts=16, has_gate=True, has_bias=False, is_transposed=False,
            _apply_gate=gate,
        )  # fmt: skip
        out = sorted_experts(module, tokens, chosen.to(device), weights)
        out.sum().backward()
        results.append([x.float().cpu() for x in (out, tokens.grad, weights.grad, up.grad, down.grad)])
    for a, b in zip(*results, strict=True):
        assert torch.linalg.vector_norm(a - b) <= 0.02 * torch.linalg.vector_norm(a)
