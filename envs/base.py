"""The environment contract: messages in, messages out, never tokens. One instance serves one rollout."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from rl.types import EndReason, Message, Task


@dataclass(frozen=True, kw_only=True)
class Opening:
    """How a rollout begins: the conversation so far, and the tools that the policy may call, as JSON schemas."""

    messages: Sequence[Message]
    tools: Sequence[Mapping[str, Any]] = ()


@dataclass(frozen=True, kw_only=True)
class Ask:
    """What an environment wants a model to say in a conversation of its own: the next turn after ``messages``.

    ``by`` names who says it: ``policy``, the model that is trained, or ``critic``, a separate or frozen critic.
    """

    messages: Sequence[Message]
    max_tokens: int
    temperature: float = 1.0
    by: str = "policy"


@dataclass(frozen=True, kw_only=True)
class Step:
    """The environment's reply to a policy turn: messages to add, and why the rollout ends, if it does.

    ``EndReason.truncated`` tells an end that came from outside (a limit) from one that the task itself brought. With
    ``ask`` the environment cannot reply yet; what the model says goes to ``Asking.hear``, which replies in its stead.
    """

    messages: Sequence[Message] = ()
    end: EndReason | None = None
    outcome: Mapping[str, Any] = field(default_factory=dict)
    """With ``end``: how it ended, for rewards (``Rollout.outcome``). Must be JSON."""
    ask: Ask | None = None


class Env(Protocol):
    """Holds the state of one rollout. Every coroutine may raise; the rollout then ends with ``env_error``.

    A paused rollout whose environment is gone is rebuilt by a new instance, which gets the same task and policy turns
    once more. So replies must depend on nothing else: draw at random from a generator seeded by the task's id.
    """

    async def reset(self, task: Task) -> Opening:
        """Begin. Called once."""
        ...

    async def step(self, message: Message) -> Step:
        """Answer a policy turn, with its ``tool_calls`` if it made any."""
        ...

    async def close(self) -> None:
        """Give back what was taken. Called once, after whatever end, a failed ``reset`` too."""
        ...


class Asking(Env, Protocol):
    """An environment that has a model speak for it, a simulated user for example."""

    async def hear(self, text: str) -> Step:
        """Take what the model said to the last ``Ask``, and reply to the policy, or ask again."""
        ...
