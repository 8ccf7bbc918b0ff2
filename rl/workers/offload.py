"""What a trainer needs only while it learns, moved to the host's memory and back.

A storage is emptied, not replaced: whatever views DeepSpeed has of it stay views of it, and are right again once it is
filled. So this needs to know nothing of the ZeRO stage.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor


class TrainingState:
    """The fp32 tensors that an optimizer holds: master weights, their gradients and moments."""

    def __init__(self, optimizer: Any, module: torch.nn.Module, device: torch.device) -> None:
        self._optimizer, self._module, self._device = optimizer, module, device
        self._away: list[tuple[torch.UntypedStorage, Tensor]] = []
        """Emptied storages and what was in them."""
        self._host: dict[int, Tensor] = {}
        """Memory on the host by the number of the storage that it keeps, kept itself: pinning it takes long."""

    def leave(self) -> None:
        """Empty the storages. Does nothing if they are empty."""
        if self._away:
            return
        for number, storage in enumerate(self._storages()):
            kept = self._host.get(number)
            if kept is None or len(kept) != storage.nbytes():
                pinned = self._device.type == "cuda"
                kept = self._host[number] = torch.empty(storage.nbytes(), dtype=torch.uint8, pin_memory=pinned)
            kept.copy_(_bytes(storage), non_blocking=True)
            self._away.append((storage, kept))
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        for storage, _ in self._away:
            storage.resize_(0)
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    def back(self) -> None:
        """Fill the storages again. Does nothing if they are full."""
        for storage, kept in self._away:
            storage.resize_(len(kept))
            _bytes(storage).copy_(kept, non_blocking=True)
        self._away = []

    def _storages(self) -> list[torch.UntypedStorage]:
        needed = {t.untyped_storage().data_ptr() for t in [*self._module.parameters(), *self._module.buffers()]}
        found: dict[int, torch.UntypedStorage] = {}
        for tensor in _tensors(vars(self._optimizer), set()):
            storage = tensor.untyped_storage()
            if tensor.dtype is torch.float32 and tensor.device == self._device and storage.nbytes():
                found.setdefault(storage.data_ptr(), storage)
        return [storage for pointer, storage in found.items() if pointer not in needed]


def _bytes(storage: torch.UntypedStorage) -> Tensor:
    return torch.empty(0, dtype=torch.uint8, device=storage.device).set_(storage, 0, (storage.nbytes(),), (1,))


def _tensors(value: Any, seen: set[int]) -> Iterator[Tensor]:
    """Tensors in nested containers and in the optimizer that DeepSpeed wraps, with their gradients."""
    if id(value) in seen:
        return
    seen.add(id(value))
    if isinstance(value, Tensor):
        yield value
        if value.is_leaf and value.grad is not None:
            yield value.grad
    elif isinstance(value, Mapping):
        for key, part in value.items():
            yield from _tensors(key, seen) if isinstance(key, Tensor) else ()
            yield from _tensors(part, seen)
    elif isinstance(value, list | tuple | set):
        for part in value:
            yield from _tensors(part, seen)
    elif isinstance(value, torch.optim.Optimizer):
        yield from _tensors(value.param_groups, seen)
        yield from _tensors(value.state, seen)
