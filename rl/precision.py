"""What of a bf16 policy is computed in fp32: always what its layers add up, and for proofs everything."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_map


def fp32_residual(model: nn.Module) -> None:
    """Let the sum that every layer of a transformers model adds to, the residual stream, be fp32 from now on.

    In bf16 it is rounded twice a layer, and gradients on their way back too; that is most of the noise that a trainer
    adds to an engine's logprobs. Layers read the sum through norms, and what norms and rotary embeddings give out is
    made as narrow again as the embeddings were, so all matrix products and attention are computed in bf16 as ever.
    """
    own = torch.float32

    def widen(embedded: Any) -> Any:
        nonlocal own
        own = embedded.dtype
        return embedded.float()

    def narrow(output: Any) -> Any:
        return tree_map(lambda x: x.to(own) if x.is_floating_point() else x, output)

    _convert_output(model.get_input_embeddings(), widen)  # type: ignore[operator]
    for module in model.modules():
        weight = getattr(module, "weight", None)
        is_norm = isinstance(weight, nn.Parameter) and weight.ndim == 1
        if is_norm or hasattr(module, "inv_freq"):
            _convert_output(module, narrow)


def _convert_output(module: nn.Module, convert: Callable[[Any], Any]) -> None:
    compute = module.forward
    module.forward = lambda *inputs, **named: convert(compute(*inputs, **named))


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
