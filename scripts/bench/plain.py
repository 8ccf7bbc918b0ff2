"""``closedloop bench``: our parts beside the plain library, on the same work in the same run.

Each pair is measured alternately, several times, because machines drift; the ratio of medians is what counts.
"""

from __future__ import annotations

import asyncio
import json
import random
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from rl.config import Config
from rl.types import EndReason, Rollout, RolloutGroup, SampleRequest, Score, Segment, Task

ROUNDS = 5
PROMPTS, PROMPT_TOKENS, NEW_TOKENS = 128, 32, 48
GROUPS, GROUP_SIZE, SEQUENCE = 48, 8, 56


def rollout(config: Config) -> int:
    """Tokens/s through a rollout worker against ``vllm.LLM.generate`` in a process like it, with ``logprobs=0``."""
    import ray

    from rl.prepare import prepare
    from rl.workers import placement
    from rl.workers.calls import wait_all
    from rl.workers.rollout_pool import RolloutPool
    from rl.workers.vllm_compat import EngineOptions

    parts = prepare(config)
    rng = random.Random(0)
    prompts = [[rng.randrange(10, 100) for _ in range(PROMPT_TOKENS)] for _ in range(PROMPTS)]
    threads = placement.threads_of(config.cluster)
    options = EngineOptions(
        model=config.model.path, dtype=config.rollout.dtype.value, context=config.model.context,
        concurrency=PROMPTS, stop_token_ids=parts.chat.stop_token_ids, kv_cache_gib=config.rollout.kv_cache_gib,
        gpu_memory_share=config.rollout.gpu_memory_share / 2, tensor_parallel=config.rollout.tensor_parallel,
        enforce_eager=config.rollout.enforce_eager, seed=0, threads=threads,
    )  # fmt: skip
    placement.connect(config.cluster)
    try:
        actors, started = placement.start_rollout_workers(options, config.cluster, count=1)
        plain = ray.remote(num_cpus=0)(_PlainEngine).options(
            runtime_env={"env_vars": placement.environment(threads)}
        ).remote(options)  # fmt: skip
        placement.wait_started(started | {"plain vLLM": plain.ready.remote()}, config.cluster)
        with asyncio.Runner() as runner:
            pool = RolloutPool(actors, deadline_s=600)

            async def sample_all() -> int:
                requests = [
                    SampleRequest(prompt_ids=p, max_tokens=NEW_TOKENS, temperature=1.0, seed=i, ignore_eos=True)
                    for i, p in enumerate(prompts)
                ]
                answers = await asyncio.gather(*map(pool.sample, requests))
                return sum(len(a.token_ids) for a in answers)

            def plain_all() -> int:
                (count,) = wait_all({"plain vLLM": plain.generate.remote(prompts, NEW_TOKENS)}, deadline_s=600)
                return int(count)

            return _compare("rollout worker", lambda: runner.run(sample_all()), "vllm.LLM.generate", plain_all)
    finally:
        placement.disconnect()


class _PlainEngine:
    """``vllm.LLM`` with the same settings, used as its documentation does."""

    def __init__(self, options: Any) -> None:
        from rl.workers import vllm_compat

        vllm_compat.prepare_environment(threads=options.threads)
        from vllm import LLM

        self._llm = LLM(**vllm_compat.engine_arguments(options))

    def ready(self) -> None:
        pass

    def generate(self, prompts: list[list[int]], tokens: int) -> int:
        from vllm import SamplingParams

        params = SamplingParams(temperature=1.0, max_tokens=tokens, ignore_eos=True, logprobs=0, detokenize=False)
        outputs = self._llm.generate([{"prompt_token_ids": p} for p in prompts], params, use_tqdm=False)
        return sum(len(o.outputs[0].token_ids) for o in outputs)


