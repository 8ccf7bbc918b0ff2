"""Comparisons with a known answer: balanced so that no shortcut pays. And the guard that measures the judge on them."""

import asyncio
import json
import random
from collections import Counter

import pytest
from test_critic import GOOD, PROMPTS, critic, group, judge, rollout

from critic.guard import Guard, Judged, agreement, calibration_error, judge_pairs, report
from critic.refresh import Pair, Refresh, balanced, pairs_of
from critic.rubrics import RubricSet
from rl.types import Fault, Score, Task

KINDS = ("math", "code")


def task(number):
    return Task(id=f"t{number}", kind=KINDS[number % 4 == 0], messages=({"role": "user", "content": f"q{number}"},))


def verified(number, rng):
    """Right replies hold the number 1, wrong ones 0; lengths differ at random."""
    texts, values = [], []
    for k in range(6):
        value = float(k < 3)
        texts.append(f"{int(value)}{k}" + "." * rng.randint(0, 20))
        values.append(value)
    return group(*texts, task=task(number), values=values)


GROUPS = [verified(n, random.Random(n)) for n in range(40)]


def comparisons(refresh, groups=GROUPS, seed="1"):
    fit = judge(context=2000).fit
    return refresh.comparisons(groups, prompts=PROMPTS, rubrics=RubricSet((GOOD,)), fit=fit, pass_value=1.0, seed=seed)


def test_pairs_are_one_passed_and_one_failed_reply():
    mixed = group("a", "b", "a", "c", values=[1.0, 0.0, 1.0, 0.0], task=task(1))
    assert [(p.right, p.wrong) for p in pairs_of(mixed, pass_value=1.0)] == [("a", "b"), ("a", "c")]
    broken = group("a", "b", values=[1.0, 0.0], task=task(1))
    broken = type(broken)(
        task=broken.task, rollouts=broken.rollouts, scores=(Score(value=1.0), Score.failed(Fault.TIMEOUT, "slow"))
    )
    assert pairs_of(broken, pass_value=1.0) == []


def test_comparisons_are_balanced_over_kind_length_and_position():
    made = comparisons(Refresh(tasks=32, per_task=2, decoys=0.0))
    assert len(made) == 32
    assert max(Counter(t.fields["of"] for t in made).values()) <= 2
    by_kind = Counter(t.tags for t in made)
    assert by_kind[("judge-math",)] == by_kind[("judge-code",)] == 16
    for tag in ("judge-math", "judge-code"):
        lengths = Counter(t.fields["longer"] for t in made if tag in t.tags)
        assert abs(lengths["right"] - lengths["wrong"]) <= 1
        for longer in lengths:
            letters = Counter(t.fields["better"] for t in made if tag in t.tags and t.fields["longer"] == longer)
            assert abs(letters["A"] - letters["B"]) <= 1


def shortcut_rates(made, guess):
    return sum(guess(t) == t.fields["better"] for t in made) / len(made)


def test_no_shortcut_pays():
    made = [t for seed in range(30) for t in comparisons(Refresh(tasks=32), seed=str(seed))]

    def replies(t):
        return t.messages[0]["content"].split("|")[1:3]

    rates = {
        "always A": shortcut_rates(made, lambda t: "A"),
        "the longer": shortcut_rates(made, lambda t: "AB"[len(replies(t)[0]) < len(replies(t)[1])]),
        "the one that pleads": shortcut_rates(
            made, lambda t: "AB"["right" in replies(t)[1] or "question" in replies(t)[1]]
        ),
    }
    assert {name: rate for name, rate in rates.items() if not 0.45 <= rate <= 0.55} == {}


def test_too_few_of_one_length_limit_the_other():
    long_right = [group("1....", "0", values=[1.0, 0.0], task=task(n)) for n in range(1, 9)]
    assert len(balanced(long_right, count=8, per_task=2, pass_value=1.0, rng=random.Random(0))) == len(KINDS)


def test_decoys_are_as_frequent_on_either_side():
    made = comparisons(Refresh(tasks=40, decoys=1.0))
    plain = comparisons(Refresh(tasks=40, decoys=0.0))
    assert all(len(a.messages[0]["content"]) > len(b.messages[0]["content"]) for a, b in zip(made, plain, strict=True))


def test_the_reward_is_preferring_the_right_one():
    refresh = Refresh()
    one = Task(id="j", kind="judge", messages=(), fields={"better": "B"})
    values = [refresh.score(one, rollout(text), judge().chat).value for text in ("x\nverdict: B", "verdict: A", "hm")]
    assert values == [1.0, 0.0, 0.0]
    graded = Refresh(graded=True).score(one, rollout("verdict: A"), judge().chat).value
    assert graded == pytest.approx(1 - 0.3679, abs=1e-3)


