"""Schedules of pairs: what they promise about counts, degrees and order, and how well a judge's truth comes through."""

import math
import random
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from critic.pairs import AllPairs, Regular, Swiss
from critic.ranking import both_orders, bradley_terry, enforce, win_rate
from rl.plugins import build


def nothing(count):
    return np.full((count, count), math.nan)


def play(schedule, preferences_KK, rng, *, quality=1.0, failing=0.0):
    """Rounds of pairs until the schedule has enough, judged so that the lower index is better; fills in preferences."""
    rounds, asked = [], set()
    while pairs := schedule.next_pairs(preferences_KK, rng, asked):
        rounds.append(pairs)
        asked |= set(pairs)
        for i, j in pairs:
            if rng.random() >= failing:
                value = both_orders(*(float(rng.random() < quality) for _ in range(2)))
                preferences_KK[i, j], preferences_KK[j, i] = value, 1 - value
    return rounds


def degrees(pairs, count):
    met = Counter(i for pair in pairs for i in pair)
    return sorted(met[i] for i in range(count))


def reached(pairs, start=0):
    """All responses that a chain of pairs connects with ``start``."""
    seen, last = {start}, set()
    while seen != last:
        last = seen
        seen = seen | {i for pair in pairs if seen & set(pair) for i in pair}
    return seen


schedules = st.one_of(
    st.just(AllPairs()),
    st.integers(1, 18).map(lambda degree: Regular(degree=degree)),
    st.integers(1, 18).map(lambda rounds: Swiss(rounds=rounds)),
)


@given(schedule=schedules, count=st.integers(0, 16), seed=st.integers(0, 9), failing=st.sampled_from([0, 0.3, 1]))
def test_no_pair_twice_and_no_more_than_promised(schedule, count, seed, failing):
    rounds = play(schedule, nothing(count), random.Random(seed), quality=0.7, failing=failing)
    pairs = [pair for found in rounds for pair in found]
    assert len(set(pairs)) == len(pairs)
    assert all(0 <= i < j < count for i, j in pairs)
    assert 2 * len(pairs) <= schedule.most_judgements(count)
    if not isinstance(schedule, Swiss):
        assert len(rounds) <= 1
        assert 2 * len(pairs) == schedule.most_judgements(count)


@given(schedule=schedules, count=st.integers(2, 14), violators=st.integers(0, 14), seed=st.integers(0, 9))
def test_what_is_known_beforehand_is_not_judged(schedule, count, violators, seed):
    # Who violates a mandatory rubric has lost already: the others are judged as if they were alone.
    bad = [i < violators for i in range(count)]
    rounds = play(schedule, enforce(nothing(count), bad), random.Random(seed))
    pairs = [pair for found in rounds for pair in found]
    clean = max(0, count - violators)
    assert not any(bad[i] or bad[j] for i, j in pairs)
    assert 2 * len(pairs) <= schedule.most_judgements(clean)
    if isinstance(schedule, Regular):
        assert 2 * len(pairs) == schedule.most_judgements(clean)


def test_all_pairs():
    assert AllPairs().next_pairs(nothing(3), random.Random(0), set()) == [(0, 1), (0, 2), (1, 2)]
    assert AllPairs().next_pairs(nothing(3), random.Random(0), {(0, 1)}) == [(0, 2), (1, 2)]
    assert [AllPairs().most_judgements(count) for count in (0, 1, 2, 8)] == [0, 0, 2, 56]


def test_most_judgements_by_hand():
    assert [Regular(degree=4).most_judgements(count) for count in (0, 1, 4, 5, 8)] == [0, 0, 12, 20, 32]
    assert Regular(degree=3).most_judgements(7) == 20
    assert [Swiss(rounds=3).most_judgements(count) for count in (0, 1, 2, 3, 4, 5, 8)] == [0, 0, 2, 6, 12, 12, 24]