def train(config: Config) -> int:
    """Tokens/s of one update through the trainer ranks against a plain torch loop with as many threads."""
    import ray

    from rl.prepare import prepare
    from rl.workers import placement
    from rl.workers.calls import wait_all
    from rl.workers.trainer_group import TrainerGroup
    from rl.workers.trainer_worker import TrainerOptions

    parts = prepare(config)
    threads = placement.threads_of(config.cluster)
    trainer = config.trainer
    options = TrainerOptions(
        model=config.model.path, ranks=trainer.ranks, zero_stage=trainer.zero_stage,
        expert_parallel=trainer.expert_parallel, learning_rate=trainer.learning_rate,
        adam_betas=(trainer.adam_betas[0], trainer.adam_betas[1]), weight_decay=trainer.weight_decay,
        max_grad_norm=trainer.max_grad_norm, gradient_checkpointing=trainer.gradient_checkpointing, loss=parts.loss,
        importance_cap=None, seed=0,
        threads=None if threads is None else max(1, threads // trainer.ranks),
    )  # fmt: skip
    rng = random.Random(0)
    groups = [_group(rng, number) for number in range(GROUPS)]
    placement.connect(config.cluster)
    try:
        ranks, started = placement.start_trainer_workers(options, config.cluster)
        plain = ray.remote(num_cpus=0)(_PlainLoop).options(
            runtime_env={"env_vars": placement.environment(threads)}
        ).remote(config.model.path, threads, trainer.micro_batch_tokens)  # fmt: skip
        placement.wait_started(started | {"plain loop": plain.ready.remote()}, config.cluster)
        group = TrainerGroup(
            ranks, advantage=parts.advantage, rate=lambda _step: 1e-6, updates_per_iteration=1,
            micro_batch_tokens=trainer.micro_batch_tokens, deadline_s=600,
        )  # fmt: skip

        def ours() -> int:
            fresh = [_with_version(g, group.version) for g in groups]
            return int(group.update(fresh)["perf/train_tokens"])

        def theirs() -> int:
            rows = [r.token_ids for g in groups for r in g.rollouts]
            (count,) = wait_all({"plain loop": plain.update.remote(rows)}, deadline_s=600)
            return int(count)

        return _compare(f"{trainer.ranks} trainer ranks", ours, "plain torch loop", theirs)
    finally:
        placement.disconnect()


def _group(rng: random.Random, number: int) -> RolloutGroup:
    rollouts = []
    for _ in range(GROUP_SIZE):
        length = rng.randint(SEQUENCE // 2, SEQUENCE + SEQUENCE // 2)
        ids = [rng.randrange(10, 100) for _ in range(length)]
        half = length // 2
        segments = (
            Segment(token_ids=tuple(ids[:half]), from_model=False),
            Segment(
                token_ids=tuple(ids[half:]),
                from_model=True,
                sampler_logprobs=(-4.0,) * (length - half),
                policy_version=0,
            ),
        )
        rollouts.append(Rollout(task_id=str(number), segments=segments, messages=(), end_reason=EndReason.STOP))
    scores = tuple(Score(value=float(k % 2)) for k in range(GROUP_SIZE))
    return RolloutGroup(task=Task(id=str(number), kind="bench", messages=()), rollouts=tuple(rollouts), scores=scores)


def _with_version(group: RolloutGroup, version: int) -> RolloutGroup:
    rollouts = tuple(
        replace(r, segments=tuple(replace(s, policy_version=version) if s.from_model else s for s in r.segments))
        for r in group.rollouts
    )
    return replace(group, rollouts=rollouts)


class _PlainLoop:
    """What one would write without this project: padded rows, transformers' own attention, AdamW on fp32 copies."""

    def __init__(self, model: str, threads: int | None, micro_batch_tokens: int) -> None:
        import torch
        from transformers import AutoModelForCausalLM

        if threads is not None:
            torch.set_num_threads(threads)
        device = "cuda" if torch.cuda.is_available() else "cpu"
        self._model: Any = AutoModelForCausalLM.from_pretrained(model, dtype=torch.bfloat16).to(device)
        self._master = [p.detach().clone().float() for p in self._model.parameters()]
        self._optimizer = torch.optim.AdamW(self._master, lr=1e-6)
        self._micro_batch_tokens = micro_batch_tokens
        self._device = device

    def ready(self) -> None:
        pass

    def update(self, rows: list[list[int]]) -> int:
        import torch
        from torch.nn import functional

        rows = sorted(rows, key=len)
        start = 0
        while start < len(rows):
            stop = start + 1
            while stop < len(rows) and len(rows[stop]) * (stop + 1 - start) <= self._micro_batch_tokens:
                stop += 1
            width = len(rows[stop - 1])
            ids = torch.tensor([row + [0] * (width - len(row)) for row in rows[start:stop]]).to(self._device)
            logits = self._model(input_ids=ids, use_cache=False).logits[:, :-1]
            functional.cross_entropy(logits.flatten(0, 1).float(), ids[:, 1:].flatten(), reduction="sum").backward()
            start = stop
        for copy, parameter in zip(self._master, self._model.parameters(), strict=True):
            copy.grad = None if parameter.grad is None else parameter.grad.float()
            parameter.grad = None
        torch.nn.utils.clip_grad_norm_(self._master, 1.0)
        self._optimizer.step()
        with torch.no_grad():
            for copy, parameter in zip(self._master, self._model.parameters(), strict=True):
                parameter.copy_(copy)
        return sum(map(len, rows))


def _compare(name: str, ours: Callable[[], int], other: str, theirs: Callable[[], int]) -> int:
    """Alternate the two; print tokens/s of each and their ratio, and all of it as one JSON line."""
    speeds: dict[str, list[float]] = {name: [], other: []}
    for measured in range(-1, ROUNDS):
        for label, work in ((name, ours), (other, theirs)):
            started = time.monotonic()
            tokens = work()
            if measured >= 0:
                speeds[label].append(tokens / (time.monotonic() - started))
    medians = {label: statistics.median(values) for label, values in speeds.items()}
    for label, values in speeds.items():
        print(f"{label:20s} {medians[label]:9.0f} tokens/s  (min {min(values):.0f}, max {max(values):.0f})")
    ratio = medians[name] / medians[other]
    print(f"ratio {ratio:.2f}")
    print(json.dumps({"tokens_per_s": medians, "ratio": ratio}))
    return 0
