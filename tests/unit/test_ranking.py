"""Rankings against numbers worked out by hand, their symmetries, and a scripted judge whose truth is known."""

import math
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from critic.ranking import both_orders, bradley_terry, copeland, enforce, flipped, win_rate

RANKINGS = [win_rate, bradley_terry, copeland]
NAN = math.nan


def preferences(count, pairs):
    """Both entries of each pair, from ``{(i, j): p_ij}``."""
    preferences_KK = np.full((count, count), NAN)
    for (i, j), value in pairs.items():
        preferences_KK[i, j], preferences_KK[j, i] = value, 1 - value
    return preferences_KK


def judged(count, quality, rng):
    """All pairs by a judge that names the better of two (the lower index) with probability ``quality`` per call."""
    return preferences(
        count, {pair: both_orders(*rng.binomial(1, quality, 2)) for pair in combinations(range(count), 2)}
    )


def kendall_tau(values_K):
    """Agreement with the truth that lower indices are better: 1 for the same order, -1 for the opposite one."""
    return np.mean([np.sign(values_K[i] - values_K[j]) for i, j in combinations(range(len(values_K)), 2)])


def hunter(preferences_KK, prior):
    """Bradley-Terry by equation 3 of Hunter 2004, with the virtual opponent of strength 1."""
    wins_KK = np.nan_to_num(preferences_KK)
    games_KK = wins_KK + wins_KK.T
    strength_K = np.ones(len(wins_KK))
    for _ in range(5000):
        expected_K = (games_KK / (strength_K[:, None] + strength_K)).sum(axis=1) + 2 * prior / (strength_K + 1)
        strength_K = (wins_KK.sum(axis=1) + prior) / expected_K
    chances_KK = strength_K[:, None] / (strength_K[:, None] + strength_K)
    return (chances_KK.sum(axis=1) - 0.5) / (len(wins_KK) - 1)


@st.composite
def matrices(draw, complete=False):
    count = draw(st.integers(2, 7))
    value = st.integers(0, 8).map(lambda eighths: eighths / 8)
    value = value if complete else st.one_of(st.none(), value)
    pairs = {pair: draw(value) for pair in combinations(range(count), 2)}
    return preferences(count, {pair: p for pair, p in pairs.items() if p is not None})


@pytest.mark.parametrize(
    ("forward", "backward", "mean", "flips"),
    [
        (1.0, 0.5, 0.75, False),
        (0.9, 0.3, 0.6, True),
        (0.3, 0.9, 0.6, True),
        (0.8, 0.6, 0.7, False),
        (0.5, 0.5, 0.5, False),
        (1.0, None, 0.75, None),
        (None, 0.0, 0.25, None),
        (None, None, None, None),
    ],
)
def test_both_orders(forward, backward, mean, flips):
    assert both_orders(forward, backward) == (None if mean is None else pytest.approx(mean))
    assert flipped(forward, backward) is flips


def test_win_rate_and_copeland_by_hand():
    everything = preferences(3, {(0, 1): 1.0, (0, 2): 0.75, (1, 2): 0.5})
    np.testing.assert_allclose(win_rate(everything), [0.875, 0.25, 0.375])
    np.testing.assert_allclose(copeland(everything), [1.0, 0.25, 0.25])
    one_missing = preferences(4, {(0, 1): 1.0, (1, 2): 0.5 + 1e-12})
    np.testing.assert_allclose(win_rate(one_missing), [1.0, 0.25, 0.5, NAN])
    np.testing.assert_allclose(copeland(one_missing), [1.0, 0.25, 0.5, NAN])


def test_bradley_terry_by_hand():
    # Strengths 2 and 1/2: 0.9 wins are 4/5 modelled, and prior (1 - 2 * 2/3) = -0.1.
    np.testing.assert_allclose(bradley_terry(preferences(2, {(0, 1): 0.9}), prior=0.3), [0.8, 0.2])
    # Strengths 2, 1 and 1/2: 2/3 + 0.1 wins are 2/3 modelled and again -0.1; the pair (0, 2) is modelled alone.
    chain = preferences(4, {(0, 1): 2 / 3 + 0.1, (1, 2): 2 / 3 + 0.1})
    expected = [(2 / 3 + 4 / 5) / 2, 1 / 2, (1 / 3 + 1 / 5) / 2, NAN]
    np.testing.assert_allclose(bradley_terry(chain, prior=0.3), expected)


def test_bradley_terry_is_hunters():
    rng = np.random.default_rng(0)
    for _ in range(20):
        preferences_KK = preferences(6, {pair: rng.uniform() for pair in combinations(range(6), 2)})
        preferences_KK[0, 1] = preferences_KK[1, 0] = 0.0
        np.testing.assert_allclose(bradley_terry(preferences_KK), hunter(preferences_KK, 0.1), atol=1e-8)


@pytest.mark.parametrize("prior", [0.1, 1e-3, 1e-6])
@pytest.mark.parametrize("known", ["all", "neighbours"])
def test_bradley_terry_converges_for_a_perfect_order(prior, known):
    pairs = {pair: 1.0 for pair in combinations(range(32), 2) if known == "all" or pair[1] == pair[0] + 1}
    values_K = bradley_terry(preferences(32, pairs), prior=prior)
    assert kendall_tau(values_K) == 1
    np.testing.assert_allclose(values_K, 1 - values_K[::-1], atol=1e-6)


@pytest.mark.parametrize("prior", [0.0, -1.0, NAN, math.inf])
def test_bradley_terry_needs_a_prior(prior):
    with pytest.raises(ValueError, match=f"prior must be finite and at least 1e-6, got {prior}"):
        bradley_terry(preferences(2, {(0, 1): 1.0}), prior=prior)


