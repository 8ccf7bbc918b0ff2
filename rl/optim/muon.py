"""Muon: momentum whose updates are orthogonalised, for weights that are matrices (Moonlight §2)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

_COEFFICIENTS = (3.4445, -4.7750, 2.0315)


def newton_schulz(matrices: Tensor, *, steps: int = 5) -> Tensor:
    """Roughly the nearest matrix with orthonormal rows or columns, of each matrix in [..., A, B].

    Five steps bring the singular values between about 0.7 and 1.2 (Moonlight §2.1).
    """
    a, b, c = _COEFFICIENTS
    x: Tensor = matrices.bfloat16()
    tall = x.shape[-2] > x.shape[-1]
    x = x.mT if tall else x
    x = x / (torch.linalg.matrix_norm(x, keepdim=True) + 1e-7)
    for _ in range(steps):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return (x.mT if tall else x).to(matrices.dtype)


class Muon(torch.optim.Optimizer):
    """``W <- W - lr (0.2 sqrt(max(A, B)) NS(G + mu M) + wd W)`` with ``M <- mu M + G`` (Moonlight Eq. 4, Nesterov).

    The factor gives updates AdamW's usual size, so learning rates carry over. Parameters are matrices [A, B] or stacks
    of them [E, A, B] (experts); others belong to AdamW. Raises ``ValueError`` for a vector.
    """

    def __init__(
        self, params: Iterable[Tensor], *, lr: float, momentum: float = 0.95, weight_decay: float = 0.1
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})
        flat = [tuple(p.shape) for group in self.param_groups for p in group["params"] if p.ndim < 2]
        if flat:
            raise ValueError(f"params must be matrices or stacks of matrices, got the shape {flat[0]}")

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            alike: dict[tuple[int, ...], list[Tensor]] = defaultdict(list)
            for p in group["params"]:
                if p.grad is not None:
                    alike[tuple(p.shape[-2:])].append(p)
            for parameters in alike.values():
                self._update(parameters, **{name: group[name] for name in ("lr", "momentum", "weight_decay")})

    def _update(self, parameters: list[Tensor], *, lr: float, momentum: float, weight_decay: float) -> None:
        """Matrices of one shape together: small products take longer to launch than to compute."""
        grads = [p.grad for p in parameters if p.grad is not None]
        momenta = [self._momentum(p) for p in parameters]
        torch._foreach_mul_(momenta, momentum)
        torch._foreach_add_(momenta, grads)
        rows, columns = parameters[0].shape[-2:]
        ahead = [x.reshape(-1, rows, columns) for x in torch._foreach_add(grads, momenta, alpha=momentum)]
        updates = newton_schulz(torch.cat(ahead)).split([len(x) for x in ahead])
        torch._foreach_mul_(parameters, 1 - lr * weight_decay)
        scale = -lr * 0.2 * max(rows, columns) ** 0.5
        torch._foreach_add_(parameters, [u.view_as(p) for u, p in zip(updates, parameters, strict=True)], alpha=scale)

    def _momentum(self, p: Tensor) -> Tensor:
        state = self.state[p]
        if "momentum" not in state:
            state["momentum"] = torch.zeros_like(p)
        momentum: Tensor = state["momentum"]
        return momentum
