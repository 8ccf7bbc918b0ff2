"""Real engines and real trainer ranks: what is published is what is sampled from."""

import asyncio
import sys
from contextlib import contextmanager

import pytest
import ray
import torch
from safetensors.torch import load_file

from rl.compose import load_config
from rl.config import Transport
from rl.errors import WeightMismatchError
from rl.prepare import prepare
from rl.types import EndReason, Rollout, RolloutGroup, SampleRequest, Score, Segment, Task
from rl.weights.layout import fill
from rl.weights.publish import Publisher
from rl.workers import placement
from rl.workers.calls import wait_all
from rl.workers.channel import Channel
from rl.workers.rollout_pool import RolloutPool
from rl.workers.trainer_group import TrainerGroup
from rl.workers.trainer_weights import persistent_tensors
from rl.workers.trainer_worker import TrainerOptions, TrainerWorker
from rl.workers.vllm_compat import EngineOptions

PUBLISHES = 10


@contextmanager
def system(model, *, zero_stage, expert_parallel=1, tensor_parallel=1):
    """One engine and two trainer ranks on a starter, and its tokenised prompts."""
    config = load_config([f"model={model}"])
    parts = prepare(config)
    placement.connect(config.cluster)
    try:
        engines, engines_up = start_engine(config, config.model.path, parts, tensor_parallel=tensor_parallel)
        ranks, ranks_up = placement.start_trainer_workers(
            TrainerOptions(
                model=config.model.path, ranks=2, zero_stage=zero_stage, expert_parallel=expert_parallel,
                learning_rate=1e-3, adam_betas=(0.9, 0.95), weight_decay=0.0, max_grad_norm=1.0,
                gradient_checkpointing=False, loss=parts.loss, importance_cap=None, seed=0, threads=1,
            ),
            config.cluster,
        )  # fmt: skip
        placement.wait_started(engines_up | ranks_up, config.cluster)
        with asyncio.Runner() as runner:
            pool = RolloutPool(engines, deadline_s=120)
            trainer = TrainerGroup(
                ranks, advantage=parts.advantage, rate=lambda _step: 1e-3, updates_per_iteration=1,
                micro_batch_tokens=2048, deadline_s=120,
            )  # fmt: skip
            prompts = [parts.chat.prompt_ids(t.messages) for t in parts.held_out]
            yield config, parts, pool, trainer, prompts, runner
    finally:
        placement.disconnect()


def start_engine(config, path, parts, *, filled=True, tensor_parallel=1):
    options = EngineOptions(
        model=path, dtype="float32", context=512, concurrency=64, stop_token_ids=parts.chat.stop_token_ids,
        kv_cache_gib=0.25, gpu_memory_share=0.5, tensor_parallel=tensor_parallel, enforce_eager=True, seed=0,
        threads=2 // tensor_parallel, filled=filled,
    )  # fmt: skip
    return placement.start_rollout_workers(options, config.cluster, count=1)


