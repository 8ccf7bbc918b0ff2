"""From preferences between pairs of responses to one value per response, as pure functions.

Shape suffix: ``K`` is the responses of one task. ``preferences_KK[i, j]`` is how far response i was preferred to
response j, 0 to 1, averaged over both orders of showing them; NaN on the diagonal and where the pair was not judged.
``p_ij + p_ji`` is 1, or 0 if both lost the pair.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]

_TIE = 1e-9
"""A preference this close to 0.5 is a tie: averaging leaves rounding errors."""


def both_orders(forward: float | None, backward: float | None) -> float | None:
    """Preference for i over j: the mean of that with i shown first (``forward``) and with i second (``backward``).

    An order that could not be read counts as a tie, because the other alone carries the judge's position bias in
    full. None if neither could be read.
    """
    if forward is None and backward is None:
        return None
    return ((0.5 if forward is None else forward) + (0.5 if backward is None else backward)) / 2


def flipped(forward: float | None, backward: float | None) -> bool | None:
    """Whether the two orders name different winners; None unless both were read."""
    if forward is None or backward is None:
        return None
    return min(forward, backward) < 0.5 < max(forward, backward)


def enforce(preferences_KK: Array, violates_K: Sequence[bool]) -> Array:
    """A copy in which a response that violates a mandatory rubric (K2 §3.2.2) loses all its pairs, judged or not.

    ``p_ij = 0`` for a violator i and every j, and ``p_ji = 1`` unless j violates too. Raises ``ValueError`` unless
    there is one entry of ``violates_K`` per response.
    """
    if len(violates_K) != len(preferences_KK):
        raise ValueError(
            f"violates_K must hold one value per response, got {len(violates_K)} for {len(preferences_KK)} responses"
        )
    violates = np.asarray(violates_K, dtype=bool)
    enforced_KK = preferences_KK.copy()
    enforced_KK[:, violates] = 1.0
    enforced_KK[violates] = 0.0
    np.fill_diagonal(enforced_KK, np.nan)
    return enforced_KK


def win_rate(preferences_KK: Array) -> Array:
    """``r_i = mean_j p_ij`` over the judged j: with all pairs ``1/(K-1) sum_j p_ij`` (K2 §3.2.2). Shape [K].

    NaN where nothing was judged.
    """
    return _mean(preferences_KK, _judged(preferences_KK))


def copeland(preferences_KK: Array) -> Array:
    """``(wins + ties / 2) / judged``, where ``p_ij > 0.5`` is a win (Copeland 1951). Shape [K].

    A pair that both lost is no tie. NaN where nothing was judged.
    """
    points_KK = np.where(np.abs(preferences_KK - 0.5) <= _TIE, 0.5, np.where(preferences_KK > 0.5, 1.0, 0.0))
    return _mean(points_KK, _judged(preferences_KK))


def bradley_terry(preferences_KK: Array, *, prior: float = 0.1) -> Array:
    """Mean modelled probability of beating the other judged responses: ``mean_j sigmoid(t_i - t_j)``. Shape [K].

    The strengths t maximise ``sum_ij p_ij log sigmoid(t_i - t_j) + prior sum_i log(sigmoid(t_i) sigmoid(-t_i))``:
    Bradley and Terry's likelihood (1952) with ``prior`` wins and losses against an average opponent, without which a
    response that won everything would have no finite strength. A pair that both lost carries nothing. NaN where
    nothing was judged. Raises ``ValueError`` unless ``prior`` is finite and at least 1e-6.
    """
    if not 1e-6 <= prior < math.inf:
        raise ValueError(f"prior must be finite and at least 1e-6, got {prior}")
    judged_KK = _judged(preferences_KK)
    wins_KK = np.where(judged_KK, preferences_KK, 0.0)
    seen_K = np.sum(judged_KK, axis=1) > 0
    others_KK = np.outer(seen_K, seen_K)
    np.fill_diagonal(others_KK, False)
    return _mean(_chances(_strengths(wins_KK, prior)), others_KK)


def _strengths(wins_KK: Array, prior: float) -> Array:
    """Newton's method with steps of length ``log(1 + d) / d``, which converge from anywhere (Sun and Tran-Dinh 2019).

    Hunter's iterations (2004) have the same limit, but need more than 10,000 steps where 16 responses are in order.
    """
    games_KK = wins_KK + wins_KK.T
    strength_K = np.zeros(len(wins_KK))
    for _ in range(100):
        chance_KK, average_K = _chances(strength_K), (1 + np.tanh(strength_K / 2)) / 2
        slope_K = wins_KK.sum(axis=1) - (games_KK * chance_KK).sum(axis=1) + prior * (1 - 2 * average_K)
        curvature_KK = games_KK * chance_KK * chance_KK.T
        diagonal_K = curvature_KK.sum(axis=1) + 2 * prior * average_K * (1 - average_K)
        step_K = np.linalg.solve(np.diag(diagonal_K) - curvature_KK, slope_K)
        length = float(np.max(step_K, initial=0.0) - np.min(step_K, initial=0.0))
        if length < 1e-8:
            break
        strength_K = strength_K + step_K * (math.log1p(length) / length)
    return strength_K


def _chances(strength_K: Array) -> Array:
    return (1 + np.tanh((strength_K[:, None] - strength_K) / 2)) / 2


def _judged(preferences_KK: Array) -> Mask:
    judged_KK = np.isfinite(preferences_KK)
    np.fill_diagonal(judged_KK, False)
    return judged_KK


def _mean(values_KK: Array, where_KK: Mask) -> Array:
    """Mean of each row over the chosen entries, NaN where there are none."""
    total_K = np.where(where_KK, values_KK, 0.0).sum(axis=1)
    count_K = where_KK.sum(axis=1)
    return np.where(count_K > 0, total_K / np.maximum(count_K, 1), np.nan)
