"""Publishing: the trainer's weights go to every engine, and every engine proves that it holds them.

Three proofs, from cheap to complete: each engine recomputes the content digest of what reached it; it names every
parameter that received nothing; and it answers probe prompts, whose sampled tokens' logprobs the trainer recomputes.
The last also catches an engine that took the weights and goes on computing with old ones.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from rl.errors import WeightMismatchError
from rl.protocols import WeightSink, WeightSource
from rl.types import SampleRequest, WeightVersion

_BLOCK = re.compile(r"(.*\.)?layers\.\d+\.[^.]+|[^0-9]*")


@dataclass(frozen=True, kw_only=True)
class Publisher:
    """Moves weights from one trainer to its engines. ``probe_prompts`` are token ids."""

    source: WeightSource
    sink: WeightSink
    probe_prompts: Sequence[Sequence[int]]
    probe_tokens: int
    max_mean_difference: float
    max_difference: float

    def publish(self) -> tuple[WeightVersion, dict[str, float]]:
        """Send, load and prove the trainer's present weights; return their version and metrics.

        Raises ``WeightMismatchError``, naming engine and tensors, if any engine does not hold them.
        """
        started = time.monotonic()
        version, handles = self.source.export()
        exported = time.monotonic()
        answers = self.sink.load_weights(version, handles)
        for engine, (digest, empty) in enumerate(answers):
            if digest != version.digest:
                raise WeightMismatchError(
                    f"engine {engine} holds {digest}, but version {version.number} is {version.digest}"
                )
            if empty:
                raise WeightMismatchError(
                    f"engine {engine} received nothing for {len(empty)} parameters of version {version.number}: "
                    f"{_some(empty)}"
                )
        loaded = time.monotonic()
        metrics = self._probe(version)
        metrics |= {
            "weights/version": float(version.number),
            "weights/engines": float(len(answers)),
            "weights/bytes": float(sum(bucket.nbytes for bucket in version.buckets)),
            "time/publish/export_s": exported - started,
            "time/publish/load_s": loaded - exported,
            "time/publish/probe_s": time.monotonic() - loaded,
        }
        return version, metrics

    def _probe(self, version: WeightVersion) -> dict[str, float]:
        requests = [
            SampleRequest(prompt_ids=prompt, max_tokens=self.probe_tokens, temperature=0.0, seed=0)
            for prompt in self.probe_prompts
        ]
        worst_mean = worst = 0.0
        for engine, samples in enumerate(self.sink.probe(requests)):
            wanted = self.source.logprobs(
                [(request.prompt_ids, sample.token_ids) for request, sample in zip(requests, samples, strict=True)]
            )
            by_prompt = [
                [abs(a - b) for a, b in zip(sample.logprobs, own, strict=True)]
                for sample, own in zip(samples, wanted, strict=True)
            ]
            gaps = [gap for prompt in by_prompt for gap in prompt]
            mean, largest = sum(gaps) / len(gaps), max(gaps)
            # Written so that a NaN counts as disagreement.
            if not (mean <= self.max_mean_difference and largest <= self.max_difference):
                worst_prompt = max(range(len(by_prompt)), key=lambda i: _size(by_prompt[i]))
                tokens = [*requests[worst_prompt].prompt_ids, *samples[worst_prompt].token_ids]
                raise WeightMismatchError(
                    f"engine {engine} disagrees with the trainer after version {version.number}: |difference| of the "
                    f"probe's logprobs is {mean:.4f} in the mean (limit weights.max_mean_difference="
                    f"{self.max_mean_difference}) and {largest:.4f} at most (limit weights.max_difference="
                    f"{self.max_difference}); {self._blame(engine, version, tokens)}"
                )
            worst_mean, worst = max(worst_mean, mean), max(worst, largest)
        return {"weights/probe_mean_abs_diff": worst_mean, "weights/probe_max_abs_diff": worst}

    def _blame(self, engine: int, version: WeightVersion, tokens: Sequence[int]) -> str:
        """Which tensors an engine that disagrees on ``tokens`` does not seem to use."""
        module = first_difference(self.source.trace(tokens), self.sink.trace(engine, tokens))
        if module is None:
            return "every block agrees on a plain prompt, so the cache or the sampler is to blame"
        names = [t.name for bucket in version.buckets for t in bucket.tensors if t.name.startswith(module + ".")]
        return f"its first block to differ is {module}, tensors: {_some(names)}"


def _size(gaps: Sequence[float]) -> float:
    """The largest of them; a NaN counts as infinite."""
    return max((gap if gap == gap else math.inf for gap in gaps), default=0.0)


def first_difference(ours: Mapping[str, Any], theirs: Mapping[str, Any], *, tolerance: float = 0.1) -> str | None:
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