def test_refreshes_come_when_due_and_the_next_iteration_judges_them():
    learner = critic(judge(context=2000), refresh=Refresh(every=2, tasks=4))
    learner.prepare(GROUPS, iteration=2)
    assert learner.pending == []
    learner.prepare(GROUPS, iteration=3)
    assert len(learner.pending) == 4
    resumed = critic(judge(context=2000))
    resumed.restore(json.loads(json.dumps(learner.state())))
    assert [t.fields for t in resumed.pending] == [t.fields for t in learner.pending]
    frozen = critic(judge(context=2000), learns=False)
    frozen.prepare(GROUPS, iteration=3)
    assert frozen.pending == []


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"tasks": 0}, "critic.refresh.tasks must be at least 1, got 0"),
        ({"group_size": 1}, "critic.refresh.group_size must be at least 2"),
        ({"decoys": 2}, "critic.refresh.decoys must be from 0 to 1"),
        ({"objective": "dpo"}, "critic.refresh.objective must be rl or supervised, got 'dpo'"),
    ],
)
def test_wrong_refresh_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        Refresh(**settings)


def judged(first, second, kind="math", right="1", wrong="0", number=1):
    pair = Pair(task=Task(id=f"{kind}{number}", kind=kind, messages=()), right=right, wrong=wrong)
    return Judged(pair=pair, first=first, second=second)


def test_report_by_hand():
    found = report(
        [
            judged(1.0, 1.0),
            judged(1.0, 0.0, number=2),
            judged(None, None, number=3),
            judged(0.0, 0.0, kind="code", right="111"),
        ]
    )
    assert found["accuracy"] == (1 + 0.5 + 0.5 + 0) / 4
    assert found["order_flip_rate"] == pytest.approx(1 / 3)
    assert (found["accuracy/kind/math"], found["accuracy/kind/code"]) == (pytest.approx(2 / 3), 0.0)
    assert (found["accuracy/longer/neither"], found["accuracy/longer/right"]) == (pytest.approx(2 / 3), 0.0)


def test_calibration_and_agreement_by_hand():
    sure = [judged(0.8, 0.8, number=n) for n in range(4)] + [judged(0.2, 0.2, number=5)]
    assert calibration_error(sure) == pytest.approx(0.0), "says 0.8, and is right in 4 of 5"
    assert calibration_error([judged(1.0, 1.0), judged(0.0, 0.0, number=2)]) == pytest.approx(0.5)
    assert agreement([judged(1.0, 1.0), judged(1.0, 1.0, number=2)]) == pytest.approx(1.0)
    assert agreement([judged(0.5, 0.5)]) == 0.0


def right_one(prompt):
    _, a, _, _ = prompt.split("|")
    return f"verdict: {'A' if a.startswith('1') else 'B'}"


def test_the_guards_weight_follows_accuracy():
    guard = Guard(pairs=20, floor=0.6, full=0.8)
    assert guard.weight == 0.0
    one = judge(right_one, context=2000)
    found = asyncio.run(guard.measure(one, GROUPS, pass_value=1.0))
    assert (found["pairs"], found["accuracy"], guard.weight) == (20, 1.0, 1.0)
    assert asyncio.run(guard.compare(one)) == 1.0
    coin = judge(lambda prompt: "verdict: A", context=2000)
    asyncio.run(guard.measure(coin, GROUPS, pass_value=1.0, decides=False))
    assert guard.weight == 1.0, "only looked"
    assert asyncio.run(guard.measure(coin, GROUPS, pass_value=1.0))["order_flip_rate"] == 1.0
    assert guard.weight == 0.0
    resumed = Guard(floor=0.6, full=0.8)
    asyncio.run(guard.measure(one, GROUPS, pass_value=1.0))
    resumed.restore(json.loads(json.dumps(guard.state())))
    assert (resumed.weight, len(resumed.kept)) == (1.0, 20)
    assert asyncio.run(resumed.compare(one)) == 1.0
    with pytest.raises(ValueError, match=r"critic\.guard\.floor and full must be accuracies"):
        Guard(floor=0.9, full=0.5)


def test_judge_pairs_turns_the_second_order_round():
    pairs = pairs_of(GROUPS[0], pass_value=1.0)
    assert {(j.first, j.second) for j in asyncio.run(judge_pairs(judge(right_one, context=2000), pairs))} == {
        (1.0, 1.0)
    }
