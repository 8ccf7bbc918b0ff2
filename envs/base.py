"""The environment contract: messages in, messages out, never tokens. One instance serves one rollout."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from rl.types import EndReason, Message, Task


@dataclass(frozen=True, kw_only=True)
class Step:
    """The environment's reply to a policy turn: messages to add, and why the rollout ends, if it does."""

    messages: Sequence[Message] = ()
    end: EndReason | None = None


class Env(Protocol):
    """May hold state for one rollout. Every coroutine may raise; the rollout then ends with ``env_error``."""

    async def reset(self, task: Task) -> Sequence[Message]:
        """The opening conversation."""
        ...

    async def step(self, message: Message) -> Step:
        """Answer a policy turn."""
        ...

    async def close(self) -> None: ...
