"""Exact arithmetic with rounded weights: what a bf16 policy would say if only its weights were bf16."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn


@contextmanager
def fp32_arithmetic(model: nn.Module) -> Iterator[None]:
    """Within the context, ``model`` computes in fp32 with the weights it has, one module's copy at a time.

    bf16 arithmetic rounds at every layer, and a mixture of experts turns a rounding into another expert: two correct
    engines then differ by up to 0.4 in single logprobs (measured on the starter). Without that noise a difference
    means different weights. Not for training: the copies carry no gradient.
    """
    originals: dict[nn.Module, dict[str, nn.Parameter | None]] = {}

    def widen(module: nn.Module, _inputs: Any) -> None:
        originals[module] = dict(module._parameters)
        for name, parameter in module._parameters.items():
            if parameter is not None and parameter.dtype in (torch.bfloat16, torch.float16):
                module._parameters[name] = nn.Parameter(parameter.detach().float(), requires_grad=False)

    def restore(module: nn.Module, _inputs: Any, _output: Any) -> None:
        module._parameters.update(originals.pop(module))

    hooks = []
    for module in model.modules():
        if module._parameters:
            hooks += [
                module.register_forward_pre_hook(widen),
                # First among the hooks: ZeRO-3 lets go of the module's own parameters in a later one.
                module.register_forward_hook(restore, always_call=True, prepend=True),
            ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
