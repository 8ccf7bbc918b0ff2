"""Workload W1: the model and the prompts that iterations are timed with.

A random Qwen3-MoE of 913 M parameters; an iteration is 64 prompts of 128 tokens with 8 rollouts of exactly 512 tokens
each, one AdamW step over all of them, and the new weights in the engine.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch

from rl.types import SampleRequest

PROMPTS, GROUP_SIZE = 64, 8
PROMPT_TOKENS, NEW_TOKENS = 128, 512
CONTEXT = 1024


def model_folder(*, layers: int = 16) -> str:
    """The model's folder, made if need be. Fewer ``layers`` make a smaller one."""
    from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM

    folder = Path(tempfile.gettempdir()) / f"closedloop-w1-{layers}"
    if (folder / "config.json").exists():
        return str(folder)
    config = Qwen3MoeConfig(
        vocab_size=32000, hidden_size=1024, intermediate_size=2048, moe_intermediate_size=512,
        num_hidden_layers=layers, num_attention_heads=16, num_key_value_heads=4, head_dim=64, num_experts=32,
        num_experts_per_tok=4, norm_topk_prob=True, max_position_embeddings=8192, tie_word_embeddings=False,
        eos_token_id=2, pad_token_id=0,
    )  # fmt: skip
    torch.manual_seed(0)
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        model = Qwen3MoeForCausalLM(config).to(torch.bfloat16)
    model.save_pretrained(folder)
    return str(folder)


def prompts(iteration: int) -> list[list[int]]:
    """64 prompts, different for every iteration."""
    first = iteration * PROMPTS
    return [[100 + (i * 7 + j) % 30000 for j in range(PROMPT_TOKENS)] for i in range(first, first + PROMPTS)]


def requests(iteration: int) -> list[SampleRequest]:
    """The iteration's rollouts, a group after the other."""
    return [
        SampleRequest(
            prompt_ids=prompt, max_tokens=NEW_TOKENS, temperature=1.0, seed=number * GROUP_SIZE + k, ignore_eos=True
        )
        for number, prompt in enumerate(prompts(iteration))
        for k in range(GROUP_SIZE)
    ]
