"""Several questions in one conversation: the simplest environment of many turns."""

from __future__ import annotations

import asyncio

from envs.base import Opening, Step
from rl.types import EndReason, Message, Task


class Series:
    """Asks the task's own question, then those in ``task.fields["questions"]``, one after each reply.

    ``latency_s`` is how long it takes over each answer, as a slow tool would.
    """

    def __init__(self, *, latency_s: float = 0.0) -> None:
        if latency_s < 0:
            raise ValueError(f"latency_s must not be negative, got {latency_s}")
        self._latency_s = latency_s

    async def reset(self, task: Task) -> Opening:
        self._left = list(task.fields["questions"])
        return Opening(messages=task.messages)

    async def step(self, message: Message) -> Step:
        await asyncio.sleep(self._latency_s)
        if not self._left:
            return Step(end=EndReason.ENV_END)
        return Step(messages=[{"role": "user", "content": self._left.pop(0)}])

    async def close(self) -> None:
        pass
