"""Real engines and real trainer ranks: what is published is what is sampled from."""

import asyncio
from contextlib import contextmanager

import pytest
import torch
from safetensors.torch import load_file

from rl.compose import load_config
from rl.errors import WeightMismatchError
from rl.prepare import prepare
from rl.types import EndReason, Rollout, RolloutGroup, SampleRequest, Score, Segment, Task
from rl.weights.buckets import describe, pack, unpack
from rl.weights.publish import Publisher
from rl.workers import placement
from rl.workers.rollout_pool import RolloutPool
from rl.workers.trainer_group import TrainerGroup
from rl.workers.trainer_worker import TrainerOptions
from rl.workers.vllm_compat import EngineOptions

PUBLISHES = 10


@contextmanager
def system(model, *, zero_stage):
    """One engine and two trainer ranks on a starter, and its tokenised prompts."""
    config = load_config([f"model={model}"])
    parts = prepare(config)
    placement.connect(config.cluster)
    try:
        engines, engines_up = start_engine(config, config.model.path, parts)
        ranks, ranks_up = placement.start_trainer_workers(
            TrainerOptions(
                model=config.model.path, ranks=2, zero_stage=zero_stage, learning_rate=1e-3, adam_betas=(0.9, 0.95),
                weight_decay=0.0, max_grad_norm=1.0, gradient_checkpointing=False, loss=parts.loss, importance_cap=None,
                bucket_bytes=2**20, seed=0, threads=1,
            ),
            config.cluster,
        )  # fmt: skip
        placement.wait_started(engines_up | ranks_up, config.cluster)
        with asyncio.Runner() as runner:
            pool = RolloutPool(engines, deadline_s=120, run=runner.run)
            trainer = TrainerGroup(
                ranks, advantage=parts.advantage, rate=lambda _step: 1e-3, updates_per_iteration=1,
                micro_batch_tokens=2048, deadline_s=120,
            )  # fmt: skip
            prompts = [parts.chat.prompt_ids(t.messages) for t in parts.held_out]
            yield config, parts, pool, trainer, prompts, runner
    finally:
        placement.disconnect()


def start_engine(config, path, parts):
    options = EngineOptions(
        model=path, dtype="float32", context=512, concurrency=64, stop_token_ids=parts.chat.stop_token_ids,
        kv_cache_gib=0.25, gpu_memory_share=0.5, tensor_parallel=1, enforce_eager=True, seed=0, threads=2,
    )  # fmt: skip
    return placement.start_rollout_workers(options, config.cluster, count=1)


def publisher(source, pool, prompts):
    limits = load_config([]).weights
    return Publisher(
        source=source, sink=pool, probe_prompts=prompts[:8], probe_tokens=24,
        max_mean_difference=limits.max_mean_difference, max_difference=limits.max_difference,
    )  # fmt: skip


def sample(runner, pool, prompts, **options):
    settings = {"max_tokens": 24, "temperature": 1.0} | options

    async def ask():
        requests = [SampleRequest(prompt_ids=p, seed=i, **settings) for i, p in enumerate(prompts)]
        return await asyncio.gather(*map(pool.sample, requests))

    return runner.run(ask())


def groups_of(samples, prompts, version):
    """Groups of four with made-up rewards, so that an update changes the policy."""
    rollouts = [
        Rollout(
            task_id="t",
            segments=(
                Segment(token_ids=p, from_model=False),
                Segment(token_ids=s.token_ids, from_model=True, sampler_logprobs=s.logprobs, policy_version=version),
            ),
            messages=(),
            end_reason=EndReason.STOP,
        )
        for s, p in zip(samples, prompts, strict=True)
    ]
    task = Task(id="t", kind="math", messages=())
    scores = tuple(Score(value=float(k % 2)) for k in range(4))
    return [
        RolloutGroup(task=task, rollouts=tuple(rollouts[i : i + 4]), scores=scores) for i in range(0, len(rollouts), 4)
    ]


class WrongTensor:
    """A trainer whose export has one tensor off, with a digest that fits: only the probe can tell."""

    def __init__(self, trainer, name):
        self.trainer, self.name = trainer, name

    def export(self):
        import ray

        version, handles = self.trainer.export()
        tensors = {}
        for spec, handle in zip(version.buckets, handles, strict=True):
            tensors |= {n: t.clone() for n, t in unpack(spec, ray.get(handle).copy())}
        tensors[self.name] = -tensors[self.name]
        packed = list(pack(tensors.items(), bucket_bytes=2**20))
        return describe(version.number, [s for s, _ in packed]), [ray.put(d) for _, d in packed]

    def __getattr__(self, name):
        return getattr(self.trainer, name)


