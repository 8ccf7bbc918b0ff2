"""Attention over packed sequences for any transformers model: no padding outside of attention itself.

``register()`` adds the implementation ``packed`` to transformers. A model loaded with
``attn_implementation="packed"`` takes tokens laid end to end, ``input_ids`` [1, T], with ``position_ids`` [1, T] and
``packed_rows`` from :func:`packed_rows`. A token sees those before it in its row and no others, so results do not
depend on what is packed together. What several rows begin with, a group's prompt, may be laid down, and computed, once.
"""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.utils.rnn import pad_sequence
from transformers import AttentionInterface

SHORT_ROW = 256
"""Up to this row length the unfused kernel's backward pass is the faster one on a CPU (measured: 2.5x at 100)."""


PADDING = 1.5
"""Most cells of a block's attention scores, relative to the scores that are wanted."""


@dataclass(frozen=True)
class Block:
    """Some queries and the keys that they may see, padded to one width: Q queries and K keys in each of R rows."""

    query_tokens: Tensor
    """[R * Q], the packed token of each cell; padding points at token 0."""
    key_tokens: Tensor
    """[R * K]."""
    rows: int
    visible: Tensor | None
    """[R, 1, Q, K], which keys a query sees; None if those before it and itself, both being the same tokens."""
    real: Tensor
    """Which of the query cells are no padding."""


@dataclass(frozen=True)
class Ragged:
    """Queries, all packed tokens in their order, and the keys that each stretch of them may see, without padding."""

    key_tokens: Tensor
    """[K], the packed token of each key, stretch after stretch; a stretch's own tokens are its last keys."""
    query_ends: Tensor
    """[P + 1], where each stretch's queries end, int32; the first is 0."""
    key_ends: Tensor
    """[P + 1], where each stretch's keys end, int32."""
    most_queries: int
    most_keys: int


class PackedRows:
    """How attention over packed tokens [T] is computed, for rows given as the stretches that they consist of.

    Made for the kernel that is asked for: ``blocks`` for torch's plain kernels, ``ragged`` for FlashAttention.
    """

    def __init__(self, rows: Sequence[Sequence[range]], device: torch.device | str) -> None:
        self._device = device
        self._pieces: dict[range, int] = {}
        """Each stretch, and how many tokens come before it in its row."""
        self._keys: dict[range, list[range]] = {}
        for row in rows:
            before = 0
            for number, span in enumerate(row):
                if len(span) and span not in self._pieces:
                    self._pieces[span], self._keys[span] = before, list(row[: number + 1])
                before += len(span)

    @cached_property
    def positions(self) -> Tensor:
        """[T], each token's place in its row."""
        spans = sorted(self._pieces.items(), key=lambda item: item[0].start)
        return torch.cat([torch.arange(len(span)) + before for span, before in spans]).to(self._device)

    @cached_property
    def blocks(self) -> tuple[tuple[Block, ...], Tensor]:
        """Blocks, and [T], where each token's output is among those of all blocks."""
        made = [_block(spans, self._pieces, self._keys, self._device) for spans in _alike(self._pieces)]
        order = torch.cat([tokens for _, tokens in made])
        place = torch.empty_like(order)
        place[order] = torch.arange(len(order))
        return tuple(block for block, _ in made), place.to(self._device)

    @cached_property
    def ragged(self) -> Ragged:
        spans = sorted(self._pieces, key=lambda span: span.start)
        seen = [sum(len(part) for part in self._keys[span]) for span in spans]
        keys = [np.arange(part.start, part.stop) for span in spans for part in self._keys[span]]

        def ends(lengths: Sequence[int]) -> Tensor:
            return torch.tensor([0, *itertools.accumulate(lengths)], dtype=torch.int32).to(self._device)

        return Ragged(
            key_tokens=torch.from_numpy(np.concatenate(keys)).to(self._device),
            query_ends=ends([len(span) for span in spans]),
            key_ends=ends(seen),
            most_queries=max(len(span) for span in spans),
            most_keys=max(seen),
        )


def packed_rows(rows: Sequence[Sequence[range]], device: torch.device | str = "cpu") -> PackedRows:
    """The computation for rows given as the stretches of packed tokens that they consist of, in order.

    A stretch may open several rows. It is then computed once, and the rest of each row looks back at it.
    """
    return PackedRows(rows, device)


def _alike(pieces: Mapping[range, int]) -> list[list[range]]:
    """Stretches in blocks of like size, those that open a row apart from those that look back."""
    blocks: list[list[range]] = []
    wanted = width = height = 0
    for span in sorted(pieces, key=lambda span: (pieces[span] > 0, len(span) + pieces[span], len(span))):
        queries, seen = len(span), len(span) + pieces[span]
        same = bool(blocks) and (pieces[blocks[-1][0]] > 0) == (pieces[span] > 0)
        cells = (len(blocks[-1]) + 1) * max(height, queries) * max(width, seen) if same else 0
        if not same or cells > PADDING * (wanted + queries * seen):
            blocks.append([])
            wanted = width = height = 0
        blocks[-1].append(span)
        wanted, width, height = wanted + queries * seen, max(width, seen), max(height, queries)
    return blocks


