"""Buckets: many tensors in a few flat byte arrays, with a content digest each. Pure functions.

A bucket is what travels. Its description (``BucketSpec``) says where each tensor lies; its digest covers every name,
type, shape and byte, so two sides that agree on it hold the same weights.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rl.types import BucketSpec, TensorSpec, WeightVersion

ALIGNMENT = 256
Bytes = NDArray[np.uint8]


def pack(tensors: Iterable[tuple[str, Tensor]], *, bucket_bytes: int) -> Iterator[tuple[BucketSpec, Bytes]]:
    """Fill buckets in order. A tensor is never split; one larger than ``bucket_bytes`` gets a bucket of its own."""
    specs: list[TensorSpec] = []
    parts: list[Tensor] = []
    end = 0
    for name, tensor in tensors:
        flat = tensor.detach().contiguous().cpu().flatten().view(torch.uint8)
        if specs and end + len(flat) > bucket_bytes:
            yield _seal(specs, parts, end)
            specs, parts, end = [], [], 0
        dtype = str(tensor.dtype).removeprefix("torch.")
        specs.append(TensorSpec(name=name, dtype=dtype, shape=tuple(tensor.shape), offset=end, nbytes=len(flat)))
        parts.append(flat)
        end += -(-len(flat) // ALIGNMENT) * ALIGNMENT
    if specs:
        yield _seal(specs, parts, end)


def _seal(specs: list[TensorSpec], parts: list[Tensor], nbytes: int) -> tuple[BucketSpec, Bytes]:
    data = np.zeros(nbytes, np.uint8)
    for spec, part in zip(specs, parts, strict=True):
        data[spec.offset : spec.offset + spec.nbytes] = part.numpy()
    return BucketSpec(tensors=tuple(specs), nbytes=nbytes, digest=bucket_digest(specs, data)), data


def unpack(spec: BucketSpec, data: Bytes) -> Iterator[tuple[str, Tensor]]:
    """The bucket's tensors as views of ``data``."""
    raw = torch.from_numpy(data)
    for tensor in spec.tensors:
        piece = raw[tensor.offset : tensor.offset + tensor.nbytes]
        yield tensor.name, piece.view(getattr(torch, tensor.dtype)).view(tensor.shape)


def bucket_digest(tensors: Sequence[TensorSpec], data: Bytes) -> str:
    """Digest of a bucket's layout and content."""
    digest = hashlib.blake2b(repr(tuple(tensors)).encode(), digest_size=16)
    digest.update(np.ascontiguousarray(data).data)
    return digest.hexdigest()


def total_digest(bucket_digests: Sequence[str]) -> str:
    """Digest of all buckets in order."""
    return hashlib.blake2b("\n".join(bucket_digests).encode(), digest_size=16).hexdigest()


def describe(number: int, buckets: Sequence[BucketSpec]) -> WeightVersion:
    """The version that these buckets make up."""
    return WeightVersion(number=number, buckets=tuple(buckets), digest=total_digest([b.digest for b in buckets]))
