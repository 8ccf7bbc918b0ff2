"""Train a starter policy from scratch: a tiny MoE with a character-level tokenizer and a real chat template.

    python -m scripts.make_starter qwen3moe models/starter
    python -m scripts.make_starter dsv3 models/starter_dsv3

The result is a Hugging Face folder that transformers, vLLM and this project load. It is deterministic: the same
machine type, thread count and versions give the same bytes; on a GPU low-order bits differ. The first takes about a
quarter of an hour on an H100 and four hours on two slow cores, the second half as long. The committed ones come from
GPUs, with ``--parts 1``; the first was built in parts while its mix grew (docs/benchmarks.md).
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import math
import random
import re
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence
from transformers import (
    AutoModelForCausalLM,
    DeepseekV3Config,
    DeepseekV3ForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
)
from transformers.models.deepseek_v3.modeling_deepseek_v3 import DeepseekV3TopkRouter
from transformers.models.qwen3_moe.modeling_qwen3_moe import Qwen3MoeTopKRouter

from rl import attention
from rl.optim.muon import Muon
from rl.packing import split_evenly
from rl.procedural import FAMILIES, problem_at
from scripts import starter_mix

SPECIAL = ("<|pad|>", "<|unk|>", "<|end|>", "<|system|>", "<|tools|>", "<|user|>", "<|assistant|>", "<|tool|>",
           "<|call|>", "<|/call|>")  # fmt: skip
VOCAB_SIZE = 128


@dataclass(frozen=True)
class Stage:
    """One cosine of the learning rate, each with dialogues of its own. Weights are rounded to bf16 in between."""

    steps: int
    examples: int
    """Dialogues per step."""
    rate: float
    """Peak learning rate."""


RECIPES = {
    "qwen3moe": (
        Stage(steps=2600, examples=48, rate=7e-3),
        Stage(steps=4000, examples=64, rate=5e-3),
        Stage(steps=3000, examples=64, rate=3e-3),
    ),
    "dsv3": (Stage(steps=3200, examples=96, rate=4e-3),),
}
"""Later stages sharpen the judge: what compares two copied numbers forms late."""
DECISIVE = 3.0
VERDICT = 10.0
"""Weights in the loss of what decides a judgement, and of its very verdicts: few letters among all that is copied."""
BALANCE = 0.01
"""Weight in the loss of the routers' balance. Without it a layer uses three to six of its eight experts."""
_VERDICT = re.compile(r"\b(yes|no|A|B)\b")
_MARKS_DIFFER = re.compile(r" yes, B .* no\n| no, B .* yes\n", re.DOTALL)
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


def encode(vocabulary: dict[str, int], dialogue: starter_mix.Dialogue) -> tuple[list[int], list[float]]:
    """Token ids of a dialogue, as the chat template gives them, and how much each counts in the loss.

    0 for what the assistant does not write, 1 for what it does, more for what decides a judgement.
    """
    ids: list[int] = []
    weights: list[float] = []

    def put(role: str, text: str, counts: Sequence[float]) -> None:
        ids.extend([vocabulary[f"<|{role}|>"], *(vocabulary[c] for c in text), vocabulary["<|end|>"]])
        weights.extend([0, *counts])

    for message in dialogue:
        if message["role"] == "tools":
            text = "\n".join(map(_signature, message["tools"]))
            put("tools", text, [0] * (len(text) + 1))
        elif message.get("tool_calls"):
            (call,) = message["tool_calls"]
            body = [vocabulary["<|call|>"], *(vocabulary[c] for c in json.dumps(call["function"])),
                    vocabulary["<|/call|>"], vocabulary["<|end|>"]]  # fmt: skip
            ids.extend([vocabulary["<|assistant|>"], *body])
            weights.extend([0, *[1] * len(body)])
        else:
            text = message["content"]
            counts = [float(message["role"] == "assistant")] * (len(text) + 1)
            if decisive := message.get("decisive"):
                counts[-1 - decisive : -1] = [DECISIVE] * decisive
                for word in _VERDICT.finditer(text, len(text) - decisive):
                    counts[word.start() : word.end()] = [VERDICT] * len(word[0])
            put(message["role"], text, counts)
    return ids, weights


