"""A chat format and an engine without a model."""

from rl.types import Sample


class Letters:
    """A chat format of one token per character; a turn ends with token 0."""

    def prompt_ids(self, messages, tools=()):
        return [ord(c) for m in messages for c in m["content"]] + [1]

    continuation_ids = prompt_ids

    def reply_ids(self, text):
        return [*map(ord, text), 0]

    def call_structure(self, tools):
        return None

    def end_ids(self):
        return [0]

    def plain(self, text):
        return text.replace("<end>", "< end>")

    def decode(self, token_ids):
        return "".join(chr(t) for t in token_ids if t)

    def read(self, token_ids, *, call_number=0):
        return {"role": "assistant", "content": self.decode(token_ids)}


class Uninterrupted:
    """What an engine says that answers at once."""

    async def interrupt(self, sessions):
        pass


class Answers(Uninterrupted):
    """An engine that answers each prompt, as text, by a function. ``logprob`` is every token's."""

    def __init__(self, answer, *, version=3, logprob=-0.5):
        self.answer = answer
        self.version = version
        self.logprob = logprob
        self.prompts = []

    async def sample(self, request):
        prompt = Letters().decode(t for t in request.prompt_ids if t != 1)
        self.prompts.append(prompt)
        ids = [*map(ord, self.answer(prompt)), 0][: request.max_tokens]
        return Sample(
            token_ids=ids,
            logprobs=[self.logprob] * len(ids),
            stopped=ids[-1] == 0,
            policy_version=self.version,
            generate_s=0.1,
        )