def test_violators_lose_their_pairs_judged_or_not():
    before = preferences(4, {(0, 1): 0.75, (0, 2): 1.0, (2, 3): 1.0})
    after = enforce(before, [True, False, True, False])
    expected = [[NAN, 0, 0, 0], [1, NAN, 1, NAN], [0, 0, NAN, 0], [1, NAN, 1, NAN]]
    np.testing.assert_array_equal(after, expected)
    assert before[0, 1] == 0.75
    np.testing.assert_array_equal(win_rate(after), [0, 1, 0, 1])
    np.testing.assert_array_equal(copeland(after), [0, 1, 0, 1])
    # The two violators lose to the others alike and carry nothing between them; so do the others.
    violator, other = bradley_terry(after)[:2]
    np.testing.assert_allclose(bradley_terry(after), [violator, other, violator, other])
    assert violator < 0.4 < 0.6 < other


def test_where_all_violate_all_are_alike():
    after = enforce(preferences(3, {(0, 1): 1.0}), [True] * 3)
    assert win_rate(after).tolist() == copeland(after).tolist() == [0, 0, 0]
    assert bradley_terry(after).tolist() == [0.5, 0.5, 0.5]


def test_enforce_wants_one_value_per_response():
    with pytest.raises(ValueError, match="violates_K must hold one value per response, got 1 for 2 responses"):
        enforce(preferences(2, {}), [True])


@pytest.mark.parametrize("rank", RANKINGS)
@pytest.mark.parametrize("count", [0, 1, 3])
def test_nothing_judged_is_no_value(rank, count):
    values_K = rank(preferences(count, {}))
    assert values_K.shape == (count,)
    assert values_K.dtype == np.float64
    assert np.isnan(values_K).all()


@pytest.mark.parametrize("rank", RANKINGS)
@given(preferences_KK=matrices())
def test_values_are_shares_and_missing_where_nothing_was_judged(rank, preferences_KK):
    values_K = rank(preferences_KK)
    np.testing.assert_array_equal(np.isnan(values_K), np.isnan(preferences_KK).all(axis=1))
    assert ((values_K[~np.isnan(values_K)] >= 0) & (values_K[~np.isnan(values_K)] <= 1)).all()


@pytest.mark.parametrize("rank", RANKINGS)
@given(preferences_KK=matrices())
def test_swapped_roles_turn_values_round(rank, preferences_KK):
    np.testing.assert_allclose(rank(preferences_KK.T), 1 - rank(preferences_KK), atol=1e-7)


@pytest.mark.parametrize("rank", RANKINGS)
@given(preferences_KK=matrices(), data=st.data())
def test_labels_do_not_matter(rank, preferences_KK, data):
    order = data.draw(st.permutations(range(len(preferences_KK))))
    np.testing.assert_allclose(rank(preferences_KK[np.ix_(order, order)]), rank(preferences_KK)[order], atol=1e-7)


@pytest.mark.parametrize("rank", RANKINGS)
@given(preferences_KK=matrices(complete=True))
def test_values_average_to_a_half(rank, preferences_KK):
    assert rank(preferences_KK).mean() == pytest.approx(0.5)


@given(preferences_KK=matrices(complete=True))
def test_bradley_terry_orders_all_pairs_as_win_rate(preferences_KK):
    # With the same number of games for all, the wins are all that the likelihood depends on.
    wins_K, values_K = win_rate(preferences_KK), bradley_terry(preferences_KK)
    for i, j in combinations(range(len(wins_K)), 2):
        expected = 0 if math.isclose(wins_K[i], wins_K[j], abs_tol=1e-9) else np.sign(wins_K[i] - wins_K[j])
        assert (
            0 if math.isclose(values_K[i], values_K[j], abs_tol=1e-7) else np.sign(values_K[i] - values_K[j])
        ) == expected


@pytest.mark.parametrize("quality", [0.6, 0.8, 1.0])
@pytest.mark.parametrize("count", [2, 8])
def test_planted_truth_expected_win_rates(quality, count):
    rng = np.random.default_rng(0)
    rates = np.array([win_rate(judged(count, quality, rng)) for _ in range(600)])
    rank_K = np.arange(count)
    expected_K = ((count - 1 - rank_K) * quality + rank_K * (1 - quality)) / (count - 1)
    error_K = rates.std(axis=0, ddof=1) / math.sqrt(len(rates))
    assert (np.abs(rates.mean(axis=0) - expected_K) <= 3 * error_K + 1e-12).all()


@pytest.mark.parametrize("rank", RANKINGS)
@pytest.mark.parametrize("count", [2, 5, 16])
def test_planted_truth_a_perfect_judge_recovers_the_order(rank, count):
    values_K = rank(judged(count, 1.0, np.random.default_rng(0)))
    assert np.argsort(-values_K).tolist() == list(range(count))
    assert len(set(values_K)) == count


@pytest.mark.parametrize("rank", RANKINGS)
def test_planted_truth_recovery_rises_with_the_judge(rank):
    rng = np.random.default_rng(0)
    taus = [np.mean([kendall_tau(rank(judged(8, q, rng))) for _ in range(150)]) for q in (0.5, 0.6, 0.8, 1.0)]
    assert taus[0] == pytest.approx(0, abs=0.1)
    assert (np.diff(taus) > 0.1).all()
    assert taus[-1] == 1


def test_a_judge_of_positions_alone_gives_ties():
    # It prefers the first shown: i when i is first (1), and not i when i is second (0).
    answers = dict.fromkeys(combinations(range(6), 2), (1.0, 0.0))
    assert all(flipped(*answer) for answer in answers.values())
    preferences_KK = preferences(6, {pair: both_orders(*answer) for pair, answer in answers.items()})
    for rank in RANKINGS:
        np.testing.assert_allclose(rank(preferences_KK), [0.5] * 6)
