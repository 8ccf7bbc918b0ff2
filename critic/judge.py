"""One judgement: a question to the engines that already run, answered like any task, and read strictly."""

from __future__ import annotations

import math
import zlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from critic.prompts import Fit, Prompts, read_answer, read_choice
from critic.rubrics import Rubric, RubricSet
from envs.single_turn import SingleTurn
from rl.errors import WeightMismatchError, WorkerFailedError
from rl.protocols import ChatCodec, Engine
from rl.rollout import Episode, RolloutLimits
from rl.types import Message, Rollout, Task, Verdict

FAULTS = ("engine", "unparsed", "overflow")
"""Why a judgement may have no value: its engine died, its answer cannot be read, its question does not fit."""


@dataclass(kw_only=True)
class Judge:
    """Asks the critic's weights, and counts what they cost and what went wrong.

    A judgement is a rollout: prompt through the chat template, ``max_tokens`` at most, kept as tokens. With ``graded``
    a verdict has the probability that the judge gave the word it said; without, it is 0 or 1.
    """

    engine: Engine
    chat: ChatCodec
    prompts: Prompts
    rubrics: RubricSet
    context: int
    max_tokens: int
    temperature: float
    graded: bool
    newest: int | None = None
    """The newest version that may judge now; None lets any."""
    faults: Counter[str] = field(default_factory=Counter)
    judgements: int = 0
    tokens: int = 0

    @property
    def fit(self) -> Fit:
        return Fit(chat=self.chat, tokens=self.context - self.max_tokens)

    async def compare(self, task: Task, first: str, second: str) -> Verdict:
        """How far ``first`` is preferred, shown as A, to ``second``, shown as B."""
        return await self._ask(
            task, self.prompts.compare(task, (first, second), self._rubrics(task), self.fit), read_choice
        )

    async def keeps(self, task: Task, reply: str, rubric: Rubric) -> Verdict:
        """Whether the reply keeps a mandatory rubric."""
        return await self._ask(task, self.prompts.ask_rule(task, reply, rubric, self.fit), read_answer)

    async def __call__(self, question: Task) -> Verdict:
        """See ``rl.protocols.Judge``."""
        return await self._ask(question, question.messages if self.fit.holds(question.messages) else None, read_answer)

    def _rubrics(self, task: Task) -> RubricSet:
        return self.rubrics.for_task(task)

    async def _ask(
        self, task: Task, messages: tuple[Message, ...] | None, read: Callable[[str], bool | None]
    ) -> Verdict:
        self.judgements += 1
        if messages is None:
            return self._without("overflow")
        question = Task(id=f"{task.id}/judge", kind="judge", messages=messages)
        try:
            rollout = await Episode(
                name="",
                task=question,
                make_env=SingleTurn,
                engine=self.engine,
                chat=self.chat,
                limits=RolloutLimits(max_tokens=self.max_tokens, context=self.context),
                temperature=self.temperature,
                seed=zlib.crc32(str(messages).encode()),
            ).run()
        except WorkerFailedError:
            return self._without("engine")
        self.tokens += rollout.completion_tokens
        version = rollout.segments[-1].policy_version
        assert version is not None
        if self.newest is not None and version > self.newest:
            raise WeightMismatchError(f"version {version} judged rollouts that only {self.newest} and older may judge")
        said = read(rollout.completion)
        if said is None:
            return self._without("unparsed", version)
        certainty = confidence(rollout, self.chat, read) if self.graded else 1.0
        return Verdict(value=certainty if said else 1 - certainty, version=version)

    def _without(self, fault: str, version: int = -1) -> Verdict:
        self.faults[fault] += 1
        return Verdict(value=None, version=version)

    def metrics(self) -> dict[str, float]:
        """Counts since the last call."""
        counted = {
            "critic/judgements": float(self.judgements),
            "critic/tokens": float(self.tokens),
            **{f"fault/critic/{name}": float(self.faults[name]) for name in FAULTS},
        }
        self.faults.clear()
        self.judgements = self.tokens = 0
        return counted


def confidence(rollout: Rollout, chat: ChatCodec, read: Callable[[str], bool | None]) -> float:
    """Probability of the token that settled what ``read`` makes of the rollout's completion.

    What the judge did not say got the rest, on the assumption that both together had nearly all of it.
    """
    said = rollout.segments[-1]
    verdict, count = read(rollout.completion), len(said.token_ids)
    while count > 1 and read(chat.decode(said.token_ids[: count - 1])) == verdict:
        count -= 1
    return math.exp(said.sampler_logprobs[count - 1])