def _signature(tool: starter_mix.Message) -> str:
    """A tool as the chat template shows it."""
    function = tool["function"]
    arguments = (f"{name}: {schema['type']}" for name, schema in function["parameters"]["properties"].items())
    return f"{function['name']}({', '.join(arguments)})"


Batch = list[tuple[torch.Tensor, torch.Tensor]]


def batches(vocabulary: dict[str, int], *, examples: int, parts: int, seed: str) -> Iterator[Batch]:
    """Endless batches of random dialogues, each as ``parts`` right-padded (ids, weights) of like length."""
    rng = random.Random(seed)
    while True:
        batch = [encode(vocabulary, starter_mix.dialogue(rng)) for _ in range(examples)]
        batch.sort(key=lambda example: len(example[0]))
        yield [_pad(batch[part.start : part.stop]) for part in split_evenly(examples, parts)]


def _pad(examples: list[tuple[list[int], list[float]]]) -> tuple[torch.Tensor, torch.Tensor]:
    ids = pad_sequence([torch.tensor(ids) for ids, _ in examples], batch_first=True)
    weights = pad_sequence([torch.tensor(weights) for _, weights in examples], batch_first=True)
    return ids, weights


def train(model: PreTrainedModel, stage: Stage, *, parts: int, seed: str, device: str) -> None:
    """Muon on fp32 master weights, bf16 forward and backward, linear warm-up and cosine decay to zero."""
    vocabulary = make_tokenizer().get_vocab()
    master = [p.detach().clone().float().to(device) for p in model.parameters()]
    model.to(device, torch.bfloat16).train()
    model.set_experts_implementation("grouped_mm")
    if device == "cpu":
        attention.register()
        model.set_attn_implementation("packed")
    routers = Routers(model)
    optimizers = _optimizers(dict(zip((n for n, _ in model.named_parameters()), master, strict=True)), stage.rate)
    stream = batches(vocabulary, examples=stage.examples, parts=parts, seed=seed)
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns) as progress:
        bar = progress.add_task("training", total=stage.steps)
        for step in range(stage.steps):
            warm = min(1.0, (step + 1) / 100)
            for optimizer in optimizers:
                for group in optimizer.param_groups:
                    group["lr"] = group["peak"] * warm * 0.5 * (1 + math.cos(math.pi * step / stage.steps))
            loss = _accumulate(model, routers, [(ids.to(device), weights.to(device)) for ids, weights in next(stream)])
            for copy, p in zip(master, model.parameters(), strict=True):
                copy.grad = None if p.grad is None else p.grad.float()
                p.grad = None
            torch.nn.utils.clip_grad_norm_(master, 1.0)
            for optimizer in optimizers:
                optimizer.step()
            with torch.no_grad():
                for copy, p in zip(master, model.parameters(), strict=True):
                    p.copy_(copy)
            progress.update(bar, advance=1)
            if step % 20 == 0:
                progress.update(bar, description=f"loss {loss.item():.3f}")
            if step % 250 == 0:
                progress.console.print(f"step {step} loss {loss.item():.4f}, least used expert {routers.least:.1%}")
    routers.close()


def _optimizers(parameters: dict[str, torch.Tensor], rate: float) -> list[torch.optim.Optimizer]:
    """Muon for matrices; AdamW, at half the rate, for norms, embedding and head (Moonlight §2.2)."""

    def is_matrix(name: str) -> bool:
        return parameters[name].ndim >= 2 and "embed" not in name and "lm_head" not in name

    rest = [p for name, p in parameters.items() if not is_matrix(name)]
    optimizers: list[torch.optim.Optimizer] = [
        Muon([p for name, p in parameters.items() if is_matrix(name)], lr=rate),
        torch.optim.AdamW(rest, lr=rate / 2, betas=(0.9, 0.95), weight_decay=0.01),
    ]
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["peak"] = group["lr"]
    return optimizers


