"""A trainer rank's parameters as the checkpoint engine sees them: whole, by bucket, under their checkpoint names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from rl.weights.layout import BucketPlan, Shape, plan_buckets
from rl.weights.send import WeightSender


def make_sender(module: Any, *, rank: int, zero_stage: int, bucket_bytes: int, device: torch.device) -> WeightSender:
    """The sending end for a model that DeepSpeed holds."""
    from transformers.core_model_loading import revert_weight_conversion

    tensors = dict(persistent_tensors(module))
    plans = plan_buckets(
        [
            # ZeRO-3 leaves an empty tensor in a parameter's place, and its shape beside it.
            Shape(name=name, dtype=t.dtype, shape=tuple(getattr(t, "ds_shape", t.shape)))
            for name, t in tensors.items()
        ],
        lambda state: revert_weight_conversion(module, state),
        bucket_bytes=bucket_bytes,
        device=device,
    )

    @contextmanager
    def gathered(plan: BucketPlan) -> Iterator[Mapping[str, Tensor]]:
        import deepspeed

        wanted = {source.name: tensors[source.name] for source in plan.sources}
        sharded = [t for t in wanted.values() if hasattr(t, "ds_id")]
        with deepspeed.zero.GatheredParameters(sharded, enabled=zero_stage == 3):
            yield wanted

    return WeightSender(plans, gathered, rank=rank, device=device, takes_part=zero_stage == 3)


def persistent_tensors(module: Any) -> Iterator[tuple[str, Tensor]]:
    """A model's parameters and those of its buffers that a checkpoint holds."""
    yield from module.named_parameters()
    for name, buffer in module.named_buffers():
        owner, _, leaf = name.rpartition(".")
        if leaf not in module.get_submodule(owner)._non_persistent_buffers_set:
            yield name, buffer
