"""A trainer's state leaves and comes back without anybody who holds a view of it noticing."""

from types import SimpleNamespace

import torch

from rl.workers.offload import TrainingState


def test_state_leaves_and_returns_bit_by_bit_many_times():
    module = torch.nn.Linear(8, 4).bfloat16()
    flat = torch.cat([p.detach().float().flatten() for p in module.parameters()]).requires_grad_()
    view = flat.detach()[3:9]
    inner = torch.optim.AdamW([flat], lr=0.1)
    wrapper = SimpleNamespace(optimizer=inner, groups=[[flat]], grads={0: torch.zeros(36)}, parameters=module)
    twin = flat.detach().clone().requires_grad_()
    other = torch.optim.AdamW([twin], lr=0.1)
    state = TrainingState(wrapper, module, torch.device("cpu"))
    for step in range(50):
        flat.grad, twin.grad = torch.full((36,), float(step)), torch.full((36,), float(step))
        state.leave()
        state.leave()
        assert flat.untyped_storage().nbytes() == 0
        assert all(p.untyped_storage().nbytes() for p in module.parameters())
        state.back()
        state.back()
        inner.step()
        other.step()
        assert torch.equal(flat, twin)
        assert torch.equal(view, twin[3:9])
