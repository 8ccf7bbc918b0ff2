import random

import pytest

from rl.chat import Chat
from rl.compose import REPOSITORY
from scripts import starter_mix
from scripts.make_starter import encode, make_tokenizer

STARTER = str(REPOSITORY / "models/starter")


def test_round_trip():
    chat = Chat(STARTER)
    ids = chat.prompt_ids([{"role": "user", "content": "What is 1+1?"}])
    assert chat.tokenizer.decode(ids) == "<|user|>What is 1+1?<|end|><|assistant|>"
    assert chat.decode([*chat.tokenizer.encode("answer: 2"), *chat.stop_token_ids]) == "answer: 2"


def test_continuation_extends_the_prompt_without_touching_it():
    chat = Chat(STARTER)
    opening = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yes?"}]
    more = [{"role": "tool", "content": "42"}]
    whole = chat.prompt_ids([*opening, *more])
    assert whole == chat.prompt_ids(opening[:1]) + chat.tokenizer.encode("yes?<|end|>") + chat.continuation_ids(more)


def test_folder_without_tokenizer(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ValueError, match="must hold a tokenizer"):
        Chat(str(tmp_path))


def test_starter_mix_is_encoded_as_the_chat_template_does():
    tokenizer = make_tokenizer()
    rng = random.Random(0)
    for _ in range(300):
        dialogue = starter_mix.dialogue(rng)
        ids, weights = encode(tokenizer.get_vocab(), dialogue)
        tools = [m for m in dialogue if m["role"] == "tools"]
        rendered = tokenizer.apply_chat_template(
            [m for m in dialogue if m["role"] != "tools"],
            tools=tools[0]["tools"] if tools else None,
            return_dict=True,
            return_assistant_tokens_mask=True,
        )
        assert rendered["input_ids"] == ids
        assert rendered["assistant_masks"] == [int(weight > 0) for weight in weights]
        assert tokenizer.unk_token_id not in ids
