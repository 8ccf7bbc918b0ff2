"""How true the quickstart's open-ended replies are. For measuring alone: training sees no reward for them."""

from __future__ import annotations

from rewards.base import reward
from rl.facts import claims
from rl.types import Rollout, Task


@reward(range=(0, 1), fields=("number",))
def true_facts(task: Task, rollout: Rollout) -> float:
    """1 for nothing but true statements about the number, 0.5 if there is other text around them, else 0."""
    found, rest = claims(rollout.completion)
    if not found or not all(claim.holds and claim.number == task.fields["number"] for claim in found):
        return 0.0
    return 0.5 if rest else 1.0
