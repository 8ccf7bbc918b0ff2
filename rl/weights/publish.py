"""Publishing: the trainer's weights go to every engine, and every engine proves that it holds them.

Three proofs, from cheap to complete: each engine recomputes the content digest of what reached it; it names every
parameter that received nothing; and it answers probe prompts, whose sampled tokens' logprobs the trainer recomputes.
The last also catches an engine that took the weights and goes on computing with old ones.

What fails is tried once more. An engine that fails again while others hold the version is given up, and a new one
takes its place; if none holds it the run stops.
"""

from __future__ import annotations

import itertools
import math
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from rl.errors import TransferError, WeightMismatchError, WorkerFailedError
from rl.protocols import WeightSink, WeightSource
from rl.types import Loaded, Sample, SampleRequest, WeightVersion

_BLOCK = re.compile(r"(.*\.)?layers\.\d+\.[^.]+|[^0-9]*")
ATTEMPTS = 2
TOGETHER = 32
"""Probe answers that the trainer computes in one pass: their logits are held at once, in fp32."""


@dataclass(kw_only=True)
class Publisher:
    """Moves weights from one trainer to its engines. ``probe_prompts`` are token ids."""

    source: WeightSource
    sink: WeightSink
    probe_prompts: Sequence[Sequence[int]]
    probe_tokens: int
    max_mean_difference: float
    max_difference: float
    published: WeightVersion | None = None
    """The version that was proven last."""

    @property
    def digest(self) -> str:
        """Of the version that was proven last; empty before the first."""
        return "" if self.published is None else self.published.digest

    def publish(self) -> tuple[WeightVersion, dict[str, float]]:
        """Send, load and prove the trainer's present weights; return their version and metrics.

        Raises ``WeightMismatchError``, naming engine and tensors, if no engine can be made to hold them, and
        ``TransferError`` if they do not get across.
        """
        with self.source.exclusive:
            for attempt in range(ATTEMPTS):
                last = attempt + 1 == ATTEMPTS
                started = time.monotonic()
                try:
                    version, answers = self.sink.transfer()
                except TransferError:
                    if last:
                        raise
                    continue
                loaded = time.monotonic()
                wrong, proof = self._prove(version, answers)
                if wrong and last and len(wrong) < len(answers):
                    for engine, error in wrong.items():
                        self.sink.drop(engine, error)
                    wrong, answers = {}, {name: a for name, a in answers.items() if name not in wrong}
                if not wrong:
                    break
            for error in wrong.values():
                raise error
            self.published = version
            self.sink.accept(list(answers))
            self.source.rest()
        return version, proof | {
            "weights/version": float(version.number),
            "weights/engines": float(len(answers)),
            "weights/bytes": float(version.nbytes),
            "fault/publish": float(attempt),
            "time/publish/transfer_s": loaded - started,
            "time/publish/probe_s": time.monotonic() - loaded,
        }

    def admit(self, engine: str) -> None:
        """Bring one engine the published weights and prove them, beside whatever the others do.

        Does nothing while the trainer has others, newer ones: the engine then gets those, when they are published. An
        engine that does not come to hold them is given up.
        """
        with self.source.exclusive:
            if self.published is None or self.source.version != self.published.number:
                return
            try:
                version, answers = self.sink.transfer(only=engine)
                wrong, _ = self._prove(version, answers)
                for error in wrong.values():
                    raise error
            except (TransferError, WeightMismatchError, WorkerFailedError) as error:
                self.sink.drop(engine, error)
                return
            self.sink.accept([engine])

    def _prove(
        self, version: WeightVersion, answers: Mapping[str, Loaded]
    ) -> tuple[dict[str, WeightMismatchError], dict[str, float]]:
        """Who does not hold the version, and why; and how far the others are from the trainer."""
        wrong = {}
        for engine, answer in answers.items():
            error = _content_error(engine, version, answer)
            if error is not None:
                wrong[engine] = error
        behaving, proof = self._probe(version, [engine for engine in answers if engine not in wrong])
        return wrong | behaving, proof

    def _probe(
        self, version: WeightVersion, engines: Sequence[str]
    ) -> tuple[dict[str, WeightMismatchError], dict[str, float]]:
        requests = [
            SampleRequest(prompt_ids=prompt, max_tokens=self.probe_tokens, temperature=0.0, seed=0)
            for prompt in self.probe_prompts
        ]
        answers = self.sink.probe(engines, requests)
        worst_mean = worst = 0.0
        wrong = {}
        for engine, gaps in self._gaps(requests, answers).items():
            flat = [gap for prompt in gaps for gap in prompt]
            mean, largest = sum(flat) / len(flat), max(flat)
            # Written so that a NaN counts as disagreement.
            if not (mean <= self.max_mean_difference and largest <= self.max_difference):
                worst_prompt = max(range(len(gaps)), key=lambda i: _size(gaps[i]))
                tokens = [*requests[worst_prompt].prompt_ids, *answers[engine][worst_prompt].token_ids]
                wrong[engine] = WeightMismatchError(
                    f"{engine} disagrees with the trainer after version {version.number}: |difference| of the "
                    f"probe's logprobs is {mean:.4f} in the mean (limit weights.max_mean_difference="
                    f"{self.max_mean_difference}) and {largest:.4f} at most (limit weights.max_difference="
                    f"{self.max_difference}); {self._blame(engine, tokens)}"
                )
                continue
            worst_mean, worst = max(worst_mean, mean), max(worst, largest)
        return wrong, {"weights/probe_mean_abs_diff": worst_mean, "weights/probe_max_abs_diff": worst}

    def _gaps(
        self, requests: Sequence[SampleRequest], answers: Mapping[str, Sequence[Sample]]
    ) -> dict[str, list[list[float]]]:
        """|difference| from the trainer's logprobs, by engine, for each token of each answer.

        Engines mostly give the same answers, which the trainer computes once.
        """
        prompts = [tuple(request.prompt_ids) for request in requests]
        by_engine = {
            engine: [(prompt, tuple(sample.token_ids)) for prompt, sample in zip(prompts, samples, strict=True)]
            for engine, samples in answers.items()
        }
        distinct = list(dict.fromkeys(itertools.chain.from_iterable(by_engine.values())))
        own: dict[Any, list[float]] = {}
        for first in range(0, len(distinct), TOGETHER):
            some = distinct[first : first + TOGETHER]
            own |= zip(some, self.source.logprobs(some), strict=True)
        return {
            engine: [
                [abs(a - b) for a, b in zip(sample.logprobs, own[pair], strict=True)]
                for sample, pair in zip(samples, by_engine[engine], strict=True)
            ]
            for engine, samples in answers.items()
        }

    def _blame(self, engine: str, tokens: Sequence[int]) -> str:
        """Which tensors an engine that disagrees on ``tokens`` does not seem to use."""
        ours, theirs = self.source.trace(tokens), self.sink.trace(engine, tokens)
        # Where arithmetic is exact enough for a narrow limit, blocks can be compared as narrowly.
        module = first_difference(ours, theirs, tolerance=min(0.1, 10 * self.max_mean_difference))
        if module is None:
            return "every block agrees on a plain prompt, so the cache or the sampler is to blame"
        return f"its first block to differ is {module}, tensors: {_some(self.sink.tensor_names(module))}"