def _block(
    spans: Sequence[range], pieces: Mapping[range, int], keys: Mapping[range, Sequence[range]], device: Any
) -> tuple[Block, Tensor]:
    """The block of these stretches, and their tokens in its order."""
    queries = [torch.arange(span.start, span.stop) for span in spans]
    seen = [torch.cat([torch.arange(part.start, part.stop) for part in keys[span]]) for span in spans]
    query_tokens, key_tokens = pad_sequence(queries, batch_first=True), pad_sequence(seen, batch_first=True)
    real = pad_sequence([torch.ones_like(row, dtype=torch.bool) for row in queries], batch_first=True)
    visible = None
    before = torch.tensor([pieces[span] for span in spans])
    if before.any():
        last = before[:, None] + torch.arange(query_tokens.shape[1])
        visible = (torch.arange(key_tokens.shape[1]) <= last[:, :, None])[:, None].to(device)
    block = Block(
        query_tokens=query_tokens.flatten().to(device),
        key_tokens=key_tokens.flatten().to(device),
        rows=len(spans),
        visible=visible,
        real=real.flatten().nonzero()[:, 0].to(device),
    )
    return block, query_tokens[real]


def end_to_end(lengths: Sequence[int]) -> list[list[range]]:
    """Rows of these lengths that share nothing."""
    ends = list(itertools.accumulate(lengths))
    return [[range(end - length, end)] for length, end in zip(lengths, ends, strict=True)]


def packed_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    packed_rows: PackedRows,
    scaling: float | None = None,
    dropout: float = 0.0,
    **_: Any,
) -> tuple[Tensor, None]:
    """Causal attention within each row, by FlashAttention where it is there for the device and type.

    ``query`` [1, H, T, D], ``key`` and ``value`` [1, H_kv, T, D]. Returns [1, T, H, D_v] and None.
    """
    query, key = query.to(value.dtype), key.to(value.dtype)
    p = dropout if module.training else 0.0
    if value.is_cuda and value.dtype in (torch.bfloat16, torch.float16) and not p:
        return _ragged_attention(query[0], key[0], value[0], packed_rows.ragged, scaling)[None], None
    return _block_attention(query[0], key[0], value[0], packed_rows, scaling, p)[None], None


def _ragged_attention(query: Tensor, key: Tensor, value: Tensor, rows: Ragged, scaling: float | None) -> Tensor:
    """[T, H, D_v] from [H, T, D] of queries and [H_kv, T, ·] of keys and values."""
    from torch.nn.attention.varlen import varlen_attn

    width, wanted = query.shape[2], value.shape[2]
    if wanted < width:  # latent attention: the kernel wants one width for all
        value = functional.pad(value, (0, width - wanted))
    keys, values = (x.index_select(1, rows.key_tokens).transpose(0, 1) for x in (key, value))
    # Newer torch wants to be told that several queries share a key; the kernel under older ones takes it as it is.
    tells = "enable_gqa" in inspect.signature(varlen_attn).parameters
    grouped: dict[str, Any] = {"enable_gqa": True} if tells and query.shape[0] != key.shape[0] else {}
    out: Any = varlen_attn(
        query.transpose(0, 1),
        keys,
        values,
        rows.query_ends,
        rows.key_ends,
        rows.most_queries,
        rows.most_keys,
        scale=scaling,
        window_size=(-1, 0),
        **grouped,
    )
    attended: Tensor = out[..., :wanted]
    return attended


def _block_attention(
    query: Tensor, key: Tensor, value: Tensor, rows: PackedRows, scaling: float | None, dropout: float
) -> Tensor:
    """[T, H, D_v] from [H, T, D] of queries and [H_kv, T, ·] of keys and values."""

    def padded(packed: Tensor, tokens: Tensor, count: int) -> Tensor:
        cells = packed.index_select(1, tokens)
        return cells.view(packed.shape[0], count, -1, packed.shape[2]).transpose(0, 1)

    blocks, place = rows.blocks
    outputs = []
    for block in blocks:
        keys_per_row = len(block.key_tokens) // block.rows
        short_on_cpu = query.device.type == "cpu" and keys_per_row <= SHORT_ROW
        with sdpa_kernel(SDPBackend.MATH) if short_on_cpu else nullcontext():
            out = functional.scaled_dot_product_attention(
                padded(query, block.query_tokens, block.rows),
                padded(key, block.key_tokens, block.rows),
                padded(value, block.key_tokens, block.rows),
                attn_mask=block.visible,
                is_causal=block.visible is None,
                scale=scaling,
                dropout_p=dropout,
                enable_gqa=query.shape[0] != key.shape[0],
            )
        outputs.append(out.transpose(1, 2).flatten(0, 1).index_select(0, block.real))
    return torch.cat(outputs).index_select(0, place)


def register() -> None:
    """Make ``attn_implementation="packed"`` known to transformers. Calling it again does nothing."""
    AttentionInterface.register("packed", packed_attention)
