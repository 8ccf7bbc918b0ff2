"""Logic and reasoning: reasoning-gym's own verifiers, and the checks of ``rl.puzzles``."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from typing import Any

from rewards.base import reward
from rl.puzzles import check
from rl.types import Rollout, Task


@reward(range=(0, 1), fields=("dataset", "entry"))
def reasoning_gym_answer(
    task: Task, rollout: Rollout, *, marker: str = "answer:", partial_credit: bool = False
) -> float:
    """What the generator's own verifier says of the answer; without ``partial_credit`` less than 1 is 0."""
    verify = _verifier(str(task.fields["dataset"]))
    try:
        value = min(1.0, max(0.0, float(verify(answer_text(rollout.completion, marker), task.fields["entry"]))))
    except Exception:  # noqa: BLE001 - some of the verifiers raise at answers that they cannot read: the policy's fault
        return 0.0
    return value if partial_credit else float(value == 1.0)


@reward(range=(0, 1), fields=("family", "accepts"))
def puzzle_answer(task: Task, rollout: Rollout, *, marker: str = "answer:") -> float:
    """Whether the answer solves the puzzle."""
    return float(check(str(task.fields["family"]), task.fields["accepts"], answer_text(rollout.completion, marker)))


def answer_text(reply: str, marker: str) -> str:
    """What stands in the last ``<answer>`` element, else behind the last ``marker``, else all; may be several lines."""
    tagged = re.findall(r"<answer>(.*?)</answer>", reply, flags=re.DOTALL)
    if tagged:
        return str(tagged[-1]).strip()
    place = reply.casefold().rfind(marker.casefold())
    return (reply if place < 0 else reply[place + len(marker) :]).strip()


@functools.lru_cache(maxsize=128)
def _verifier(dataset: str) -> Callable[[str, dict[str, Any]], float]:
    import reasoning_gym

    found: Callable[[str, dict[str, Any]], float] = reasoning_gym.get_score_answer_fn(dataset)
    return found
