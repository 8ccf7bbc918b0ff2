"""Content digests that are computed where the bytes are: on a GPU at memory speed, on a CPU by the same arithmetic.

A digest is two 64-bit sums over a buffer's words, each word multiplied by a fixed odd number of its place, modulo 2^64.
An odd factor is invertible, so no change of a single word can cancel; the second sum mixes each word's halves first, so
that neither can changes of the top bits in several words. It guards against lost, stale, moved and flipped bytes, not
against an adversary.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cache

import numpy as np
import torch
from torch import Tensor

LANES = 2
_ROW = 2**18
"""Words that share a table of factors: 2 MiB of it."""
_ROWS = 16
"""Rows computed at once: temporaries of 32 MiB."""
_FIRST_FACTOR, _FIRST_ROW = 0, 2**40
"""Where in the pseudo-random sequence the factors of words and of rows begin."""


def digest(data: Tensor) -> Tensor:
    """Two int64 numbers, on the buffer's device, for contiguous uint8 [N], N a multiple of 8."""
    words = data.view(torch.int64)
    sums = torch.zeros(LANES, dtype=torch.int64, device=data.device)
    for start in range(0, len(words), _ROW * _ROWS):
        part = words[start : start + _ROW * _ROWS]
        whole = len(part) // _ROW * _ROW
        for stretch in (part[:whole].view(-1, _ROW), part[None, whole:]):
            if stretch.numel():
                row = (start + (whole if stretch.shape[1] < _ROW else 0)) // _ROW
                sums += _sums(stretch, row)
    return sums


def _sums(words: Tensor, first_row: int) -> Tensor:
    """Sums of both lanes over rows of words [R, W] that begin at ``first_row`` of the buffer."""
    rows, width = words.shape
    factors = _factors(_FIRST_FACTOR, _ROW, words.device)[:width]
    row_factors = _row_factors(first_row, rows, words.device)
    plain = ((words * factors).sum(1) * row_factors).sum()
    mixed = (((words ^ (words >> 29)) * factors).sum(1) * row_factors).sum()
    return torch.stack([plain, mixed])


def _row_factors(first: int, count: int, device: torch.device) -> Tensor:
    block = first // _ROW * _ROW
    table = _factors(_FIRST_ROW + block, _ROW + _ROWS, device)
    return table[first - block : first - block + count]


@cache
def _factors(start: int, count: int, device: torch.device) -> Tensor:
    """Odd pseudo-random numbers: splitmix64 (Steele et al., 2014) of their index, the same in every process."""
    x = np.arange(start, start + count, dtype=np.uint64)
    x = x * np.uint64(0x9E3779B97F4A7C15) + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    x = (x ^ (x >> np.uint64(31))) | np.uint64(1)
    return torch.from_numpy(x.view(np.int64)).to(device)


def as_text(sums: Tensor | Sequence[int]) -> str:
    """A digest as 32 hexadecimal digits."""
    values = sums.tolist() if isinstance(sums, Tensor) else sums
    return "".join(f"{value % 2**64:016x}" for value in values)


def total_digest(layout: object, digests: Sequence[str]) -> str:
    """Digest of a version: of its layout, every name, type and shape in it, and of all buckets' content in order."""
    text = "\n".join([repr(layout), *digests])
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
