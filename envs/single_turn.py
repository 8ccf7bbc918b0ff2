"""Question and answer: the rollout ends with the policy's first turn."""

from __future__ import annotations

from envs.base import Opening, Step
from rl.types import EndReason, Message, Task


class SingleTurn:
    """Shows the task's messages and takes one reply."""

    async def reset(self, task: Task) -> Opening:
        return Opening(messages=task.messages)

    async def step(self, message: Message) -> Step:
        return Step(end=EndReason.STOP)

    async def close(self) -> None:
        pass
