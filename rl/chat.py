"""Messages to tokens and back, through the tokenizer's own chat template."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

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

    @property
    def stop_token_ids(self) -> list[int]:
        return [self.tokenizer.eos_token_id]

    def _ids(self, messages: Sequence[Message], *, open_turn: bool) -> list[int]:
        text = self.tokenizer.apply_chat_template(list(messages), add_generation_prompt=open_turn, tokenize=False)
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def prompt_ids(self, messages: Sequence[Message]) -> list[int]:
        """Tokens of a conversation up to the point where the policy speaks."""
        return self._ids(messages, open_turn=True)

    def continuation_ids(self, messages: Sequence[Message]) -> list[int]:
        """Tokens that ``messages`` add after a policy turn that ended, up to where the policy speaks again.

        What the policy wrote is not tokenised again. Raises ``ValueError`` if the template rewrites earlier turns.
        """
        before = self._ids(_OPENING, open_turn=False)
        after = self._ids([*_OPENING, *messages], open_turn=True)
        if after[: len(before)] != before:
            raise ValueError(
                "the chat template must only append for multi-turn environments, but it rewrites earlier turns"
            )
        return after[len(before) :]

    def reply_ids(self, text: str) -> list[int]:
        """Tokens of a whole policy turn that says ``text``, with the token that ends it."""
        opening = list(_OPENING[:1])
        turn = self._ids([*opening, {"role": "assistant", "content": text}], open_turn=False)
        reply = turn[len(self.prompt_ids(opening)) :]
        return reply[: reply.index(self.tokenizer.eos_token_id) + 1]

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
