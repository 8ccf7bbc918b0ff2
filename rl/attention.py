"""Attention over packed sequences for any transformers model: no padding outside of attention itself.

``register()`` adds the implementation ``packed`` to transformers. A model loaded with
``attn_implementation="packed"`` takes tokens laid end to end, ``input_ids`` [1, T], with ``position_ids`` [1, T] and
``packed_rows`` from :func:`packed_rows`. A token sees those before it in its row and no others, so results do not
depend on what is packed together. What several rows begin with, a group's prompt, may be laid down, and computed, once.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

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
class PackedRows:
    """How attention over packed tokens [T] is computed."""

    blocks: tuple[Block, ...]
    place: Tensor
    """[T], where each token's output is among those of all blocks."""
    positions: Tensor
    """[T], the token's place in its row."""


def packed_rows(rows: Sequence[Sequence[range]], device: torch.device | str = "cpu") -> PackedRows:
    """The computation for rows given as the stretches of packed tokens that they consist of, in order.

    A stretch may open several rows. It is then computed once, and the rest of each row looks back at it.
    """
    pieces: dict[range, int] = {}
    """Each stretch, and how many tokens come before it in its row."""
    keys: dict[range, list[range]] = {}
    for row in rows:
        before = 0
        for number, span in enumerate(row):
            if len(span) and span not in pieces:
                pieces[span], keys[span] = before, list(row[: number + 1])
            before += len(span)
    blocks, order = [], []
    for spans in _alike(pieces):
        block, tokens = _block(spans, pieces, keys, device)
        blocks.append(block)
        order.append(tokens)
    total = torch.cat(order)
    place = torch.empty_like(total)
    place[total] = torch.arange(len(total))
    positions = torch.cat([torch.arange(len(span)) + before for span, before in pieces.items()])
    laid = torch.cat([torch.arange(span.start, span.stop) for span in pieces])
    return PackedRows(tuple(blocks), place.to(device), torch.empty_like(laid).scatter_(0, laid, positions).to(device))


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
    """Causal attention within each row.

    ``query`` [1, H, T, D], ``key`` and ``value`` [1, H_kv, T, D]. Returns [1, T, H, D_v] and None.
    """

    def padded(packed: Tensor, tokens: Tensor, rows: int) -> Tensor:
        cells = packed[0].index_select(1, tokens)
        return cells.view(packed.shape[1], rows, -1, packed.shape[3]).transpose(0, 1)

    outputs = []
    for block in packed_rows.blocks:
        keys_per_row = len(block.key_tokens) // block.rows
        short_on_cpu = query.device.type == "cpu" and keys_per_row <= SHORT_ROW
        with sdpa_kernel(SDPBackend.MATH) if short_on_cpu else nullcontext():
            out = functional.scaled_dot_product_attention(
                padded(query.to(value.dtype), block.query_tokens, block.rows),
                padded(key.to(value.dtype), block.key_tokens, block.rows),
                padded(value, block.key_tokens, block.rows),
                attn_mask=block.visible,
                is_causal=block.visible is None,
                scale=scaling,
                dropout_p=dropout if module.training else 0.0,
                enable_gqa=query.shape[1] != key.shape[1],
            )
        outputs.append(out.transpose(1, 2).flatten(0, 1).index_select(0, block.real))
    return torch.cat(outputs).index_select(0, packed_rows.place)[None], None


def register() -> None:
    """Make ``attn_implementation="packed"`` known to transformers. Calling it again does nothing."""
    AttentionInterface.register("packed", packed_attention)
