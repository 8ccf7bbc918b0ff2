"""Which pairs of responses to judge. Each pair costs two judgements: one with either response shown first.

Shape suffix: ``K`` is the responses of one task; preferences are those of ``critic.ranking``. A pair is ``(i, j)``
with ``i < j``.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Sequence, Set
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from critic.ranking import Array, win_rate

Pair = tuple[int, int]


class Schedule(Protocol):
    """Chooses pairs round by round, without a state of its own."""

    def most_judgements(self, count: int) -> int:
        """The most judgements that ``count`` responses can take."""
        ...

    def next_pairs(self, preferences_KK: Array, rng: random.Random, asked: Set[Pair]) -> list[Pair]:
        """The pairs to judge now, no pair twice; none when done.

        ``asked`` are the pairs that were handed out before, some of which may have stayed without a preference. A
        preference for any other pair was known beforehand, and the pair is left out.
        """
        ...


@dataclass(frozen=True)
class AllPairs:
    """Every pair, at once."""

    def most_judgements(self, count: int) -> int:
        return count * (count - 1)

    def next_pairs(self, preferences_KK: Array, rng: random.Random, asked: Set[Pair]) -> list[Pair]:
        return _free(preferences_KK, asked)


@dataclass(frozen=True, kw_only=True)
class Regular:
    """A random graph, at once: ``degree`` pairs per response, or one fewer for one if that comes out odd.

    From degree 2 on it is connected.
    """

    degree: int = 4

    def __post_init__(self) -> None:
        _require_positive("degree", self.degree)

    def most_judgements(self, count: int) -> int:
        return 2 * (count * min(self.degree, count - 1) // 2)

    def next_pairs(self, preferences_KK: Array, rng: random.Random, asked: Set[Pair]) -> list[Pair]:
        free = _free(preferences_KK, asked)
        players = _members(free)
        if asked or not players:
            return []
        rng.shuffle(players)
        if self.degree >= len(players) - 1:
            return free
        return sorted(set(free) & set(_circulant(players, self.degree, rng)))


@dataclass(frozen=True, kw_only=True)
class Swiss:
    """A tournament: each round pairs neighbours in the order by present win rate that have not met.

    Ties are broken at random. Of an odd number one sits out, who had no fewer pairs than any other: the last, if the
    others can be paired without it.
    """

    rounds: int = 3

    def __post_init__(self) -> None:
        _require_positive("rounds", self.rounds)

    def most_judgements(self, count: int) -> int:
        return 2 * min(self.rounds * (count // 2), count * (count - 1) // 2)

    def next_pairs(self, preferences_KK: Array, rng: random.Random, asked: Set[Pair]) -> list[Pair]:
        free = set(_free(preferences_KK, asked))
        players = _members(free | asked)
        left = self.rounds * (len(players) // 2) - len(asked)
        if not free or left <= 0:
            return []
        rates_K = np.nan_to_num(win_rate(preferences_KK), nan=0.5)
        rng.shuffle(players)
        players.sort(key=lambda i: -rates_K[i])
        orders = [players]
        if len(players) % 2:
            met = Counter(i for pair in asked for i in pair)
            most = max(met[i] for i in players)
            orders = [[j for j in players if j != i] for i in reversed(players) if met[i] == most]
        pairs, alone = min((_neighbours(order, free) for order in orders), key=lambda found: len(found[1]))
        return _exchange(pairs, alone, free)[:left]


def _require_positive(field: str, value: int) -> None:
    if not isinstance(value, int):
        raise ValueError(f"critic.pairs.{field} must be a whole number, got {value!r}")
    if value < 1:
        raise ValueError(f"critic.pairs.{field} must be at least 1, got {value}")


def _pair(i: int, j: int) -> Pair:
    return (min(i, j), max(i, j))


def _free(preferences_KK: Array, asked: Set[Pair]) -> list[Pair]:
    """The pairs without a preference that were not handed out yet."""
    unknown: list[list[int]] = np.argwhere(np.triu(np.isnan(preferences_KK), k=1)).tolist()
    return [(i, j) for i, j in unknown if (i, j) not in asked]


def _members(pairs: Iterable[Pair]) -> list[int]:
    return sorted({i for pair in pairs for i in pair})


def _circulant(ring: Sequence[int], degree: int, rng: random.Random) -> list[Pair]:
    """Each member with those a few fixed steps along the ring; ``degree`` is at most ``len(ring) - 2``.

    An odd degree adds every second pair of neighbours. The first step alone connects the ring: 1, or 2 with these.
    The others are random, because a ring of near neighbours only would compare distant members badly.
    """
    count, half, odd = len(ring), degree // 2, degree % 2
    steps = [1 + odd, *rng.sample(range(2 + odd, (count + 1) // 2), half - 1)] if half else []
    pairs = [_pair(ring[k], ring[(k + step) % count]) for step in steps for k in range(count)]
    return pairs + [_pair(ring[k], ring[k + 1]) for k in range(0, count - 1, 2) if odd]


def _neighbours(order: Sequence[int], free: Set[Pair]) -> tuple[list[Pair], list[int]]:
    """Each member from the top with the nearest below that is free for it, and who is left over."""
    pairs, alone, waiting = [], [], list(order)
    while waiting:
        first = waiting.pop(0)
        partner = next((i for i in waiting if _pair(first, i) in free), None)
        if partner is None:
            alone.append(first)
        else:
            waiting.remove(partner)
            pairs.append(_pair(first, partner))
    return pairs, alone


def _exchange(pairs: Sequence[Pair], alone: Sequence[int], free: Set[Pair]) -> list[Pair]:
    """Let every two that are left over exchange partners with the last pair that can.

    There is one if each is free for at least half of all members.
    """
    pairs = list(pairs)
    for i, j in zip(alone[::2], alone[1::2], strict=False):
        swaps = [(k, _pair(i, x), _pair(j, y)) for k, (a, b) in enumerate(pairs) for x, y in ((a, b), (b, a))]
        for k, one, other in reversed(swaps):
            if one in free and other in free:
                pairs[k : k + 1] = [one, other]
                break
    return pairs
