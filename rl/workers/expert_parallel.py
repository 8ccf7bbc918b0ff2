"""A mixture's experts divided among trainer ranks by DeepSpeed's AutoEP, and what a rank then holds of each parameter.

AutoEP puts a layer of its own in each mixture's place: a rank keeps a share of the experts, and tokens travel to the
rank that has theirs. Outside of the trainer nobody knows: weights are sent, and models saved, under the names and in
the shapes that transformers gave them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


def settings(size: int) -> dict[str, Any]:
    """The section ``expert_parallel`` of DeepSpeed's configuration for experts divided among ``size`` ranks."""
    return {"enabled": size > 1, "autoep_size": size}


def check(model: nn.Module, size: int) -> None:
    """Raise ``ValueError`` for a model whose experts cannot be divided by ``size``."""
    mixtures: list[Any] = [module for module in model.modules() if hasattr(module, "gate_up_proj")]
    counts = {experts.num_experts for experts in mixtures if hasattr(experts, "num_experts")}
    if not counts or any(count % size for count in counts):
        found = f"a model with {', '.join(map(str, counts))}" if counts else "a model without experts in one parameter"
        raise ValueError(f"trainer.expert_parallel must divide the number of experts, got {size} and {found}")


def parameter_groups(parameters: Iterable[nn.Parameter]) -> list[dict[str, Any]]:
    """Groups for an optimizer: AutoEP wants experts apart, because fewer ranks share a copy of them."""
    from deepspeed.moe.utils import configure_moe_param_groups

    groups: list[dict[str, Any]] = configure_moe_param_groups(list(parameters))
    return groups


def compute_exactly(module: nn.Module) -> None:
    """Let experts take fp32 too, as probes need it: the grouped product takes bf16 alone."""
    for experts in (layer.experts for layer in _layers(module).values()):
        grouped, compute = experts.use_grouped_mm, experts.forward

        def forward(
            tokens: Tensor, counts: Tensor, experts: Any = experts, grouped: bool = grouped, compute: Any = compute
        ) -> Tensor:
            experts.use_grouped_mm = grouped and tokens.dtype is torch.bfloat16
            result: Tensor = compute(tokens, counts)
            return result

        experts.forward = forward


@dataclass(frozen=True, kw_only=True)
class Held:
    """What a rank holds of one of the model's parameters."""

    parts: tuple[Tensor, ...]
    """Side by side in dimension 1, if there are several."""
    ranks: Any = None
    """The process group whose ranks hold a share of dimension 0 each, in order; None if each has all of it."""

    @property
    def dtype(self) -> torch.dtype:
        return self.parts[0].dtype

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the whole parameter. ZeRO-3 leaves an empty tensor in a part's place, and its shape beside it."""
        shape, *others = (list(getattr(part, "ds_shape", part.shape)) for part in self.parts)
        for other in others:
            shape[1] += other[1]
        return (shape[0] * (1 if self.ranks is None else self.ranks.size()), *shape[1:])

    def whole(self, into: Tensor | None = None) -> Tensor:
        """The parameter. With ``ranks`` each of them has to call this; ZeRO-3's shards must have been gathered.

        What comes from several ranks is put ``into`` a tensor of the parameter's shape, if one is given.
        """
        own = self.parts[0].detach() if len(self.parts) == 1 else torch.cat([p.detach() for p in self.parts], dim=1)
        if self.ranks is None:
            return own
        whole = own.new_empty(self.shape) if into is None else into
        torch.distributed.all_gather_into_tensor(whole, own.contiguous(), group=self.ranks)
        return whole


def held_by_name(module: nn.Module, tensors: Mapping[str, Tensor]) -> Iterator[tuple[str, Held]]:
    """A rank's ``tensors`` under the names that the model's parameters had before AutoEP took its experts."""
    layers = _layers(module)
    for name, tensor in tensors.items():
        prefix = next((prefix for prefix in layers if name.startswith(f"{prefix}.")), None)
        if prefix is None:
            yield name, Held(parts=(tensor,))
            continue
        layer, inner = layers[prefix], name.removeprefix(f"{prefix}.")
        if inner == "experts.w1":
            gate_and_up = (tensor, tensors[f"{prefix}.experts.w3"])
            yield f"{prefix}.experts.gate_up_proj", Held(parts=gate_and_up, ranks=layer.ep_group)
        elif inner == "experts.w2":
            yield f"{prefix}.experts.down_proj", Held(parts=(tensor,), ranks=layer.ep_group)
        elif inner != "experts.w3":
            inner = inner.replace("router.gate.", "gate.").replace("router.", "gate.")
            yield f"{prefix}.{inner}", Held(parts=(tensor,))


def _layers(module: nn.Module) -> dict[str, Any]:
    """AutoEP's layers by name."""
    return {name: layer for name, layer in module.named_modules() if getattr(layer, "_is_autoep_layer", False)}