def _content_error(engine: str, version: WeightVersion, answer: Loaded) -> WeightMismatchError | None:
    if answer.digests != version.digests:
        pairs = enumerate(zip(version.digests, answer.digests, strict=False))
        differing = [str(number) for number, (sent, received) in pairs if sent != received]
        return WeightMismatchError(
            f"{engine} holds other bytes than version {version.number} has, in buckets {_some(differing)}"
        )
    if answer.empty:
        return WeightMismatchError(
            f"{engine} received nothing for {len(answer.empty)} parameters of version {version.number}: "
            f"{_some(answer.empty)}"
        )
    return None


def _size(gaps: Sequence[float]) -> float:
    """The largest of them; a NaN counts as infinite."""
    return max((gap if gap == gap else math.inf for gap in gaps), default=0.0)


def first_difference(ours: Mapping[str, Any], theirs: Mapping[str, Any], *, tolerance: float) -> str | None:
    """The first block, in the order they ran, whose output differs for some token by more than ``tolerance`` of it.

    Both map module names to output tensors of one forward pass. Compared are the layers' direct children (attention,
    feed-forward, norms) and what lies outside of layers: deeper inside, engines fuse modules that trainers keep apart.
    """
    shared = [n for n in theirs if n in ours and ours[n].numel() == theirs[n].numel()]
    for name in filter(_BLOCK.fullmatch, shared):
        a, b = (side[name].float().reshape(-1, theirs[name].shape[-1]) for side in (ours, theirs))
        # Token by token: an expert that is wrong shows only in the tokens that it was given.
        if not (torch.linalg.vector_norm(a - b, dim=1) <= tolerance * torch.linalg.vector_norm(a, dim=1)).all():
            return name
    return None


def _some(names: Sequence[str], most: int = 8) -> str:
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + rest if names else "none of its own"
