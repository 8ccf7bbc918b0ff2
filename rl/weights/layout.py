"""How a model's parameters lie in buckets, agreed on once: afterwards only bytes travel.

A bucket holds whole parameters of the trainer, byte for byte. Checkpoint tensors, which engines load by name, are
stretches of those bytes: transformers keeps a layer's experts in one parameter, and a checkpoint lists each by itself.
Which stretch is which is found once, by letting transformers convert a parameter that is filled with its own indices.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from rl.types import BucketSpec, TensorSpec

ALIGNMENT = 256
Convert = Callable[[dict[str, Tensor]], Mapping[str, Tensor]]
"""Parameters under the module's names to tensors under their names in a checkpoint."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """One of the trainer's parameters and where it lies in its bucket, in bytes."""

    name: str
    offset: int
    nbytes: int

    def place(self, buffer: Tensor) -> Tensor:
        """Its bytes in a buffer."""
        return buffer[self.offset : self.offset + self.nbytes]


@dataclass(frozen=True, kw_only=True, slots=True)
class BucketPlan:
    """What the trainer puts into a bucket, and what engines find there."""

    sources: tuple[Source, ...]
    spec: BucketSpec


@dataclass(frozen=True, kw_only=True)
class Shape:
    """A parameter as far as its place in a bucket depends on it."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        return self.dtype.itemsize * torch.Size(self.shape).numel()


def plan_buckets(
    shapes: Iterable[Shape], convert: Convert, *, bucket_bytes: int, device: torch.device | str = "cpu"
) -> list[BucketPlan]:
    """Fill buckets in order. A parameter is never split; one larger than ``bucket_bytes`` gets a bucket of its own.

    Raises ``ValueError`` for a model whose checkpoint tensors are not stretches of single parameters.
    """
    plans: list[BucketPlan] = []
    sources: list[Source] = []
    tensors: list[TensorSpec] = []
    end = 0

    def seal() -> None:
        plans.append(BucketPlan(sources=tuple(sources), spec=BucketSpec(tensors=tuple(tensors), nbytes=end)))

    for shape in shapes:
        if sources and end + shape.nbytes > bucket_bytes:
            seal()
            sources, tensors, end = [], [], 0
        sources.append(Source(name=shape.name, offset=end, nbytes=shape.nbytes))
        tensors += _stretches(shape, convert, end, device)
        end += -(-shape.nbytes // ALIGNMENT) * ALIGNMENT
    if sources:
        seal()
    return plans


def _stretches(shape: Shape, convert: Convert, offset: int, device: torch.device | str) -> list[TensorSpec]:
    """The checkpoint tensors that a parameter at ``offset`` holds."""
    count = torch.Size(shape.shape).numel()
    converted = convert({shape.name: torch.arange(count, device=device).view(shape.shape)})
    found = []
    for name, indices in converted.items():
        first = int(indices.flatten()[0])
        if not torch.equal(indices.flatten(), torch.arange(first, first + indices.numel(), device=device)):
            raise ValueError(
                f"model.path must be a model whose checkpoint holds its parameters in one piece each, got one where "
                f"{name} is no stretch of {shape.name}"
            )
        found.append(
            TensorSpec(
                name=name,
                dtype=str(shape.dtype).removeprefix("torch."),
                shape=tuple(indices.shape),
                offset=offset + first * shape.dtype.itemsize,
                nbytes=indices.numel() * shape.dtype.itemsize,
            )
        )
    if sum(t.nbytes for t in found) != shape.nbytes:
        raise ValueError(
            f"model.path must be a model whose checkpoint holds each of its parameters once, got one where "
            f"{', '.join(t.name for t in found)} are not all of {shape.name}"
        )
    return sorted(found, key=lambda t: t.offset)


def fill(buffer: Tensor, plan: BucketPlan, parameters: Mapping[str, Tensor]) -> None:
    """Lay those of the plan's parameters that are given, and what lies between any, into a buffer, uint8."""
    given = [s for s in plan.sources if s.name in parameters]
    whole = [parameters[s.name].detach().contiguous().flatten().view(torch.uint8) for s in given]
    for source, following in zip(plan.sources, [*plan.sources[1:], None], strict=True):
        # What lies between two parameters is part of the content: the same every time.
        end = plan.spec.nbytes if following is None else following.offset
        buffer[source.offset + source.nbytes : end].zero_()
    if given:
        torch._foreach_copy_([s.place(buffer) for s in given], whole)


def unpack(buffer: Tensor, spec: BucketSpec) -> Iterator[tuple[str, Tensor]]:
    """A bucket's tensors as views of its buffer."""
    for tensor in spec.tensors:
        piece = buffer[tensor.offset : tensor.offset + tensor.nbytes]
        yield tensor.name, piece.view(getattr(torch, tensor.dtype)).view(tensor.shape)