@pytest.mark.parametrize("count", range(2, 14))
@pytest.mark.parametrize("degree", range(1, 14))
def test_regular_has_exact_degrees_and_is_connected(count, degree):
    for seed in range(5):
        pairs = Regular(degree=degree).next_pairs(nothing(count), random.Random(seed), set())
        expected = [min(degree, count - 1)] * count
        expected[0] -= sum(expected) % 2
        assert degrees(pairs, count) == expected
        if degree >= 2:
            assert reached(pairs) == set(range(count))


def test_regular_is_random():
    graphs = {tuple(Regular(degree=4).next_pairs(nothing(10), random.Random(seed), set())) for seed in range(50)}
    assert len(graphs) >= 45
    met = Counter(pair for graph in graphs for pair in graph)
    assert len(met) == 45


@pytest.mark.parametrize("count", range(2, 18))
def test_swiss_puts_the_best_on_top(count):
    needed = math.ceil(math.log2(count))
    for seed in range(20):
        preferences_KK = nothing(count)
        rounds = play(Swiss(rounds=needed), preferences_KK, random.Random(seed))
        assert [len(pairs) for pairs in rounds] == [count // 2] * needed
        assert all(max(degrees(pairs, count)) == 1 for pairs in rounds)
        rates_K = win_rate(preferences_KK)
        assert rates_K[0] == 1
        assert np.nanmax(rates_K[1:]) < 1
        assert np.nanargmax(bradley_terry(preferences_KK)) == 0


def test_swiss_pairs_neighbours():
    preferences_KK = nothing(4)
    for i, j in ((0, 3), (1, 2)):
        preferences_KK[i, j], preferences_KK[j, i] = 1, 0
    assert set(Swiss().next_pairs(preferences_KK, random.Random(0), {(0, 3), (1, 2)})) == {(0, 1), (2, 3)}


@pytest.mark.parametrize("count", [5, 9])
def test_swiss_lets_everyone_sit_out_once_at_most(count):
    for seed in range(20):
        rounds = play(Swiss(rounds=count // 2), nothing(count), random.Random(seed), quality=0.7)
        pairs = [pair for found in rounds for pair in found]
        assert set(degrees(pairs, count)) <= {count // 2 - 1, count // 2}


@pytest.mark.parametrize("count", range(4, 17))
def test_swiss_fills_every_round_while_half_of_the_others_are_new(count):
    # By Dirac's theorem nobody has to be left over while everybody may still meet half of those who play.
    for seed in range(5):
        rounds = play(Swiss(rounds=count // 2), nothing(count), random.Random(seed), quality=0.7)
        assert [len(pairs) for pairs in rounds] == [count // 2] * (count // 2)


@pytest.mark.parametrize("schedule", [AllPairs(), Regular(degree=3), Swiss(rounds=3)])
def test_same_seed_same_pairs(schedule):
    first, second = (play(schedule, nothing(9), random.Random(1), quality=0.7) for _ in range(2))
    assert first == second


def test_recovery_rises_with_the_degree():
    def tau(degree):
        rng, total = random.Random(0), 0.0
        for _ in range(120):
            preferences_KK = nothing(10)
            play(Regular(degree=degree), preferences_KK, rng, quality=0.8)
            values_K = bradley_terry(preferences_KK)
            total += np.sign(values_K[:, None] - values_K)[np.triu_indices(10, k=1)].mean()
        return total / 120

    assert (np.diff([tau(degree) for degree in (1, 2, 4, 9)]) > 0.05).all()


@pytest.mark.parametrize(("kind", "field"), [(Regular, "degree"), (Swiss, "rounds")])
def test_settings_are_checked(kind, field):
    with pytest.raises(ValueError, match=f"critic.pairs.{field} must be at least 1, got 0"):
        kind(**{field: 0})
    with pytest.raises(ValueError, match=f"critic.pairs.{field} must be a whole number, got 2.5"):
        kind(**{field: 2.5})


def test_a_configuration_names_a_schedule():
    assert build({"_target_": "critic.pairs.Swiss", "rounds": 4}, name="critic.pairs") == Swiss(rounds=4)