@pytest.mark.parametrize(("model", "zero_stage"), [("starter", 1), ("starter_dsv3", 3)])
def test_ten_publishes_equal_a_fresh_engine(model, zero_stage, tmp_path):
    with system(model, zero_stage=zero_stage) as (config, parts, pool, trainer, prompts, runner):
        proven = publisher(trainer, pool, prompts)
        first, metrics = proven.publish()
        start = load_file(f"{config.model.path}/model.safetensors")
        assert {t.name for b in first.buckets for t in b.tensors} == set(start)
        for _ in range(PUBLISHES):
            samples = sample(runner, pool, prompts[:32])
            assert all(s.policy_version == trainer.version for s in samples)
            trainer.update(groups_of(samples, prompts[:32], trainer.version))
            version, metrics = proven.publish()
            assert metrics["weights/probe_mean_abs_diff"] <= 0.01
            assert metrics["weights/probe_max_abs_diff"] <= 0.05
        assert version.number == PUBLISHES
        assert version.digest != first.digest

        trainer.save(tmp_path)
        fresh, fresh_up = start_engine(config, str(tmp_path / "model"), parts)
        placement.wait_started(fresh_up, config.cluster)
        fresh_pool = RolloutPool(fresh, deadline_s=120, run=runner.run)
        ours, theirs = (sample(runner, p, prompts[:32], temperature=0.0) for p in (pool, fresh_pool))
        for a, b in zip(ours, theirs, strict=True):
            assert list(a.token_ids) == list(b.token_ids)
            gaps = [abs(x - y) for x, y in zip(a.logprobs, b.logprobs, strict=True)]
            assert max(gaps) <= 0.01
        assert torch.equal(
            load_file(tmp_path / "model/model.safetensors")["lm_head.weight"],
            _published(trainer)["lm_head.weight"],
        )

        # The engine takes it, and answers with its digest; only what it computes shows that it is wrong.
        expert = "model.layers.2.mlp.experts.1.down_proj.weight"
        with pytest.raises(WeightMismatchError, match=r"layers\.2\.mlp"):
            publisher(WrongTensor(trainer, expert), pool, prompts).publish()
        # A good publish heals it.
        proven.publish()


def _published(trainer):
    import ray

    version, handles = trainer.export()
    return {
        name: tensor
        for spec, handle in zip(version.buckets, handles, strict=True)
        for name, tensor in unpack(spec, ray.get(handle).copy())
    }


def test_sampling_is_seeded_continuous_and_honest_about_its_end():
    with system("starter", zero_stage=2) as (_, parts, pool, trainer, prompts, runner):
        publisher(trainer, pool, prompts).publish()
        once, again = (sample(runner, pool, prompts[:32]) for _ in range(2))
        assert [(s.token_ids, s.logprobs) for s in once] == [(s.token_ids, s.logprobs) for s in again]
        assert all(s.stopped == (s.token_ids[-1] == parts.chat.stop_token_ids[0]) for s in once)
        assert all(len(s.token_ids) == len(s.logprobs) for s in once)

        # The logprobs are those of the distribution sampled from, also away from temperature 1.
        hot = sample(runner, pool, prompts[:16], temperature=1.3)
        cold = trainer.logprobs([(p, s.token_ids) for p, s in zip(prompts[:16], hot, strict=True)])
        assert (
            max(abs(a - b) for s, own in zip(hot, cold, strict=True) for a, b in zip(s.logprobs, own, strict=True))
            > 0.05
        )

        async def late_and_short():
            long = asyncio.create_task(
                pool.sample(
                    SampleRequest(prompt_ids=prompts[0], max_tokens=300, temperature=1.0, seed=0, ignore_eos=True)
                )
            )
            await asyncio.sleep(0.3)
            short = await pool.sample(SampleRequest(prompt_ids=prompts[1], max_tokens=2, temperature=1.0, seed=1))
            return short, long.done(), await long

        short, long_was_done, long = runner.run(late_and_short())
        assert len(short.token_ids) == 2
        assert not long_was_done, "a late request must not wait for an earlier, longer one"
        assert len(long.token_ids) == 300
