import pytest
import torch

from rl.optim.muon import Muon, newton_schulz


@pytest.mark.parametrize("shape", [(64, 32), (32, 64), (3, 48, 48)])
def test_five_steps_bring_singular_values_near_one(shape):
    torch.manual_seed(0)
    values = torch.linalg.svdvals(newton_schulz(torch.randn(shape)))
    assert 0.6 < values.median() < 1.25
    assert values.max() < 1.3


def test_the_update_has_adams_size_and_decay_is_not_scaled():
    torch.manual_seed(0)
    weight = torch.nn.Parameter(torch.randn(64, 128))
    before = weight.detach().clone()
    optimizer = Muon([weight], lr=0.01, weight_decay=0.5)
    weight.grad = 1e-3 * torch.randn(64, 128)
    optimizer.step()
    change = (weight.detach() - before * (1 - 0.01 * 0.5)) / 0.01
    assert 0.15 < change.square().mean().sqrt() < 0.22
    assert (change * weight.grad).sum() < 0


def test_experts_are_updated_one_by_one():
    torch.manual_seed(0)
    grads = torch.randn(4, 32, 16)
    stacked = torch.nn.Parameter(torch.zeros(4, 32, 16))
    stacked.grad = grads
    Muon([stacked], lr=1.0).step()
    alone = torch.nn.Parameter(torch.zeros(32, 16))
    alone.grad = 128 * grads[2]
    Muon([alone], lr=1.0).step()
    assert torch.allclose(stacked[2], alone, atol=0.02)


def test_vectors_are_refused():
    with pytest.raises(ValueError, match=r"params must be matrices .* got the shape \(3,\)"):
        Muon([torch.zeros(3, requires_grad=True)], lr=0.1)
