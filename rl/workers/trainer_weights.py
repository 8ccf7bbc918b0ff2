"""A trainer rank's parameters as others see them: whole, under the names that transformers gave them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import Tensor

from rl.weights.layout import BucketPlan, Shape, fill, plan_buckets
from rl.weights.send import WeightSender
from rl.workers.expert_parallel import Held, held_by_name


class TrainerWeights:
    """Of a model that DeepSpeed holds, whatever it keeps on which rank."""

    def __init__(self, module: Any, *, sharded: bool, divided: bool) -> None:
        """``sharded``: by ZeRO-3. ``divided``: each rank holds a share of the experts."""
        self._module = module
        self._held = dict(held_by_name(module, dict(persistent_tensors(module))))
        self._sharded = sharded
        self._collective = sharded or divided

    @property
    def names(self) -> list[str]:
        """Of all parameters, and of the buffers that a checkpoint holds."""
        return list(self._held)

    @contextmanager
    def whole(self, name: str) -> Iterator[Tensor]:
        """A parameter, gathered for the time of the context. All ranks enter it for the same ones, in order."""
        with self._unsharded([self._held[name]]):
            yield self._held[name].whole()

    def lay(self, plan: BucketPlan, buffer: Tensor | None) -> None:
        """See ``rl.weights.send.Lay``."""
        together = {}
        for source in plan.sources:
            held = self._held[source.name]
            if held.ranks is None:
                together[source.name] = held
                continue
            # One at a time and straight to its place, so that beside the buffer there is only a rank's share of one.
            place = None if buffer is None else source.place(buffer).view(held.dtype).view(held.shape)
            with self._unsharded([held]):
                held.whole(place)
        with self._unsharded(together.values()):
            if buffer is not None:
                fill(buffer, plan, {name: held.whole() for name, held in together.items()})

    def _unsharded(self, held: Iterable[Held]) -> AbstractContextManager[None]:
        """ZeRO-3's shards of these put together for the time of the context."""
        import deepspeed

        shards = [part for entry in held for part in entry.parts if hasattr(part, "ds_id")]
        gathered: AbstractContextManager[None] = deepspeed.zero.GatheredParameters(shards, enabled=self._sharded)
        return gathered

    def sender(self, *, rank: int, bucket_bytes: int, device: torch.device) -> WeightSender:
        """The rank's end of the checkpoint engine."""
        from transformers.core_model_loading import revert_weight_conversion

        plans = plan_buckets(
            [Shape(name=name, dtype=held.dtype, shape=held.shape) for name, held in self._held.items()],
            lambda state: revert_weight_conversion(self._module, state),
            bucket_bytes=bucket_bytes,
            device=device,
        )
        return WeightSender(plans, self.lay, rank=rank, device=device, takes_part=self._collective)


def persistent_tensors(module: Any) -> Iterator[tuple[str, Tensor]]:
    """A model's parameters and those of its buffers that a checkpoint holds."""
    yield from module.named_parameters()
    for name, buffer in module.named_buffers():
        owner, _, leaf = name.rpartition(".")
        if leaf not in module.get_submodule(owner)._non_persistent_buffers_set:
            yield name, buffer
