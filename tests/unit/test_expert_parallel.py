"""What of a divided mixture can be said without ranks: tests/integration has them."""

import pytest
import torch
from torch import nn

from rl.workers.expert_parallel import Held, check


class Experts(nn.Module):
    def __init__(self, count):
        super().__init__()
        self.num_experts = count
        self.gate_up_proj = nn.Parameter(torch.zeros(count, 4, 2))


@pytest.mark.parametrize(
    ("model", "size", "message"),
    [
        (nn.Linear(2, 2), 2, "got 2 and a model without experts"),
        (nn.ModuleList([Experts(8), Experts(6)]), 4, "must divide the number of experts, got 4 and a model with "),
    ],
)
def test_a_model_that_cannot_be_divided_is_refused(model, size, message):
    with pytest.raises(ValueError, match=message):
        check(model, size)


def test_any_divisor_will_do():
    check(nn.ModuleList([Experts(8), Experts(6)]), 2)


def test_halves_of_a_parameter_lie_side_by_side():
    gate, up = torch.arange(12.0).view(2, 3, 2), torch.arange(12.0, 24.0).view(2, 3, 2)
    held = Held(parts=(gate, up))
    assert held.shape == (2, 6, 2)
    assert torch.equal(held.whole(), torch.cat([gate, up], dim=1))
