"""Rewards by comparison: what a rollout earns relative to the others of its group, added to its score."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from rl.protocols import GroupReward
from rl.types import RolloutGroup


def shape(groups: Sequence[RolloutGroup], rules: Mapping[str, GroupReward], *, iteration: int) -> list[RolloutGroup]:
    """The groups with every rule's values added to their scores and kept in ``Score.parts`` under the rule's name.

    Scores with a fault stay as they are; rules see all of the group and must pass over them themselves.
    """
    shaped = []
    for group in groups:
        scores = list(group.scores)
        for name, rule in rules.items():
            values = rule(group, iteration=iteration)
            scores = [
                s if s.fault is not None else replace(s, value=s.value + v, parts={**s.parts, name: v})
                for s, v in zip(scores, values, strict=True)
            ]
        shaped.append(replace(group, scores=tuple(scores)))
    return shaped
