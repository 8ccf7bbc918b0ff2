"""Messages to tokens and back, through the tokenizer's own chat template."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

from rl.tool_calls import Declarations, format_of, read_turn, structure
from rl.types import Message

_OPENING: tuple[Message, ...] = ({"role": "user", "content": "a"}, {"role": "assistant", "content": "b"})


class Chat:
    """The chat format of one model folder.

    Raises ``ValueError`` if the folder has no tokenizer, no chat template or no end token.
    """

    def __init__(self, model_path: str) -> None:
        if Path(model_path).is_dir() and not any(Path(model_path).glob("tokenizer*")):
            raise ValueError(
                f"model.path must hold a tokenizer, got {model_path} without tokenizer.json; copy the tokenizer "
                "files of the base model into it"
            )
        try:
            self.tokenizer: Any = AutoTokenizer.from_pretrained(model_path)
        except (OSError, KeyError) as error:
            raise ValueError(f"model.path must be a model folder or name, got {model_path}: {error}") from error
        if not self.tokenizer.chat_template:
            raise ValueError(f"model.path must hold a tokenizer with a chat template, got {model_path} without one")
        if self.tokenizer.eos_token_id is None:
            raise ValueError(f"model.path must hold a tokenizer with an end token, got {model_path} without one")

        self._special = sorted(map(str, self.tokenizer.get_added_vocab()), key=len, reverse=True)
        self._tool_format = format_of(str(self.tokenizer.chat_template))
        self._all_special = list(self.tokenizer.all_special_tokens)
        # With thousands of rollouts in one process, transformers' wrapping of each call would cost more than the call.
        self._fast = getattr(self.tokenizer, "backend_tokenizer", None)
        self._before = self._ids(_OPENING, open_turn=False)

    @property
    def stop_token_ids(self) -> list[int]:
        return [self.tokenizer.eos_token_id]

    @property
    def calls_tools(self) -> bool:
        """Whether the chat template writes tool calls in a format that can be read back."""
        return self._tool_format is not None

    def call_structure(self, tools: Declarations) -> str | None:
        """For constrained decoding: turns whose calls of these tools are valid. None if there is nothing to call."""
        return structure(self._tool_format, tools) if self._tool_format is not None and tools else None

    def _ids(self, messages: Sequence[Message], *, open_turn: bool, tools: Declarations = ()) -> list[int]:
        text = self.tokenizer.apply_chat_template(
            list(messages), tools=list(tools) or None, add_generation_prompt=open_turn, tokenize=False
        )
        if self._fast is not None:
            return list(self._fast.encode(text, add_special_tokens=False).ids)
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def _text(self, token_ids: Sequence[int]) -> str:
        decoder = self.tokenizer if self._fast is None else self._fast
        return str(decoder.decode(list(token_ids), skip_special_tokens=False))

    def prompt_ids(self, messages: Sequence[Message], tools: Declarations = ()) -> list[int]:
        """Tokens of a conversation up to the point where the policy speaks."""
        return self._ids(messages, open_turn=True, tools=tools)

    def continuation_ids(self, messages: Sequence[Message]) -> list[int]:
        """Tokens that ``messages`` add after the token that ended a policy turn, up to where the policy speaks again.

        What the policy wrote is not tokenised again, and special tokens in these messages lose their meaning. Raises
        ``ValueError`` if the template rewrites earlier turns.
        """
        end, before = self.tokenizer.eos_token_id, self._before
        harmless = [{**m, "content": self.plain(str(m["content"]))} for m in messages]
        after = self._ids([*_OPENING, *harmless], open_turn=True)
        if end not in before or after[: len(before)] != before:
            raise ValueError(
                "the chat template must end turns with the end token and only append for multi-turn environments, but "
                "it rewrites earlier turns"
            )
        return after[len(before) - before[::-1].index(end) :]

    def reply_ids(self, text: str) -> list[int]:
        """Tokens of a whole policy turn that says ``text``, with the token that ends it."""
        opening = list(_OPENING[:1])
        turn = self._ids([*opening, {"role": "assistant", "content": text}], open_turn=False)
        reply = turn[len(self.prompt_ids(opening)) :]
        return reply[: reply.index(self.tokenizer.eos_token_id) + 1]

    def end_ids(self) -> list[int]:
        """What ends a turn that the policy did not end."""
        return [self.tokenizer.eos_token_id]

    def plain(self, text: str) -> str:
        """The text with a space inside whatever the tokenizer would read as a special token.

        For what the policy wrote and another prompt quotes: characters that spell the end of a turn must not end it.
        """
        for token in self._special:
            text = text.replace(token, f"{token[0]} {token[1:]}")
        return text

    def decode(self, token_ids: Sequence[int]) -> str:
        """Text of a policy turn, without special tokens."""
        return str(self.tokenizer.decode(list(token_ids), skip_special_tokens=True))

    def read(self, token_ids: Sequence[int], *, call_number: int = 0) -> Message:
        """A policy turn as a message, with its ``tool_calls`` if there are any; the first one gets ``call_number``."""
        turn = read_turn(self._text(token_ids), self._tool_format, number=call_number)
        content = turn["content"]
        for token in self._all_special:
            content = content.replace(token, "")
        return {**turn, "content": content}
