"""Weights inside vLLM's workers: mixed into each of them, so that tensor-parallel ones in other processes have it too.

Everything here depends on vLLM's version. Serves vLLM 0.25 to 0.32.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from rl.types import Loaded
from rl.weights.receive import Tensors, WeightReceiver
from rl.weights.transports.base import Receiver, Route, Seat

DERIVED = ("W_UV", "W_UK_T")
"""Parameters that vLLM computes from others after loading (latent attention's two halves of ``kv_b_proj``)."""


class VllmModel:
    """Implements ``rl.weights.receive.LoadableModel``."""

    def __init__(self, model_runner: Any) -> None:
        self._runner = model_runner
        self.device = torch.device(model_runner.device)

    def _model(self) -> torch.nn.Module:
        model: torch.nn.Module = self._runner.get_model()
        return model

    def reload(self, tensors: Tensors) -> set[str]:
        model: Any = self._model()
        loaded: set[str] = set()
        load_weights = model.load_weights

        def recording(weights: Iterable[tuple[str, Tensor]]) -> set[str]:
            loaded.update(load_weights(weights))
            return loaded

        model.load_weights = recording
        try:
            self._runner.reload_weights(weights_iterator=iter(tensors))
        finally:
            del model.load_weights
        _repack_experts(model)
        # Some versions answer with an expert's name in the checkpoint's place for it, one level higher.
        return loaded | {name for name in self.parameters() if name.replace(".routed_experts.", ".") in loaded}

    def load(self, tensors: Tensors) -> None:
        model: Any = self._model()
        model.load_weights(tensors)

    def parameters(self) -> Mapping[str, Tensor]:
        named = self._model().named_parameters()
        return {name: p.data for name, p in named if name.rpartition(".")[2] not in DERIVED}

    def tensors(self) -> Mapping[str, Tensor]:
        found: dict[str, Tensor] = {}
        for prefix, module in self._model().named_modules():
            held = {**module._parameters, **module._buffers, **vars(module)}
            found |= {
                f"{prefix}.{name}": value
                for name, value in held.items()
                if isinstance(value, Tensor) and name != "kv_cache"
            }
        return found


def _repack_experts(model: torch.nn.Module) -> None:
    # vLLM packs the experts into the kernel's own layout when the kernel is built, and does not do it again
    # on a reload (seen in 0.32 on CPU): without this the experts would stay those of the first load.
    for module in model.modules():
        kernel = getattr(getattr(module, "quant_method", None), "moe_kernel", None)
        experts = getattr(kernel, "fused_experts", None)
        if experts is not None and hasattr(experts, "process_weights_after_loading"):
            experts.process_weights_after_loading(module)


class WorkerExtension:
    """What vLLM mixes into its workers: receiving weights, and tracing one prompt."""

    model_runner: Any

    def open_route(self, route: Route, seats: list[Seat]) -> None:
        if not hasattr(self, "_receiver"):
            self._receiver = WeightReceiver(VllmModel(self.model_runner))
        self._receiver.open(route, seats[self._place()])

    def close_route(self, name: str) -> None:
        self._receiver.close(name)

    def receive_weights(self, name: str, serial: int, carried: Receiver | None) -> Loaded:
        return self._receiver.receive(name, serial, carried)

    def _place(self) -> int:
        """Number of this process among those of its engine."""
        return int(getattr(self, "rank", 0))

    def start_trace(self) -> None:
        self._trace: dict[str, Tensor] = {}
        self._hooks = [
            module.register_forward_hook(self._record(name))
            for name, module in self.model_runner.get_model().named_modules()
            if name
        ]

    def _record(self, name: str) -> Any:
        def hook(_module: torch.nn.Module, _inputs: Any, output: Any) -> None:
            first = output[0] if isinstance(output, tuple) else output
            if isinstance(first, Tensor):
                self._trace[name] = first.detach().float().cpu().clone()

        return hook

    def stop_trace(self) -> dict[str, Tensor]:
        for hook in self._hooks:
            hook.remove()
        return self._trace