def publisher(source, pool, prompts, transport="object_store", tensor_parallel=1):
    limits = load_config([]).weights
    channel = Channel(
        source, pool, kind=Transport(transport), bucket_bytes=2**16, deadline_s=60, tensor_parallel=tensor_parallel
    )
    return Publisher(
        source=source, sink=channel, probe_prompts=prompts[:8], probe_tokens=24,
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


class Tampering(TrainerWorker):
    """A trainer rank that can send something else than its weights, with digests that fit: only the probe can tell."""

    def keep(self):
        """Remember the present weights, to send parts of them later as if they were new."""
        self._old = {name: tensor.clone() for name, tensor in persistent_tensors(self._engine.module)}

    def tamper(self, how):
        """From now on send what ``how`` makes of new and old weights, both by name; None sends the new ones."""
        if not hasattr(self, "_honest"):
            self._honest = self._sender._lay

        def lay(plan, buffer):
            self._honest(plan, buffer)
            new = {}
            for source in plan.sources:
                old = self._old[source.name]
                new[source.name] = source.place(buffer).clone().view(old.dtype).view(old.shape)
            fill(buffer, plan, how(new, self._old))

        self._sender._lay = self._honest if how is None else lay


EXPERTS = "model.layers.2.mlp.experts"


def stale_tensor(new, old):
    return {n: old[n] if n == "model.layers.1.self_attn.o_proj.weight" else t for n, t in new.items()}


def stale_expert(new, old):
    out = dict(new)
    for name in out:
        if name.startswith(EXPERTS):
            out[name] = out[name].clone()
            out[name][1] = old[name][1]
    return out


def swapped_experts(new, old):
    order = [1, 0]
    return {n: torch.cat([t[order], t[2:]]) if n.startswith(EXPERTS) else t for n, t in new.items()}


def half_published(new, old):
    names = list(old)
    return {n: t if names.index(n) < len(names) // 2 else old[n] for n, t in new.items()}


@pytest.mark.parametrize(
    ("model", "zero_stage", "expert_parallel", "transport"),
    [
        ("starter", 1, 1, "object_store"),
        ("starter_dsv3", 3, 1, "nccl"),
        ("starter", 2, 1, "cuda_ipc"),
        ("starter", 1, 2, "cuda_ipc"),
        ("starter_dsv3", 3, 2, "object_store"),
    ],
)
def test_ten_publishes_equal_a_fresh_engine(model, zero_stage, expert_parallel, transport, tmp_path):
    layout = dict(zero_stage=zero_stage, expert_parallel=expert_parallel)
    with system(model, **layout) as (config, parts, pool, trainer, prompts, runner):
        proven = publisher(trainer, pool, prompts, transport)
        first, metrics = proven.publish()
        for _ in range(PUBLISHES):
            samples = sample(runner, pool, prompts[:32])
            assert all(s.policy_version == trainer.version for s in samples)
            trainer.update(groups_of(samples, prompts[:32], trainer.version))
            version, metrics = proven.publish()
            assert metrics["weights/probe_mean_abs_diff"] <= 1e-5
            assert metrics["weights/probe_max_abs_diff"] <= 1e-4
        assert version.number == PUBLISHES
        assert version.digest != first.digest

        trainer.save(tmp_path)
        start, end = (load_file(f"{path}/model.safetensors") for path in (config.model.path, tmp_path / "model"))
        assert {t.name for spec in trainer.layout(2**16)[0] for t in spec.tensors} == set(start) == set(end)
        fresh, fresh_up = start_engine(config, str(tmp_path / "model"), parts, filled=False)
        placement.wait_started(fresh_up, config.cluster)
        fresh_pool = RolloutPool(fresh, deadline_s=120)
        ours, theirs = (sample(runner, p, prompts[:32], temperature=0.0) for p in (pool, fresh_pool))
        for a, b in zip(ours, theirs, strict=True):
            assert list(a.token_ids) == list(b.token_ids)
            gaps = [abs(x - y) for x, y in zip(a.logprobs, b.logprobs, strict=True)]
            assert max(gaps) <= 1e-4


def test_an_engine_over_two_processes_gets_its_shares_by_every_transport():
    layout = dict(zero_stage=3, expert_parallel=2, tensor_parallel=2)
    with system("starter", **layout) as (_, _, pool, trainer, prompts, runner):
        for transport in ("nccl", "cuda_ipc", "object_store"):
            proven = publisher(trainer, pool, prompts, transport, tensor_parallel=2)
            proven.publish()
            trainer.update(groups_of(sample(runner, pool, prompts[:32]), prompts[:32], trainer.version))
            version, metrics = proven.publish()
            assert version.number == trainer.version
            assert metrics["weights/probe_mean_abs_diff"] <= 1e-5
            proven.sink.close()


def test_the_probe_catches_what_digests_cannot(monkeypatch):
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    monkeypatch.setattr(placement, "TrainerWorker", Tampering)
    with system("starter", zero_stage=1) as (_, _, pool, trainer, prompts, runner):
        proven = publisher(trainer, pool, prompts, "object_store")
        proven.publish()
        tell(trainer, "keep")
        trainer.update(groups_of(sample(runner, pool, prompts[:32]), prompts[:32], trainer.version))
        for how, blamed in (
            (stale_tensor, r"layers\.1\.self_attn"),
            (stale_expert, r"layers\.2\.mlp"),
            (swapped_experts, r"layers\.2\.mlp"),
            (half_published, r"layers\.\d\."),
        ):
            tell(trainer, "tamper", how)
            with pytest.raises(WeightMismatchError, match=blamed) as caught:
                proven.publish()
            print(how.__name__, str(caught.value)[:300])
            assert proven.published.number == 0
        tell(trainer, "tamper", None)
        assert proven.publish()[0].number == 1


def tell(trainer, method, *arguments):
    wait_all(trainer.start(method, *arguments), deadline_s=60)


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
