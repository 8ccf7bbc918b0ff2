"""Train a starter policy from scratch: a tiny MoE with a character-level tokenizer and a real chat template.

    python -m scripts.make_starter qwen3moe models/starter
    python -m scripts.make_starter dsv3 models/starter_dsv3

The result is a Hugging Face folder that transformers, vLLM and this project load. It is deterministic: the same
machine type, thread count and versions give the same bytes. Takes under 30 minutes on two slow
cores and 2 on a GPU, where low-order bits differ. The committed ones come from a GPU, with ``--parts 1``.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import (
    DeepseekV3Config,
    DeepseekV3ForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
)

from rl import attention
from rl.packing import split_evenly
from rl.procedural import FAMILIES, problem_at
from scripts import starter_mix

SPECIAL = ("<|pad|>", "<|unk|>", "<|end|>", "<|system|>", "<|tools|>", "<|user|>", "<|assistant|>", "<|tool|>",
           "<|call|>", "<|/call|>")  # fmt: skip
VOCAB_SIZE = 128
STEPS = {"qwen3moe": 1800, "dsv3": 1450}
"""Optimizer steps: what two slow cores do in less than half an hour. A step of the second costs a fifth more."""
RATE = {"qwen3moe": 3.5e-3, "dsv3": 2e-3}
"""Peak learning rates."""
CHAT_TEMPLATE = """\
{%- if tools %}{{ '<|tools|>' }}{% for tool in tools %}{% set f = tool.function %}\
{{ f.name }}({% for name, schema in f.parameters.properties.items() %}\
{{ name }}: {{ schema.type }}{% if not loop.last %}, {% endif %}{% endfor %}){% if not loop.last %}{{ '\\n' }}\
{% endif %}\
{% endfor %}{{ '<|end|>' }}{% endif %}\
{%- for message in messages %}\
{%- if message.role == 'assistant' %}{{ '<|assistant|>' }}{% generation %}{{ message.content or '' }}\
{%- for call in message.tool_calls or [] %}{{ '<|call|>' }}{{ {'name': call.function.name, \
'arguments': call.function.arguments} | tojson }}{{ '<|/call|>' }}{% endfor %}{{ '<|end|>' }}{% endgeneration %}\
{%- else %}{{ '<|' + message.role + '|>' }}{{ message.content }}{{ '<|end|>' }}{% endif %}\
{%- endfor %}\
{%- if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"""


def make_tokenizer() -> PreTrainedTokenizerFast:
    """One token per printable ASCII character and newline, after the special tokens."""
    characters = ["\n", *map(chr, range(32, 127))]
    vocabulary = {token: i for i, token in enumerate([*SPECIAL, *characters])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<|unk|>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer.decoder = decoders.Fuse()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|end|>",
        pad_token="<|pad|>",
        unk_token="<|unk|>",
        additional_special_tokens=list(SPECIAL[3:]),
        clean_up_tokenization_spaces=False,
        model_max_length=4096,
    )
    fast.chat_template = CHAT_TEMPLATE
    return fast


def make_model(architecture: str) -> PreTrainedModel:
    """The untrained policy, fp32. ``architecture``: qwen3moe, or dsv3 (DeepSeek-V3, which Kimi K2 uses)."""
    shared: dict[str, Any] = dict(
        vocab_size=VOCAB_SIZE, hidden_size=128, num_hidden_layers=4, num_attention_heads=4, num_experts_per_tok=2,
        norm_topk_prob=True, max_position_embeddings=4096, tie_word_embeddings=False, eos_token_id=2, pad_token_id=0,
        bos_token_id=None, initializer_range=0.06,
    )  # fmt: skip
    if architecture == "qwen3moe":
        config = Qwen3MoeConfig(
            **shared, num_key_value_heads=2, head_dim=32, num_experts=8, moe_intermediate_size=128,
            intermediate_size=512,
        )  # fmt: skip
        return Qwen3MoeForCausalLM(config)
    config = DeepseekV3Config(
        **shared, num_key_value_heads=4, n_routed_experts=8, n_shared_experts=1, moe_intermediate_size=128,
        intermediate_size=512, first_k_dense_replace=1, n_group=1, topk_group=1, q_lora_rank=64, kv_lora_rank=512,
        qk_nope_head_dim=32, qk_rope_head_dim=64, v_head_dim=32, routed_scaling_factor=1.0,
        # vLLM reads these two from config.json; transformers implies them.
        topk_method="noaux_tc", scoring_func="sigmoid",
    )  # fmt: skip
    return DeepseekV3ForCausalLM(config)


def encode(vocabulary: dict[str, int], dialogue: starter_mix.Dialogue) -> tuple[list[int], list[int]]:
    """Token ids of a dialogue and a mask of the tokens the assistant writes. Equals the chat template's output."""
    ids: list[int] = []
    mask: list[int] = []

    def put(role: str, text: str, learn: bool) -> None:
        body = [vocabulary[c] for c in text]
        ids.extend([vocabulary[f"<|{role}|>"], *body, vocabulary["<|end|>"]])
        mask.extend([0, *[int(learn)] * (len(body) + 1)])

    for message in dialogue:
        if message["role"] == "tools":
            put("tools", "calculator(expression: string)", learn=False)
        elif message.get("tool_calls"):
            (call,) = message["tool_calls"]
            body = [vocabulary["<|call|>"], *(vocabulary[c] for c in json.dumps(call["function"])),
                    vocabulary["<|/call|>"], vocabulary["<|end|>"]]  # fmt: skip
            ids.extend([vocabulary["<|assistant|>"], *body])
            mask.extend([0, *[1] * len(body)])
        else:
            put(message["role"], message["content"], learn=message["role"] == "assistant")
    return ids, mask


Batch = list[tuple[torch.Tensor, torch.Tensor]]


def batches(vocabulary: dict[str, int], *, examples: int, parts: int, seed: int) -> Iterator[Batch]:
    """Endless batches of ``examples`` random dialogues, each as ``parts`` right-padded (ids, labels) of like length."""
    rng = random.Random(f"starter/{seed}")
    while True:
        batch = [encode(vocabulary, starter_mix.dialogue(rng)) for _ in range(examples)]
        batch.sort(key=lambda example: len(example[0]))
        yield [_pad(batch[part.start : part.stop]) for part in split_evenly(examples, parts)]


def _pad(examples: list[tuple[list[int], list[int]]]) -> tuple[torch.Tensor, torch.Tensor]:
    width = max(len(ids) for ids, _ in examples)
    ids = torch.zeros(len(examples), width, dtype=torch.long)
    labels = torch.full((len(examples), width), -100)
    for row, (example, mask) in enumerate(examples):
        tokens = torch.tensor(example)
        ids[row, : len(example)] = tokens
        labels[row, : len(example)] = torch.where(torch.tensor(mask) == 1, tokens, -100)
    return ids, labels


def train(
    model: PreTrainedModel, *, steps: int, examples: int, parts: int, rate: float, seed: int, device: str
) -> None:
    """AdamW on fp32 master weights, bf16 forward and backward, linear warm-up and cosine decay to zero."""
    vocabulary = make_tokenizer().get_vocab()
    master = [p.detach().clone().float().to(device) for p in model.parameters()]
    model.to(device, torch.bfloat16).train()
    model.set_experts_implementation("grouped_mm")
    if device == "cpu":
        attention.register()
        model.set_attn_implementation("packed")
    optimizer = torch.optim.AdamW(master, lr=rate, betas=(0.9, 0.95), weight_decay=0.01)
    stream = batches(vocabulary, examples=examples, parts=parts, seed=seed)
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns) as progress:
        bar = progress.add_task("training", total=steps)
        for step in range(steps):
            warm = min(1.0, (step + 1) / 100)
            optimizer.param_groups[0]["lr"] = rate * warm * 0.5 * (1 + math.cos(math.pi * step / steps))
            loss = _accumulate(model, [(ids.to(device), labels.to(device)) for ids, labels in next(stream)])
            for copy, p in zip(master, model.parameters(), strict=True):
                copy.grad = None if p.grad is None else p.grad.float()
                p.grad = None
            torch.nn.utils.clip_grad_norm_(master, 1.0)
            optimizer.step()
            with torch.no_grad():
                for copy, p in zip(master, model.parameters(), strict=True):
                    p.copy_(copy)
            progress.update(bar, advance=1)
            if step % 20 == 0:
                progress.update(bar, description=f"loss {loss.item():.3f}")
            if step % 250 == 0:
                progress.console.print(f"step {step} loss {loss.item():.4f}")