class Routers:
    """The routers of a model and what they chose in its last forward pass."""

    def __init__(self, model: PreTrainedModel) -> None:
        found = [m for m in model.modules() if isinstance(m, Qwen3MoeTopKRouter | DeepseekV3TopkRouter)]
        self._chosen: list[tuple[torch.Tensor, torch.Tensor]] = []
        self._hooks = [m.register_forward_hook(self._note) for m in found]
        self._layers = len(found)
        self.least = torch.zeros(())
        """The smallest share of a layer's choices that an expert had when ``imbalance`` was last asked."""

    def _note(self, router: torch.nn.Module, _inputs: object, output: tuple[torch.Tensor, ...]) -> None:
        logits, _, experts = output
        scores = logits.float()
        scores = scores.sigmoid() if isinstance(router, DeepseekV3TopkRouter) else scores.softmax(-1)
        self._chosen = [*self._chosen, (scores / scores.sum(-1, keepdim=True), experts)][-self._layers :]

    def _used(self, real: torch.Tensor) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Mean score and share of the choices of each expert, by layer, over the tokens that are ``real``."""
        for scores, experts in self._chosen:
            count = experts[real].flatten().bincount(minlength=scores.shape[-1])
            yield scores[real].mean(0), count / count.sum()

    def imbalance(self, real: torch.Tensor) -> torch.Tensor:
        """1 if a layer's experts are used alike, more if not, in the layers' mean (Switch Transformer §2.2)."""
        scores, shares = map(torch.stack, zip(*self._used(real), strict=True))
        self.least = shares.min()
        return shares.shape[1] * (scores * shares).sum(1).mean()

    def close(self) -> None:
        for hook in self._hooks:
            hook.remove()


def _accumulate(model: PreTrainedModel, routers: Routers, batch: Batch) -> torch.Tensor:
    """Backward pass of the weighted mean cross-entropy over the batch and of imbalance; returns that mean."""
    whole = sum(weights.sum() for _, weights in batch)
    total = torch.zeros((), device=batch[0][0].device)
    for ids, weights in batch:
        real = ids.flatten() != 0
        if ids.device.type == "cpu":
            loss, real = _packed_loss(model, ids, weights[:, 1:]) / whole, real[real]
        else:
            loss = _padded_loss(model, ids, weights[:, 1:]) / whole
        (loss + BALANCE / len(batch) * routers.imbalance(real)).backward()
        total += loss.detach()
    return total


def _padded_loss(model: PreTrainedModel, ids: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Weighted sum of the cross-entropies of ``ids[:, 1:]``."""
    logits = model(input_ids=ids, use_cache=False).logits[:, :-1].flatten(0, 1).float()
    return functional.cross_entropy(logits, ids[:, 1:].flatten(), reduction="none") @ weights.flatten()


