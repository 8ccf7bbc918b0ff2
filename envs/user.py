"""A simulated user: the policy talks with a persona that a model plays, and may use tools meanwhile."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from envs.base import Ask, Env, Opening, Step
from rl.plugins import build
from rl.types import EndReason, Message, Task

PART = """\
Play a user who talks with an assistant, and stay this person in all you say.

Who you are: {persona}
What you want: {aim}

Write what this person says next, and nothing else. Say what the assistant needs to know when it asks. Once you have \
what you want, or it is clear that you will not get it, write {done}

You begin."""
WITHOUT_TOOLS = {"_target_": "envs.tools.ToolEnv", "tools": ()}


class UserEnv:
    """A conversation with a user who is ``task.fields["persona"]`` and wants ``task.fields["aim"]``.

    A policy turn without tool calls is heard by the user, whose next words a model says. All it is told is persona, aim
    and what the two said to each other: neither tool calls and their results nor any other field of the task. The
    task's messages must end with the user's first one. The rollout ends with ``env_end`` and the outcome of ``inner``.

    Args:
        inner: ``_target_`` and settings of the environment that answers tool calls, one in which a turn without calls
            ends the rollout; its turns are limited as ever, but those that the user hears count as none.
        turns: most times that the user answers; the rollout then ends with ``turn_limit``.
        done: what the user writes to end the conversation.
        max_tokens: most tokens of one answer of the user.
        by: the model that plays the user, see ``Ask``.

    """

    def __init__(
        self,
        *,
        inner: Mapping[str, Any] = WITHOUT_TOOLS,
        turns: int = 8,
        done: str = "[done]",
        max_tokens: int = 128,
        by: str = "policy",
    ) -> None:
        if turns < 1 or max_tokens < 1 or not done:
            raise ValueError(
                f"turns and max_tokens must be at least 1 and done some text, got {turns}, {max_tokens}, {done!r}"
            )
        self._inner: Env = build(inner, name="inner")
        self._turns_left = turns
        self._done = done
        self._max_tokens = max_tokens
        self._by = by
        self._said: list[Message] = []

    async def reset(self, task: Task) -> Opening:
        if not {"persona", "aim"} <= task.fields.keys() or task.messages[-1]["role"] != "user":
            raise ValueError(
                f"task {task.id}: must have the fields persona and aim, and end with a message of the user, got fields "
                f"{', '.join(sorted(task.fields)) or 'none'} and a last message of {task.messages[-1]['role']}"
            )
        part = PART.format(persona=task.fields["persona"], aim=task.fields["aim"], done=self._done)
        self._said = [{"role": "user", "content": part}, *(m for m in map(_swapped, task.messages) if m is not None)]
        return await self._inner.reset(task)

    async def step(self, message: Message) -> Step:
        if message.get("tool_calls"):
            return await self._inner.step(message)
        self._last = message
        self._said.append({"role": "user", "content": message["content"]})
        return Step(ask=Ask(messages=tuple(self._said), max_tokens=self._max_tokens, by=self._by))

    async def hear(self, text: str) -> Step:
        self._turns_left -= 1
        if self._done in text or not self._turns_left:
            last = await self._inner.step(self._last)
            return Step(end=EndReason.ENV_END if self._done in text else EndReason.TURN_LIMIT, outcome=last.outcome)
        self._said.append({"role": "assistant", "content": text.strip()})
        return Step(messages=[{"role": "user", "content": text.strip()}])

    async def close(self) -> None:
        await self._inner.close()


def _swapped(message: Message) -> Message | None:
    """A message as the user's side of the conversation holds it; None for what the user does not hear."""
    role = {"user": "assistant", "assistant": "user"}.get(message["role"])
    return None if role is None else {"role": role, "content": message["content"]}
