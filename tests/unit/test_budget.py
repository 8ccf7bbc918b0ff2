"""Budgets: fixed, from data, learned; what going over one costs; the ledger (A8, K2.5's Toggle)."""

import asyncio
from dataclasses import replace

import pytest
from fakes import Answers, Letters

from envs.single_turn import SingleTurn
from rewards.length import OverBudget, Toggle
from rl.budget import Budgets, Fixed, FromField, Learned, percentile
from rl.collect import Collector
from rl.rollout import RolloutLimits
from rl.types import EndReason, Fault, Rollout, RolloutGroup, Score, Segment, Task


def task(kind="math", **fields):
    return Task(id="t", kind=kind, messages=({"role": "user", "content": "q"},), fields=fields)


def budgets(policy, *, cut=True, most=50):
    return Budgets(policy=policy, most=lambda kind: {"code": 80}.get(kind, most), cut=cut, pass_value=1.0)


def group(lengths, values, *, kind="math", budget=None, end=EndReason.STOP):
    rollouts = tuple(
        Rollout(
            task_id="t", messages=(), end_reason=end, budget=budget,
            segments=(Segment(token_ids=[5] * n, from_model=True, sampler_logprobs=[-1.0] * n, policy_version=0),),
        )
        for n in lengths
    )  # fmt: skip
    return RolloutGroup(task=task(kind), rollouts=rollouts, scores=tuple(Score(value=v) for v in values))


def test_a_percentile_is_one_of_the_values():
    values = [30, 10, 20, 40]
    assert [percentile(values, p) for p in (1, 25, 26, 50, 75, 99, 100)] == [10, 10, 20, 20, 30, 40, 40]


def test_budgets_come_from_configuration_or_task_and_never_exceed_max_tokens():
    assert budgets(Fixed()).of(task()) == (50, 50)
    assert budgets(Fixed()).of(task("code")) == (80, 80)
    fields = budgets(FromField(field="tokens"))
    assert fields.of(task(tokens=20)) == (20, 20)
    assert fields.of(task(tokens=70)) == (50, 50)
    assert fields.of(task()) == (50, 50)
    assert budgets(FromField(field="tokens"), cut=False).of(task(tokens=20)) == (20, 50)
    with pytest.raises(ValueError, match="tokens must be a whole number of at least 1, got 0"):
        fields.of(task(tokens=0))


def test_learned_budgets_are_fixed_after_the_warmup_and_survive_a_restart():
    policy = Learned(percentile=50, warmup_iterations=2, least=4)
    own = budgets(policy)
    own.observe([group([10, 20, 45], [1, 1, 0]), group([30], [1], kind="code")], iteration=1)
    assert own.of(task()) == (50, 50), "no budget while it warms up"
    resumed = Learned(percentile=50, warmup_iterations=2, least=4)
    resumed.restore(policy.state())
    own = budgets(resumed)
    own.observe([group([30, 40, 41], [1, 1, 0]), group([30], [1], kind="code")], iteration=2)
    assert own.of(task()) == (20, 20), "the median of 10, 20, 30, 40"
    assert own.of(task("code")) == (80, 80), "two correct rollouts are too few"
    own.observe([group([2, 2, 2], [1, 1, 1])], iteration=3)
    assert own.of(task()) == (20, 20)


def test_learned_budgets_may_be_for_some_kinds_and_ranks_are_no_verdicts():
    own = budgets(Learned(percentile=50, warmup_iterations=1, least=1, kinds=["math", "chat"]))
    ranked = group([30, 40], [1.0, 0.0], kind="chat")
    ranked = replace(ranked, scores=tuple(replace(s, rubric_hash="r") for s in ranked.scores))
    ledger = own.observe([group([10], [1]), group([20], [1], kind="code"), ranked], iteration=1)
    assert [own.of(task(kind))[0] for kind in ("math", "code", "chat")] == [10, 80, 50]
    assert sorted(ledger) == ["budget/correct_length/code", "budget/correct_length/math"]


@pytest.mark.parametrize("policy", [Fixed(), FromField(), Learned(percentile=50, warmup_iterations=1, least=4)])
def test_no_rollout_exceeds_its_budget_by_one_token_under_any_policy(policy):
    own = budgets(policy, most=12)
    own.observe([group([5, 6, 7, 8], [1] * 4)], iteration=1)
    asked = task(budget=9)
    limit = {"Fixed": 12, "FromField": 9, "Learned": 6}[type(policy).__name__]

    async def score(_task, _rollout):
        return Score(value=1.0)

    with asyncio.Runner() as runner:
        collector = Collector(
            engine=Answers(lambda _prompt: "a" * (limit - 1)), chat=Letters(), envs={"single_turn": SingleTurn},
            score=score, limits=RolloutLimits(max_tokens=12, context=99), seed=0, run=runner.run, budget=own.of,
        )  # fmt: skip
        (exact,) = collector.collect([asked], group_size=2, temperature=1.0, stream="a")
        collector.engine = Answers(lambda _prompt: "a" * limit)
        (over,) = collector.collect([asked], group_size=2, temperature=1.0, stream="b")
    assert {(r.completion_tokens, r.end_reason, r.budget) for r in exact.rollouts} == {(limit, EndReason.STOP, limit)}
    assert {(r.completion_tokens, r.end_reason) for r in over.rollouts} == {(limit, EndReason.BUDGET)}
    penalty = OverBudget(penalty=0.25)
    assert penalty(exact, iteration=1) == [0.0, 0.0]
    assert penalty(over, iteration=1) == [-0.25, -0.25]


def test_toggle_holds_the_budget_in_every_other_stretch_where_the_policy_can_afford_it():
    rule = Toggle(window=2, threshold=0.5)
    good = group([10, 30, 20], [1.0, 1.0, 0.0], budget=20)
    weak = group([10, 30, 20], [0.0, 1.0, 0.0], budget=20)
    assert [rule(good, iteration=t)[1] for t in range(8)] == [-1, -1, 0, 0, -1, -1, 0, 0]
    assert rule(good, iteration=0) == [0.0, -1.0, 0.0]
    assert [Toggle(window=None)(good, iteration=t)[1] for t in range(8)] == [-1] * 8
    assert rule(weak, iteration=0) == [0.0, 0.0, 0.0]


def test_the_ledger_counts_by_kind_and_leaves_faults_out():
    kept, cut = group([10, 15], [1.0, 1.0], budget=20), group([20], [0.0], budget=20, end=EndReason.BUDGET)
    one = replace(kept, rollouts=kept.rollouts + cut.rollouts, scores=kept.scores + cut.scores)
    faulty = replace(group([40], [1.0], kind="code", budget=80), scores=(Score.failed(Fault.TIMEOUT, "slow"),))
    ledger = budgets(Fixed()).observe([one, faulty], iteration=1)
    assert ledger == {
        "budget/tokens/math": 20.0, "budget/used/math": 0.75, "budget/hit_rate/math": pytest.approx(1 / 3),
        "budget/correct_length/math": 12.5,
    }  # fmt: skip
