"""The driver's view of all trainer ranks: one trainer."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from torch import Tensor

from rl.batch import TrainBatch, make_batch, weigh
from rl.errors import WeightMismatchError
from rl.types import BucketSpec, RolloutGroup
from rl.workers.calls import wait_all


class TrainerGroup:
    """Implements ``rl.protocols.Trainer`` and ``WeightSource`` over the ranks' actors.

    ``rate`` maps the number of an optimizer step, from 0, to its learning rate. With ``make_room``, the ranks take
    turns with somebody else on their GPUs: it is called before they learn, and ``rest`` lets go of what only learning
    needs.
    """

    def __init__(
        self,
        actors: Sequence[Any],
        *,
        advantage: Callable[[Tensor], Tensor],
        rate: Callable[[int], float],
        updates_per_iteration: int,
        micro_batch_tokens: int,
        deadline_s: float,
        max_staleness: int = 0,
        make_room: Callable[[], None] | None = None,
        name: str = "trainer rank",
    ) -> None:
        self._actors = actors
        self._name = name
        self._advantage = advantage
        self._rate = rate
        self._updates = updates_per_iteration
        self._max_staleness = max_staleness
        self.make_room = make_room
        self._micro_batch_tokens = micro_batch_tokens
        self._deadline_s = deadline_s
        self.version = 0

        self.exclusive: AbstractContextManager[Any] = threading.RLock()
        """Held by whoever needs the ranks' weights to stay what they are over several calls."""

    @property
    def ranks(self) -> int:
        return len(self._actors)

    def start(self, method: str, *arguments: Any) -> dict[str, Any]:
        """Call a method of every rank; returns the calls by the ranks' names."""
        return {f"{self._name} {i}": getattr(a, method).remote(*arguments) for i, a in enumerate(self._actors)}

    def stream(self, method: str, *arguments: Any) -> dict[Any, str]:
        """Call a generator of every rank; returns the ranks' names by its stream."""
        return {
            getattr(a, method).options(num_returns="streaming").remote(*arguments): f"{self._name} {i}"
            for i, a in enumerate(self._actors)
        }

    def _all(self, method: str, *arguments: Any) -> list[Any]:
        with self.exclusive:
            return wait_all(self.start(method, *arguments), deadline_s=self._deadline_s)

    @property
    def oldest(self) -> int:
        """See ``rl.protocols.Trainer``."""
        return max(0, self.version - self._max_staleness * self._updates)

    def update(self, groups: Sequence[RolloutGroup]) -> dict[str, float]:
        """One iteration's optimizer steps. Raises ``WeightMismatchError`` for tokens that may not be learnt."""
        self._check_versions(groups)
        # Every update gets its share of each kind of group, in whatever order they come.
        batches = [self._batch(groups[i :: self._updates]) for i in range(self._updates)]
        batches = [batch for batch in batches if batch.sequences]
        if not batches:
            return {"optim/skipped_updates": float(self._updates)}
        rates = [self._rate(self.version + i) for i in range(len(batches))]
        with self.exclusive:
            if self.make_room is not None:
                self.make_room()
            calls = {
                f"{self._name} {i}": actor.update.remote([batch.micro_batches[i] for batch in batches], rates)
                for i, actor in enumerate(self._actors)
            }
            ranks = wait_all(calls, deadline_s=self._deadline_s)
            self.version += len(batches)
        tokens = sum(batch.tokens for batch in batches)
        return _combine(ranks, updates=len(batches)) | {
            "optim/learning_rate": rates[-1],
            "optim/skipped_updates": float(self._updates - len(batches)),
            "perf/train_tokens": float(tokens),
            "perf/shared_prompts": 1 - sum(batch.computed_tokens for batch in batches) / tokens,
            "perf/micro_batches": float(sum(len(b.micro_batches[0]) for b in batches)),
        }

    def _batch(self, groups: Sequence[RolloutGroup]) -> TrainBatch:
        sequences = weigh(groups, self._advantage)
        return make_batch(sequences, ranks=len(self._actors), max_tokens=self._micro_batch_tokens)

    def _check_versions(self, groups: Sequence[RolloutGroup]) -> None:
        versions = {s.policy_version for g in groups for r in g.rollouts for s in r.segments if s.from_model}
        if not versions <= {*range(self.oldest, self.version + 1)}:
            raise WeightMismatchError(
                f"what is learnt must be sampled by the trainer's version, {self.version}, or one from {self.oldest} "
                f"on, got {sorted(versions, key=str)}"
            )

    def rest(self) -> None:
        """See ``rl.protocols.WeightSource``."""
        if self.make_room is not None:
            self._all("rest")

    def memory(self) -> list[dict[str, float]]:
        """GPU memory of each rank; see ``TrainerWorker.memory``."""
        return self._all("memory")

    def layout(self, bucket_bytes: int) -> tuple[tuple[BucketSpec, ...], str, int]:
        """How weights lie in buckets, and the host and port of the store where engines meet the trainer."""
        first: tuple[tuple[BucketSpec, ...], str, int] = self._all("layout", bucket_bytes)[0]
        return first

    def logprobs(self, sequences: Sequence[tuple[Sequence[int], Sequence[int]]]) -> list[list[float]]:
        result: list[list[float]] = self._all("logprobs", [(list(p), list(c)) for p, c in sequences])[0]
        return result

    def trace(self, token_ids: Sequence[int]) -> Mapping[str, Tensor]:
        result: Mapping[str, Tensor] = self._all("trace", list(token_ids))[0]
        return result

    def save(self, folder: Path) -> None:
        self._all("save", str(folder))

    def load(self, folder: Path, *, version: int) -> None:
        self._all("load", str(folder))
        self.version = version


def _combine(ranks: Sequence[Mapping[str, float]], *, updates: int) -> dict[str, float]:
    """Losses add up over ranks and are averaged over updates; logprob gaps are averaged over tokens."""
    losses = sorted({name for rank in ranks for name in rank if name.startswith("loss/")})
    metrics = {name: sum(rank.get(name, 0.0) for rank in ranks) / updates for name in losses}
    count = sum(rank["gap_count"] for rank in ranks)
    return metrics | {
        "optim/grad_norm": ranks[0]["grad_norm"],
        "rollout/logprob_gap/mean": sum(rank["gap_sum"] for rank in ranks) / max(1.0, count),
        "rollout/logprob_gap/max": max(rank["gap_max"] for rank in ranks),
        "perf/trainer_balance": sum(r["busy_s"] for r in ranks) / (len(ranks) * max(r["busy_s"] for r in ranks)),
    }
