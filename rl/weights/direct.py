"""Copies instead of a loader: which stretch of a bucket goes where in an engine's memory, learnt once by watching.

An engine's own loader walks through thousands of tensors in Python at every load. What it does in the end is copy
stretches of the buckets into its parameters. ``CopyRecorder`` watches that once; afterwards ``Copies`` does the same in
a few calls. Where the loader does more than copy, what was recorded does not reproduce it, which is found out by
comparing the engine's tensors with those that the loader makes (``fingerprint``).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from rl.weights.digest import digest


@dataclass(frozen=True)
class Copy:
    """One copy out of a bucket, from ``offset`` bytes on."""

    bucket: int
    offset: int
    stride: tuple[int, ...]
    """Of what is copied, in elements: a tensor-parallel engine takes columns of some tensors."""
    target: Tensor

    @property
    def is_stretch(self) -> bool:
        """Whether both sides are one piece of memory."""
        return self.target.is_contiguous() and self.stride == torch.empty(self.target.shape, device="meta").stride()


class CopyRecorder(TorchDispatchMode):
    """Within the context, records every copy from the present bucket into one of the ``targets``."""

    def __init__(self, targets: Mapping[str, Tensor]) -> None:
        super().__init__()
        self._names: dict[int, list[str]] = {}
        for name, tensor in targets.items():
            self._names.setdefault(tensor.untyped_storage().data_ptr(), []).append(name)
        self._bucket = (-1, torch.empty(0))
        self.copies: list[Copy] = []
        self.filled: set[str] = set()
        self.faithful = True
        """Whether everything that was copied into a target came unchanged from the bucket."""

    def enter_bucket(self, index: int, buffer: Tensor) -> None:
        self._bucket = index, buffer

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten.copy_.default:
            self._note(args[0], args[1])
        return func(*args, **(kwargs or {}))

    def _note(self, target: Tensor, source: Tensor) -> None:
        names = self._names.get(target.untyped_storage().data_ptr())
        if names is None:
            return
        index, buffer = self._bucket
        same = source.dtype == target.dtype and source.shape == target.shape
        within = source.untyped_storage().data_ptr() == buffer.untyped_storage().data_ptr()
        if not (same and within):
            self.faithful = False
            return
        self.filled.update(names)
        offset = source.data_ptr() - buffer.data_ptr()
        self.copies.append(Copy(index, offset, tuple(source.stride()), target.detach()))


class Copies:
    """What was recorded, as few large copies."""

    def __init__(self, copies: Iterable[Copy]) -> None:
        self._copies: dict[int, list[Copy]] = {}
        for copy in _merged(copies):
            self._copies.setdefault(copy.bucket, []).append(copy)

    def run(self, index: int, buffer: Tensor) -> None:
        """Copy what bucket ``index`` holds to where it belongs."""
        copies = self._copies.get(index, [])
        if copies:
            torch._foreach_copy_([copy.target for copy in copies], [_source(copy, buffer) for copy in copies])


def _source(copy: Copy, buffer: Tensor) -> Tensor:
    dtype = copy.target.dtype
    rest = buffer[copy.offset :]
    elements = rest[: len(rest) // dtype.itemsize * dtype.itemsize].view(dtype)
    return elements.as_strided(copy.target.shape, copy.stride)


def _merged(copies: Iterable[Copy]) -> list[Copy]:
    """Neighbours in both bucket and target as one: a layer's experts, copied one by one, are one stretch of memory."""
    merged: list[Copy] = []
    for copy in sorted(copies, key=lambda c: (c.bucket, c.offset)):
        last = merged[-1] if merged else None
        if last is not None and _continues(last, copy):
            whole = torch.empty(0, dtype=copy.target.dtype, device=copy.target.device).set_(
                last.target.untyped_storage(),
                last.target.storage_offset(),
                (last.target.numel() + copy.target.numel(),),
                (1,),
            )
            merged[-1] = Copy(last.bucket, last.offset, (1,), whole)
        else:
            merged.append(copy)
    return merged


def _continues(last: Copy, copy: Copy) -> bool:
    a, b = last.target, copy.target
    return (
        last.bucket == copy.bucket
        and last.offset + a.nbytes == copy.offset
        and a.dtype == b.dtype
        and last.is_stretch
        and copy.is_stretch
        and a.untyped_storage().data_ptr() == b.untyped_storage().data_ptr()
        and a.storage_offset() + a.numel() == b.storage_offset()
    )


def fingerprint(tensors: Mapping[str, Tensor]) -> dict[str, list[int]]:
    """A digest of each tensor's content."""
    return {name: _digest_of(tensor) for name, tensor in tensors.items() if tensor.numel()}


def _digest_of(tensor: Tensor) -> list[int]:
    flat = tensor.detach().contiguous().flatten().view(torch.uint8)
    padded = torch.nn.functional.pad(flat, (0, -len(flat) % 8))
    values: list[int] = digest(padded).tolist()
    return values
