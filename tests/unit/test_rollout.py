"""Rollouts, collection, scoring and metrics with a scripted engine."""

import asyncio
from dataclasses import replace

import pytest
from fakes import Letters, Uninterrupted

from envs.base import Step
from envs.single_turn import SingleTurn
from rewards.math import math_answer
from rewards.scoring import evaluate
from rl.collect import Collector, rollout_metrics
from rl.evaluate import Evaluation, Evaluator, mean_interval, pass_at_k
from rl.rollout import Episode, RolloutLimits
from rl.types import EndReason, Fault, Rollout, Sample, Score, Segment, Task

TASK = Task(id="t", kind="math", messages=({"role": "user", "content": "2"},), fields={"answer": "2"}, tags=("even",))


class Script(Uninterrupted):
    """An engine that says the next line of a script, cut to the request's length."""

    def __init__(self, *lines):
        self.lines = list(lines)
        self.requests = []

    async def sample(self, request):
        self.requests.append(request)
        ids = [*map(ord, self.lines.pop(0)), 0]
        cut = ids[: request.max_tokens]
        return Sample(token_ids=cut, logprobs=[-0.5] * len(cut), stopped=cut[-1] == 0, policy_version=3, generate_s=0.1)


class TwoTurns(SingleTurn):
    turn = 0

    async def step(self, message):
        self.turn += 1
        if self.turn == 1:
            return Step(messages=[{"role": "user", "content": "go on"}])
        return Step(end=EndReason.ENV_END)


class Broken(SingleTurn):
    async def step(self, message):
        raise RuntimeError("no such door")


def roll(engine, env=None, max_tokens=50, context=100, **limits):
    return asyncio.run(
        Episode(
            name="r", task=TASK, env=env or SingleTurn(), engine=engine, chat=Letters(), temperature=1.0, seed=7,
            limits=RolloutLimits(max_tokens=max_tokens, context=context, **limits),
        ).run()
    )  # fmt: skip


def test_tokens_are_kept_as_sampled():
    rollout = roll(Script("answer: 2"))
    assert rollout.token_ids == [ord("2"), 1, *map(ord, "answer: 2"), 0]
    assert rollout.loss_mask == [False, False, *[True] * 10]
    assert rollout.sampler_logprobs == [0.0, 0.0, *[-0.5] * 10]
    assert (rollout.end_reason, rollout.completion, rollout.completion_tokens) == (EndReason.STOP, "answer: 2", 10)


def test_the_budget_cuts_exactly():
    rollout = roll(Script("answer: 2"), max_tokens=4)
    assert (rollout.end_reason, rollout.completion) == (EndReason.BUDGET, "answ")
    assert roll(Script("answer: 2"), context=5).completion == "ans"


def test_many_turns():
    engine = Script("hm", "answer: 2")
    rollout = roll(engine, env=TwoTurns())
    assert [s.from_model for s in rollout.segments] == [False, True, False, True]
    assert list(engine.requests[1].prompt_ids) == rollout.token_ids[: -len("answer: 2") - 1]
    assert engine.requests[0].seed != engine.requests[1].seed
    assert (rollout.end_reason, rollout.completion) == (EndReason.ENV_END, "answer: 2")


def test_a_failing_environment_is_recorded():
    rollout = roll(Script("x"), env=Broken())
    assert (rollout.end_reason, rollout.error) == (EndReason.ENV_ERROR, "RuntimeError('no such door')")


def said(text):
    segments = (Segment(token_ids=(1,), from_model=False),)
    return Rollout(
        task_id="t", segments=segments, messages=({"role": "assistant", "content": text},), end_reason=EndReason.STOP
    )


def collector(engine):
    async def score(task, rollout):
        return evaluate(math_answer, task, rollout)

    runner = asyncio.Runner()
    return Collector(
        engine=engine, chat=Letters(), envs={"single_turn": SingleTurn, "broken": Broken}, score=score, run=runner.run,
        limits=RolloutLimits(max_tokens=50, context=100), seed=0,
    )  # fmt: skip


def test_a_failing_environment_is_a_fault_and_not_a_zero():
    task = replace(TASK, env="broken")
    (group,) = collector(Script("x", "x")).collect([task], group_size=2, temperature=1.0, stream="train/1")
    assert [s.fault for s in group.scores] == [Fault.ENV] * 2
    assert rollout_metrics([group])["fault/env"] == 2


def test_groups_keep_order_and_seeds_depend_on_the_stream():
    engine = Script("answer: 2", "answer: 3", "answer: 2", "answer: 2")
    groups = collector(engine).collect([TASK, TASK], group_size=2, temperature=1.0, stream="train/1")
    assert [[s.value for s in g.scores] for g in groups] == [[1, 0], [1, 1]]
    seeds = [r.seed for r in engine.requests]
    assert len(set(seeds)) == 4
    again = Script(*["x"] * 4)
    collector(again).collect([TASK, TASK], group_size=2, temperature=1.0, stream="train/1")
    assert [r.seed for r in again.requests] == seeds
    metrics = rollout_metrics(groups)
    assert metrics["reward/mean"] == 0.75
    assert metrics["reward/constant_groups"] == 0.5
    assert metrics["reward/tag/even"] == 0.75
    assert metrics["rollout/end/stop"] == 1.0
    assert metrics["rollout/entropy"] == pytest.approx(0.5)


def test_pass_at_k_by_hand():
    assert pass_at_k(2, 4, 1) == pytest.approx(0.5)
    assert pass_at_k(1, 4, 2) == pytest.approx(0.5)
    assert pass_at_k(3, 4, 2) == 1.0
    with pytest.raises(ValueError, match="k must not exceed"):
        pass_at_k(1, 2, 3)


def test_interval_by_hand():
    mean, low, high = mean_interval([0.0, 1.0, 0.0, 1.0])
    assert (mean, low, high) == (0.5, 0.0, 1.0)
    assert mean_interval([0.4, 0.6])[1] == pytest.approx(0.5 - 1.96 * 0.1)


def test_evaluation():
    engine = Script(*["answer: 2", "no", "answer: 2", "answer: 2"], *["answer: 2", "no"])
    evaluator = Evaluator(
        name="eval", collector=collector(engine), tasks=[TASK, TASK], samples=2, temperature=0.7, pass_value=1.0,
        watch=lambda groups: {"watched": float(len(groups))},
    )  # fmt: skip
    metrics = Evaluation(evaluators=[evaluator]).run()
    assert metrics["watched"] == 2
    assert metrics["eval/pass_rate"] == metrics["eval/score"] == 0.75
    assert metrics["eval/pass_at/2"] == 1.0
    assert metrics["eval/pass_rate/greedy"] == 0.5
    assert [r.temperature for r in engine.requests] == [0.7] * 4 + [0.0] * 2


def test_scores_must_match_rollouts():
    from rl.types import RolloutGroup

    with pytest.raises(ValueError, match="one score per rollout, got 2 for 1"):
        RolloutGroup(task=TASK, rollouts=(said("x"),), scores=(Score(value=1), Score(value=0)))
