"""Choosing tasks: the acceptance ids are those of docs/rewards.md."""

import random
from collections import Counter
from statistics import fmean

import pytest

from rl.curriculum import PrioritisedStream
from rl.selection import Filter, Measured, balancing_weights, coverage, priorities, unsuitable_type
from rl.types import EndReason, Rollout, RolloutGroup, Score, Task


def task(name, text="What is 2+2?", tags=(), **fields):
    return Task(id=name, kind="math", messages=({"role": "user", "content": text},), fields=fields, tags=tags)


class Listed:
    def __init__(self, tasks):
        self.tasks = tasks
        self.size = len(tasks)

    def task_at(self, index):
        return self.tasks[index]


def groups(tasks, value):
    rollout = Rollout(task_id="t", segments=(), messages=(), end_reason=EndReason.STOP)
    return [RolloutGroup(task=t, rollouts=(rollout,) * 4, scores=(Score(value=value),) * 4) for t in tasks]


@pytest.mark.parametrize("chance", [0.1, 0.5, 0.8])
def test_d1_the_pass_rate_is_unbiased(chance):
    rng = random.Random(0)
    rates = [
        Measured(id="t", passed=sum(rng.random() < chance for _ in range(10)), tries=10).pass_rate for _ in range(4000)
    ]
    assert fmean(rates) == pytest.approx(chance, abs=0.01)


@pytest.mark.parametrize(
    ("passed", "guessed", "verdict"),
    [(0, 0, "too hard"), (2, 0, "too hard"), (3, 0, "kept"), (7, 0, "kept"), (8, 0, "too easy"), (5, 1, "guessable")],
)
def test_d1_d2_moderate_difficulty_that_cannot_be_guessed(passed, guessed, verdict):
    measured = Measured(id="t", passed=passed, tries=10, guessed=guessed, guesses=8)
    assert Filter(low=0.2, high=0.8).verdict(task("t", answer="4"), measured) == verdict


def test_filter_bounds_are_checked():
    with pytest.raises(ValueError, match=r"low and high must satisfy 0 <= low < high <= 1, got 0\.8 and 0\.2"):
        Filter(low=0.8, high=0.2)


@pytest.mark.parametrize(
    ("text", "answer", "kind"),
    [
        ("Which is prime?\nA) 4\nB) 7\nC) 9", "B", "choice"),
        ("Pick one: (A) red (B) blue", "A", "choice"),
        ("True or false: 7 is prime.", "1", "truth"),
        ("Is 7 prime?", "Yes", "truth"),
        ("Prove that the square root of 2 is irrational.", "", "proof"),
        ("Show that n^2+n is even.", "", "proof"),
        ("What is 2+2?", "4", None),
        ("A train leaves at 9. How far is it by 12?", "180", None),
    ],
)
def test_d3_types_that_are_guessed_or_hard_to_verify(text, answer, kind):
    assert unsuitable_type(task("t", text, answer=answer)) == kind


def test_d4_frequencies_follow_one_minus_success():
    tasks = [task(str(i)) for i in range(5)]
    successes = [0.0, 0.25, 0.5, 0.75, 0.9]
    stream = PrioritisedStream(Listed(tasks), seed=0, memory=10_000)
    for t, s in zip(tasks, successes, strict=True):
        for hit in range(20):
            stream.observe(groups([t], float(hit < 20 * s)))
    draws = 6000
    counts = Counter(stream.take(1)[0].id for _ in range(draws))
    weights = [1 - s for s in successes]
    expected = [draws * w / sum(weights) for w in weights]
    chi_square = sum((counts[str(i)] - e) ** 2 / e for i, e in enumerate(expected))
    assert chi_square < 13.28, "p > 0.01 at four degrees of freedom"


def test_d4_a_draw_holds_no_task_twice_and_success_fades():
    tasks = [task(str(i)) for i in range(8)]
    stream = PrioritisedStream(Listed(tasks), seed=1, memory=8)
    assert len({t.id for t in stream.take(6)}) == 6
    for _ in range(4):
        stream.observe(groups(tasks[:1], 0.0))
    for _ in range(12):
        stream.observe(groups(tasks[:1], 1.0))
    assert stream.weights()[0] == 0.05, "old failures are forgotten; the floor remains"
    assert priorities({}, ["new"], floor=0.1) == [1.0]


def test_prioritised_stream_resumes_exactly():
    tasks = [task(str(i)) for i in range(20)]
    whole = PrioritisedStream(Listed(tasks), seed=3)
    ids = []
    for number in range(6):
        drawn = whole.take(5)
        ids.append([t.id for t in drawn])
        whole.observe(groups(drawn, float(number % 2)))
        if number == 2:
            state = whole.state()
    rest = PrioritisedStream(Listed(tasks), seed=3)
    rest.restore(state)
    for number in range(3, 6):
        drawn = rest.take(5)
        assert [t.id for t in drawn] == ids[number]
        rest.observe(groups(drawn, float(number % 2)))


def test_d5_easy_then_hard():
    tasks = [task(str(i), pass_rate=i / 10) for i in range(1, 10)]
    stream = PrioritisedStream(Listed(tasks), seed=0, hard_after=2, hard_below=0.45)
    early = {t.id for _ in range(2) for t in stream.take(9)}
    late = {t.id for _ in range(5) for t in stream.take(9)}
    assert len(early) == 9
    assert late == {"1", "2", "3", "4"}


def test_d5_unsolved_tasks_are_readmitted():
    tasks = [task(f"solved{i}", pass_rate=0.5) for i in range(3)] + [
        task(f"unsolved{i}", pass_rate=0.0) for i in range(4)
    ]
    stream = PrioritisedStream(Listed(tasks), seed=0, readmit_every=2, readmit_count=2)
    counts = [sum(t.id.startswith("unsolved") for t in stream.take(9)) for _ in range(6)]
    assert counts == [0, 0, 2, 2, 4, 4]


def test_d6_coverage_and_rebalancing():
    tasks = [task(str(i), tags=("algebra",)) for i in range(90)] + [
        task(str(i), tags=("knots",)) for i in range(90, 100)
    ]
    assert coverage([*tasks, task("x")]) == {"algebra": 90, "knots": 10, "untagged": 1}
    weights = balancing_weights(tasks)
    assert sum(weights[:90]) == pytest.approx(sum(weights[90:]))
    stream = PrioritisedStream(Listed(tasks), seed=0, balance_tags=True)
    share = fmean(t.tags == ("knots",) for _ in range(400) for t in stream.take(2))
    assert 0.4 < share < 0.6


def test_endless_sources_have_no_priorities():
    source = Listed([task("1")])
    source.size = None
    with pytest.raises(ValueError, match="needs a source with a size"):
        PrioritisedStream(source, seed=0)