def _accumulate(model: PreTrainedModel, batch: Batch) -> torch.Tensor:
    """Backward pass of the mean cross-entropy over all labelled tokens of the batch; returns that mean."""
    labelled = sum((labels[:, 1:] >= 0).sum() for _, labels in batch)
    total = torch.zeros((), device=batch[0][0].device)
    for ids, labels in batch:
        if ids.device.type == "cpu":
            loss = _packed_loss(model, ids, labels) / labelled
            loss.backward()
            total += loss.detach()
            continue
        # The math kernel's backward pass is twice as fast as the fused one on short rows on a CPU.
        with sdpa_kernel(SDPBackend.MATH):
            logits = model(input_ids=ids, use_cache=False).logits
            flat, wanted = logits[:, :-1].flatten(0, 1).float(), labels[:, 1:].flatten()
            loss = functional.cross_entropy(flat, wanted, reduction="sum") / labelled
            loss.backward()
        total += loss.detach()
    return total


def _packed_loss(model: PreTrainedModel, ids: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Summed cross-entropy without computing the padding, nor logits that nothing is learnt from.

    A fifth faster on a CPU; on a GPU a model of this size does not notice either.
    """
    real = ids != 0
    lengths = real.sum(1).tolist()
    learnt = functional.pad(labels[:, 1:] >= 0, (0, 1))
    logits = model(
        input_ids=ids[real][None],
        position_ids=torch.cat([torch.arange(n) for n in lengths])[None],
        packed_rows=attention.packed_rows(lengths),
        logits_to_keep=learnt[real].nonzero()[:, 0],
        use_cache=False,
    ).logits[0]
    return functional.cross_entropy(logits.float(), labels[:, 1:][labels[:, 1:] >= 0], reduction="sum")


@torch.no_grad()
def pass_rate(model: PreTrainedModel, *, temperature: float, count: int = 512) -> dict[str, float]:
    """Share of held-out quickstart problems answered right, overall and per family; one completion each."""
    model.set_attn_implementation("sdpa")
    tokenizer = make_tokenizer()
    tokenizer.padding_side = "left"
    held_out = [problem_at(i, families=list(FAMILIES), seed=1, held_out=True) for i in range(count)]
    prompts = [
        tokenizer.apply_chat_template([starter_mix.user(p.question)], add_generation_prompt=True, tokenize=False)
        for p in held_out
    ]
    inputs = tokenizer(prompts, return_tensors="pt", padding=True, return_token_type_ids=False).to(model.device)
    sampling = {"do_sample": True, "temperature": temperature, "top_k": 0} if temperature else {"do_sample": False}
    torch.manual_seed(0)
    out = model.eval().generate(**inputs, max_new_tokens=80, **sampling)
    replies = tokenizer.batch_decode(out[:, inputs.input_ids.shape[1] :], skip_special_tokens=True)
    right: dict[str, list[bool]] = {"all": []}
    for problem, reply in zip(held_out, replies, strict=True):
        verdict = reply.rsplit("answer: ", 1)[-1].strip() == problem.answer
        right["all"].append(verdict)
        right.setdefault(problem.family, []).append(verdict)
    return {family: round(sum(v) / len(v), 3) for family, v in sorted(right.items())}


def save(
    model: PreTrainedModel, architecture: str, folder: Path, *, steps: int, examples: int, parts: int, seed: int
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    model.config.architectures = [type(model).__name__]
    model.generation_config.eos_token_id = 2
    model.generation_config.pad_token_id = 0
    model.cpu().save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    weights = (folder / "model.safetensors").read_bytes()
    manifest = {
        "architecture": architecture,
        "parameters": sum(p.numel() for p in model.parameters()),
        "steps": steps,
        "examples_per_step": examples,
        "parts_per_step": parts,
        "seed": seed,
        "mix": json.loads(starter_mix.describe()),
        "weights_sha256": hashlib.sha256(weights).hexdigest(),
        "torch": torch.__version__,
        "device": torch.cuda.get_device_name()
        if torch.cuda.is_available()
        else f"cpu, {torch.get_num_threads()} threads",
    }
    (folder / "starter.json").write_text(json.dumps(manifest, indent=2) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("architecture", choices=tuple(STEPS))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--steps", type=int, help=f"optimizer steps (default: {STEPS})")
    parser.add_argument("--examples", type=int, default=96, help="dialogues per step (default: %(default)s)")
    parser.add_argument("--parts", type=int, default=2, help="forward passes per step (default: %(default)s)")
    parser.add_argument("--rate", type=float, help=f"peak learning rate (default: {RATE})")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--no-evaluation", dest="evaluation", action="store_false", help="skip the pass rates")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    torch.use_deterministic_algorithms(True, warn_only=args.device != "cpu")
    started = time.monotonic()
    steps = STEPS[args.architecture] if args.steps is None else args.steps
    model = make_model(args.architecture)
    train(
        model,
        steps=steps,
        examples=args.examples,
        parts=args.parts,
        rate=RATE[args.architecture] if args.rate is None else args.rate,
        seed=args.seed,
        device=args.device,
    )
    print(f"trained in {(time.monotonic() - started) / 60:.1f} min")
    if args.evaluation:
        print("held-out pass rate, sampled", pass_rate(model, temperature=1.0))
        print("held-out pass rate, greedy ", pass_rate(model, temperature=0.0))
    save(
        model,
        args.architecture,
        args.folder,
        steps=steps,
        examples=args.examples,
        parts=args.parts,
        seed=args.seed,
    )
    print(f"{args.folder}: {steps} steps in {(time.monotonic() - started) / 60:.1f} min")


if __name__ == "__main__":
    main()
