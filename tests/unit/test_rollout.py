"""Rollouts, collection, scoring and metrics with a scripted engine."""

import asyncio
from dataclasses import replace

import pytest
from fakes import Letters, Uninterrupted

from envs.base import Ask, Opening, Step
from envs.single_turn import SingleTurn
from rewards.math import math_answer
from rewards.scoring import evaluate
from rl.collect import Collector, rollout_metrics
from rl.errors import EnvLostError
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


def roll(engine, env=SingleTurn, max_tokens=50, context=100, **limits):
    return asyncio.run(
        Episode(
            name="r", task=TASK, make_env=env, engine=engine, chat=Letters(), temperature=1.0, seed=7,
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
    rollout = roll(engine, env=TwoTurns)
    assert [s.from_model for s in rollout.segments] == [False, True, False, True]
    assert list(engine.requests[1].prompt_ids) == rollout.token_ids[: -len("answer: 2") - 1]
    assert engine.requests[0].seed != engine.requests[1].seed
    assert (rollout.end_reason, rollout.completion) == (EndReason.ENV_END, "answer: 2")


def test_a_failing_environment_is_recorded():
    rollout = roll(Script("x"), env=Broken)
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


LOOKING = ("look one", "look two", "look three", "done")


class Lookups:
    """Four turns, each answered with a long tool output."""

    def __init__(self):
        self.turns = 0

    async def reset(self, task):
        return Opening(messages=task.messages)

    async def step(self, message):
        self.turns += 1
        if self.turns == 4:
            return Step(end=EndReason.ENV_END, outcome={"turns": 4})
        return Step(messages=[{"role": "tool", "content": f"output {self.turns} " + "z" * 30}])

    async def close(self):
        pass


def test_old_tool_outputs_are_hidden_when_the_context_is_full_and_nothing_else(monkeypatch):
    monkeypatch.setattr("rl.rollout.HIDDEN", "?")
    engine = Script(*LOOKING)
    rollout = roll(engine, env=Lookups, max_tokens=90, context=125, turn_tokens=12, keep_outputs=1, views=3)
    assert rollout.end_reason is EndReason.ENV_END
    assert rollout.outcome == {"turns": 4}
    prompts = ["".join(chr(t) if t > 1 else "|" for t in r.prompt_ids) for r in engine.requests]
    tail = "z" * 30
    assert prompts[2] == f"2|look one|output 1 {tail}|look two|output 2 {tail}|"
    assert prompts[3] == f"2|look one|?|look two|?|look three|output 3 {tail}|", "the newest output stays"
    lengths = [sum(len(s.token_ids) for s in view) for view in rollout.views]
    assert lengths == [len(prompts[2] + "look three|"), len(prompts[3] + "done|")]
    said = [t for s in rollout.segments for t in s.token_ids if s.from_model]
    assert "".join(chr(t) if t else "|" for t in said) == "look one|look two|look three|done|", "each token once"
    assert [m["content"].startswith("output") for m in rollout.messages if m["role"] == "tool"] == [True] * 3
    full = roll(Script(*LOOKING), env=Lookups, max_tokens=90, context=125, turn_tokens=12, keep_outputs=1, views=1)
    assert full.end_reason is EndReason.BUDGET, "views that no micro-batch could hold are not begun"


class Consultant(TwoTurns):
    """Has a model answer for it."""

    async def step(self, message):
        self.turn += 1
        return (
            Step(end=EndReason.ENV_END)
            if self.turn > 1
            else Step(ask=Ask(messages=[message], max_tokens=6, by=self.by))
        )

    async def hear(self, text):
        return Step(messages=[{"role": "user", "content": f"{text}!"}])


class AsksPolicy(Consultant):
    by = "policy"


class AsksStranger(Consultant):
    by = "stranger"


def test_an_environment_may_have_a_model_speak_for_it():
    engine = Script("hm<end>", "well", "bye")
    rollout = roll(engine, env=AsksPolicy)
    assert [m["content"] for m in rollout.messages] == ["hm<end>", "well!", "bye"]
    asked = engine.requests[1]
    assert (list(asked.prompt_ids), asked.max_tokens) == ([*map(ord, "hm< end>"), 1], 6), "quoted"
    assert asked.session != engine.requests[0].session
    assert sum(rollout.loss_mask) == len("hm<end>") + len("bye") + 2, "what it says is context"
    refused = roll(Script("hm"), env=AsksStranger)
    assert refused.end_reason is EndReason.ENV_ERROR
    assert "ask.by must be policy or nothing else, got stranger" in refused.error


class Boastful(SingleTurn):
    async def step(self, message):
        return Step(end=EndReason.ENV_END, outcome={"self": self})


def test_an_outcome_that_no_file_can_hold_is_a_fault():
    rollout = roll(Script("hm"), env=Boastful)
    assert (rollout.end_reason, rollout.outcome) == (EndReason.ENV_ERROR, {})
    assert "the outcome must be JSON" in rollout.error


class Dying(TwoTurns):
    """Its process dies at the second turn of its first life, or of every life."""

    lives = 0
    always = False

    def __init__(self):
        Dying.lives += 1

    async def step(self, message):
        if self.turn == 1 and (self.always or self.lives == 1):
            raise EnvLostError("service 0 died")
        return await super().step(message)


class AlwaysDying(Dying):
    always = True


def test_a_lost_environment_is_rebuilt_and_one_that_is_lost_again_and_again_is_a_fault():
    rollout = roll(Script("hm", "answer: 2"), env=Dying)
    assert (rollout.end_reason, rollout.error, Dying.lives) == (EndReason.ENV_END, None, 2)
    assert [m["content"] for m in rollout.messages] == ["hm", "go on", "answer: 2"]
    rollout = roll(Script("hm", "answer: 2"), env=AlwaysDying)
    assert (rollout.end_reason, Dying.lives) == (EndReason.ENV_ERROR, 2 + 3)
    assert "service 0 died, 3 times" in rollout.error


def test_a_loop_ends_the_rollout():
    class Looping(Script):
        async def sample(self, request):
            return replace(await super().sample(request), stopped=False, repetitive=True)

    assert roll(Looping("la la la")).end_reason is EndReason.REPETITION


def test_a_group_is_complete_without_its_slowest_rollouts():
    closed = []

    class Slow(SingleTurn):
        async def close(self):
            closed.append(self)

    class Uneven(Uninterrupted):
        async def sample(self, request):
            number = int(request.session.rpartition("/")[2])
            await asyncio.sleep(60 if number in (0, 3) else 0.01)
            return Sample(token_ids=[5, 0], logprobs=[-1, -1], stopped=True, policy_version=1, generate_s=0.0)

    own = collector(Uneven())
    own.envs = {"single_turn": Slow}
    group = own.run(own.finish(own.begin(TASK, size=4, spare=2, temperature=1.0, stream="s")))
    assert len(group.rollouts) == len(group.scores) == 4
    assert len(closed) == 6, "those that are given up are closed too"
