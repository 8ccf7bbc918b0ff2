"""What the trainer learns from is what the engine sampled: every token, at every temperature, over 300 turns (I20)."""

import hashlib
from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from envs.base import Opening, Step
from envs.single_turn import SingleTurn
from rl.batch import make_batch, weigh
from rl.collect import Collector, rollout_metrics
from rl.compose import load_config
from rl.prepare import prepare
from rl.processes import start_workers
from rl.rollout import RolloutLimits
from rl.tasks import first_tasks
from rl.types import EndReason, Score, Task
from rl.weights.publish import Publisher

TURNS = 300


class Endless:
    """Answers 300 turns with a tool's output each, whatever the policy says."""

    output = "on"

    async def reset(self, task):
        self.turns = 0
        return Opening(messages=task.messages)

    async def step(self, message):
        self.turns += 1
        if self.turns == TURNS:
            return Step(end=EndReason.ENV_END)
        return Step(messages=[{"role": "tool", "tool_call_id": f"functions.f:{self.turns}", "content": self.output}])

    async def close(self):
        pass


class Wordy(Endless):
    output = "and so on and on and on and on"


class Recorder:
    """An engine that keeps what each rollout's last request held and got, and all that was sampled, as bytes."""

    def __init__(self, engine):
        self.engine = engine
        self.seen, self.sampled = {}, {}

    async def sample(self, request):
        answer = await self.engine.sample(request)
        self.seen[request.session] = np.array([*request.prompt_ids, *answer.token_ids], np.int64).tobytes()
        so_far = self.sampled.get(request.session, b"")
        self.sampled[request.session] = so_far + np.array(answer.token_ids, np.int64).tobytes()
        return answer

    async def interrupt(self, sessions):
        await self.engine.interrupt(sessions)


def digest(data):
    return hashlib.sha256(data).hexdigest()


@pytest.fixture(scope="module")
def system():
    config = load_config(
        ["tasks=tools", "reward=math", "model.context=4096", "trainer.micro_batch_tokens=8192", "trainer.ranks=1",
         "rollout.kv_cache_gib=0.1", "trainer.learning_rate=1e-6"]
    )  # fmt: skip
    parts = prepare(config)
    with start_workers(config, parts, lambda _step: None) as workers:
        publisher = Publisher(
            source=workers.trainer, sink=workers.channel, probe_prompts=[[5, 6, 7]], probe_tokens=4,
            max_mean_difference=0.001, max_difference=0.005,
        )  # fmt: skip
        yield parts, workers, publisher.publish


def collector(parts, workers, engine=None, context=4096, **limits):
    async def halves(task, rollout):
        return Score(value=float(rollout.completion_tokens % 2))

    return Collector(
        engine=engine or workers.pool, chat=parts.chat, score=halves, seed=0, run=workers.run,
        envs={"single_turn": SingleTurn, "endless": Endless, "wordy": Wordy},
        limits=RolloutLimits(context=context, **limits),
    )  # fmt: skip


def exact_gap(workers, views):
    """Mean |trainer - sampler| logprob of the policy's tokens, the trainer without bf16's rounding."""
    ids = [[t for segment in view for t in segment.token_ids] for view in views]
    gaps = []
    for view, exact in zip(views, workers.trainer.logprobs([(i[:1], i[1:]) for i in ids]), strict=True):
        said = np.array([segment.from_model for segment in view for _ in segment.token_ids])
        sampled = [x for segment in view if segment.from_model for x in segment.sampler_logprobs]
        gaps += np.abs(np.array([0.0, *exact])[said] - sampled).tolist()
    return np.mean(gaps)


@pytest.mark.parametrize("temperature", [0.6, 1.0, 1.3])
def test_sampler_and_trainer_agree_at_every_temperature(system, temperature):
    parts, workers, publish = system
    own = collector(parts, workers, max_tokens=64)
    tasks = [replace(task, env="single_turn") for task in first_tasks(parts.train, 12)]

    def gap(change):
        publish()
        groups = own.collect(tasks, group_size=4, temperature=temperature, stream="s")
        changed = [replace(g, rollouts=tuple(map(change, g.rollouts))) for g in groups]
        return workers.trainer.update(changed)

    metrics = gap(lambda rollout: rollout)
    print(temperature, metrics["rollout/logprob_gap/mean"], metrics["rollout/logprob_gap/max"])
    assert metrics["rollout/logprob_gap/mean"] <= 0.01
    if temperature != 1.0:
        trapped = gap(partial(replace, temperature=1.0))
        assert trapped["rollout/logprob_gap/mean"] > 0.02, "logprobs of another temperature would be noticed"


def test_300_turns_train_on_exactly_the_sampled_tokens_and_reuse_their_prefix(system):
    parts, workers, publish = system
    publish()
    recorder = Recorder(workers.pool)
    own = collector(parts, workers, recorder, max_tokens=4000, turn_tokens=4)
    task = Task(id="long", kind="tools", messages=({"role": "user", "content": "Go on."},), env="endless")
    (group,) = own.collect([task], group_size=2, temperature=1.0, stream="long")
    group = replace(group, scores=(Score(value=0.0), Score(value=1.0)))
    assert [r.end_reason for r in group.rollouts] == [EndReason.ENV_END] * 2
    assert [sum(m["role"] == "assistant" for m in r.messages) for r in group.rollouts] == [TURNS] * 2

    batch = make_batch(weigh([group], parts.advantage), ranks=1, max_tokens=8192)
    (micro,) = batch.micro_batches[0]
    for number, row in enumerate(micro.rows):
        ids = np.concatenate([micro.token_ids_N[span.start : span.stop] for span in row])
        learnt = micro.sampled_T[micro.seq_ids_T == number]
        (name,) = [name for name, data in recorder.seen.items() if digest(data) == digest(ids.tobytes())]
        assert digest(learnt.tobytes()) == digest(recorder.sampled[name])
    gap = exact_gap(workers, [r.segments for r in group.rollouts])
    assert gap <= 0.001, "also far into the conversation"
    reuse = rollout_metrics([group])["rollout/prefix_reuse"]
    counts = [(r.completion_tokens, len(r.token_ids)) for r in group.rollouts]
    print(f"sampled, all: {counts}; gap {gap:.6f}, reuse {reuse:.3f}")
    assert reuse >= 0.9


def test_views_with_hidden_outputs_agree_too(system):
    parts, workers, publish = system
    publish()
    own = collector(parts, workers, context=400, max_tokens=300, turn_tokens=8, keep_outputs=2, views=8)
    task = Task(id="full", kind="tools", messages=({"role": "user", "content": "Go on."},), env="wordy")
    (group,) = own.collect([task], group_size=2, temperature=1.0, stream="full")
    views = [len(r.views) for r in group.rollouts]
    assert min(views) >= 2
    assert all(sum(len(s.token_ids) for s in view) <= 400 for r in group.rollouts for view in r.views)
    gap = exact_gap(workers, [view for r in group.rollouts for view in r.views])
    print(views, gap)
    assert gap <= 0.001
    metrics = workers.trainer.update([replace(group, scores=(Score(value=0.0), Score(value=1.0)))])
    assert metrics["perf/train_tokens"] == sum(len(r.token_ids) for r in group.rollouts)
