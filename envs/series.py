"""Several questions in one conversation: the simplest environment of many turns."""

from __future__ import annotations

from envs.base import Opening, Step
from rl.types import EndReason, Message, Task


class Series:
    """Asks the task's own question, then those in ``task.fields["questions"]``, one after each reply."""

    async def reset(self, task: Task) -> Opening:
        self._left = list(task.fields["questions"])
        return Opening(messages=task.messages)

    async def step(self, message: Message) -> Step:
        if not self._left:
            return Step(end=EndReason.ENV_END)
        return Step(messages=[{"role": "user", "content": self._left.pop(0)}])

    async def close(self) -> None:
        pass
