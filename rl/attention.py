"""Attention over packed sequences for any transformers model: no padding outside of attention itself.

``register()`` adds the implementation ``packed`` to transformers. A model loaded with
``attn_implementation="packed"`` takes a row of sequences laid end to end, ``input_ids`` [1, T], with
``position_ids`` [1, T] that restart at 0 and ``packed_rows`` from :func:`packed_rows`. No token sees another
sequence's tokens, so results do not depend on what is packed together.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import AttentionInterface

SHORT_ROW = 256
"""Up to this row length the unfused kernel's backward pass is the faster one on a CPU (measured: 2.5x at 100)."""


@dataclass(frozen=True)
class PackedRows:
    """Index maps between packed tokens [T] and padded rows [S, L]."""

    token_of_cell: Tensor
    """[S * L], the packed token of each padded cell; padding points at token 0."""
    cell_of_token: Tensor
    """[T]."""
    rows: int
    width: int


def packed_rows(lengths: Sequence[int], device: torch.device | str = "cpu") -> PackedRows:
    """The maps for sequences of these lengths, laid end to end."""
    rows, width = len(lengths), max(lengths)
    lengths_S = torch.tensor(lengths)
    valid = torch.arange(width) < lengths_S[:, None]
    token_of_cell = torch.zeros(rows, width, dtype=torch.long)
    token_of_cell[valid] = torch.arange(int(lengths_S.sum()))
    return PackedRows(token_of_cell.flatten().to(device), valid.flatten().nonzero()[:, 0].to(device), rows, width)


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
    """Causal attention within each packed sequence.

    ``query`` [1, H, T, D], ``key`` and ``value`` [1, H_kv, T, D]. Returns [1, T, H, D_v] and None.
    """

    def pad(packed: Tensor) -> Tensor:
        heads, size = packed.shape[1], packed.shape[3]
        cells = packed[0].index_select(1, packed_rows.token_of_cell)
        return cells.view(heads, packed_rows.rows, packed_rows.width, size).transpose(0, 1)

    short_on_cpu = query.device.type == "cpu" and packed_rows.width <= SHORT_ROW
    with sdpa_kernel(SDPBackend.MATH) if short_on_cpu else nullcontext():
        out = functional.scaled_dot_product_attention(
            pad(query.to(value.dtype)),
            pad(key.to(value.dtype)),
            pad(value),
            is_causal=True,
            scale=scaling,
            dropout_p=dropout if module.training else 0.0,
            enable_gqa=query.shape[1] != key.shape[1],
        )
    cells = out.transpose(1, 2).flatten(0, 1)
    return cells.index_select(0, packed_rows.cell_of_token)[None], None


def register() -> None:
    """Make ``attn_implementation="packed"`` known to transformers. Calling it again does nothing."""
    AttentionInterface.register("packed", packed_attention)