def _packed_loss(model: PreTrainedModel, ids: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """The same without computing the padding, nor logits that nothing is learnt from.

    A fifth faster on a CPU; on a GPU a model of this size does not notice either.
    """
    real = ids != 0
    lengths = real.sum(1).tolist()
    learnt = weights > 0
    rows = attention.packed_rows(attention.end_to_end(lengths))
    logits = model(
        input_ids=ids[real][None],
        position_ids=rows.positions[None],
        packed_rows=rows,
        logits_to_keep=functional.pad(learnt, (0, 1))[real].nonzero()[:, 0],
        use_cache=False,
    ).logits[0]
    return functional.cross_entropy(logits.float(), ids[:, 1:][learnt], reduction="none") @ weights[learnt]


@torch.no_grad()
def _replies(model: PreTrainedModel, questions: Sequence[str], *, temperature: float) -> list[str]:
    """One completion each."""
    model.set_attn_implementation("sdpa")
    tokenizer = make_tokenizer()
    tokenizer.padding_side = "left"
    prompts = [
        tokenizer.apply_chat_template([starter_mix.user(text)], add_generation_prompt=True, tokenize=False)
        for text in questions
    ]
    inputs = tokenizer(prompts, return_tensors="pt", padding=True, return_token_type_ids=False).to(model.device)
    sampling = {"do_sample": True, "temperature": temperature, "top_k": 0} if temperature else {"do_sample": False}
    torch.manual_seed(0)
    out = model.eval().generate(**inputs, max_new_tokens=96, **sampling)
    return list(tokenizer.batch_decode(out[:, inputs.input_ids.shape[1] :], skip_special_tokens=True))


def _shares(verdicts: Iterable[tuple[str, bool]]) -> dict[str, float]:
    """How many are true, overall and by name."""
    found: dict[str, list[bool]] = {"all": []}
    for name, right in verdicts:
        found["all"].append(right)
        found.setdefault(name, []).append(right)
    return {name: round(sum(rights) / len(rights), 3) for name, rights in sorted(found.items())}


def pass_rate(model: PreTrainedModel, *, temperature: float, count: int = 512) -> dict[str, float]:
    """Share of held-out quickstart problems answered right, overall and per family."""
    problems = [problem_at(i, families=list(FAMILIES), seed=1, held_out=True) for i in range(count)]
    replies = _replies(model, [problem.question for problem in problems], temperature=temperature)
    return _shares(
        (problem.family, reply.rsplit("answer: ", 1)[-1].strip() == problem.answer)
        for problem, reply in zip(problems, replies, strict=True)
    )


def judge_rate(model: PreTrainedModel, *, count: int = 160) -> dict[str, float]:
    """Share of new comparisons from the mix that it judges right, greedily and asked to check, overall and per family.

    Only those of which one reply is better.
    """
    rng = random.Random("judge")
    asked: list[tuple[str, str, str]] = []
    for make in (starter_mix.math_comparison, starter_mix.function_comparison, starter_mix.fact_comparison):
        turns = ([turn["content"] for turn in make(rng)] for _ in range(20 * count))
        found = ((q, a[-1]) for q, a in turns if q.endswith("Check first.") and _MARKS_DIFFER.search(a))
        asked += [(make.__name__, *pair) for pair in itertools.islice(found, count)]
    replies = _replies(model, [question for _, question, _ in asked], temperature=0.0)
    return _shares((name, reply[-1:] == better) for (name, _, better), reply in zip(asked, replies, strict=True))


def save(
    model: PreTrainedModel,
    architecture: str,
    folder: Path,
    stages: Sequence[Stage],
    *,
    parts: int,
    seed: int,
    begun_from: str | None,
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    model.config.architectures = [type(model).__name__]
    model.generation_config.eos_token_id = 2
    model.generation_config.pad_token_id = 0
    model.cpu().save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    manifest = {
        "architecture": architecture,
        "parameters": sum(p.numel() for p in model.parameters()),
        "begun_from": begun_from,
        "stages": [asdict(stage) for stage in stages],
        "balance": BALANCE,
        "parts_per_step": parts,
        "seed": seed,
        "mix": json.loads(starter_mix.describe()),
        "weights_sha256": _digest(folder),
        "torch": torch.__version__,
        "device": torch.cuda.get_device_name()
        if torch.cuda.is_available()
        else f"cpu, {torch.get_num_threads()} threads",
    }
    (folder / "starter.json").write_text(json.dumps(manifest, indent=2) + "\n")


def _digest(folder: Path) -> str:
    return hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("architecture", choices=tuple(RECIPES))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--steps", type=int, help="optimizer steps per stage (default: the architecture's recipe)")
    parser.add_argument("--parts", type=int, default=2, help="forward passes per step (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--begin", type=Path, help="sharpen the starter in this folder: the recipe's last stage alone")
    parser.add_argument("--no-evaluation", dest="evaluation", action="store_false", help="skip the pass rates")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    torch.use_deterministic_algorithms(True, warn_only=args.device != "cpu")
    # Nothing reads uninitialised memory, and on a GPU filling it takes a tenth of the time.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    started = time.monotonic()
    recipe = RECIPES[args.architecture]
    stages = {number: replace(stage, steps=args.steps or stage.steps) for number, stage in enumerate(recipe)}
    begun_from = None
    if args.begin is None:
        model = make_model(args.architecture)
    else:
        stages = dict(list(stages.items())[-1:])
        begun_from = _digest(args.begin)
        model = AutoModelForCausalLM.from_pretrained(args.begin, dtype=torch.bfloat16)
    for number, stage in stages.items():
        seed = f"starter/{args.seed}" + (f"/{number}" if number else "")
        train(model, stage, parts=args.parts, seed=seed, device=args.device)
    print(f"trained in {(time.monotonic() - started) / 60:.1f} min")
    if args.evaluation:
        print("held-out pass rate, sampled", pass_rate(model, temperature=1.0))
        print("held-out pass rate, greedy ", pass_rate(model, temperature=0.0))
        print("comparisons judged right   ", judge_rate(model))
    save(
        model,
        args.architecture,
        args.folder,
        list(stages.values()),
        parts=args.parts,
        seed=args.seed,
        begun_from=begun_from,
    )
    print(f"{args.folder}: built in {(time.monotonic() - started) / 60:.1f} min")


if __name__ == "__main__":
    main()
