"""Advantages and losses against numbers worked out by hand (acceptance ids A1 to A4 and A6)."""

import math

import pytest
import torch

from rl.advantages import group_mean, group_normalised, log_partition
from rl.losses import LossInputs, grpo, k2


def inputs(logprobs, old, seq_ids, advantages, weights):
    return LossInputs(
        logprobs_T=torch.tensor(logprobs, dtype=torch.float64, requires_grad=True),
        old_logprobs_T=torch.tensor(old, dtype=torch.float64),
        seq_ids_T=torch.tensor(seq_ids),
        advantages_S=torch.tensor(advantages, dtype=torch.float64),
        weights_S=torch.tensor(weights, dtype=torch.float64),
    )


# Two sequences of 2 and 1 tokens; log-ratios: (-0.5 + 0.1) + (-1.0 + 1.5) = 0.1 and -2.0 + 1.8 = -0.2.
EXAMPLE = inputs([-0.5, -1.0, -2.0], [-0.1, -1.5, -1.8], [0, 0, 1], [0.5, -0.5], [0.5, 0.5])


def test_k2_as_printed():
    # tau 0.5: residuals 0.5 - 0.05 = 0.45 and -0.5 + 0.1 = -0.4; mean square (0.2025 + 0.16) / 2.
    assert k2(EXAMPLE, tau=0.5, scale="printed").loss.item() == pytest.approx(0.18125, abs=1e-9)


def test_k2_scaled_is_printed_over_two_tau():
    printed = k2(EXAMPLE, tau=0.5, scale="printed").loss
    assert k2(EXAMPLE, tau=0.5).loss.item() == pytest.approx(printed.item() / (2 * 0.5), abs=1e-9)


@pytest.mark.parametrize(("scale", "factor"), [("printed", 2 * 0.5), ("gradient", 1.0)])
def test_k2_gradient_is_k15_equation_3(scale, factor):
    # -dL/dlogprob_t = factor * w_i (A_i - tau l_i) for each token of sequence i.
    (gradient,) = torch.autograd.grad(k2(EXAMPLE, tau=0.5, scale=scale).loss, EXAMPLE.logprobs_T)
    expected = -factor * 0.5 * torch.tensor([0.45, 0.45, -0.4], dtype=torch.float64)
    torch.testing.assert_close(gradient, expected, atol=1e-9, rtol=0)


@pytest.mark.parametrize("tau", [0.01, 0.1, 1.0, 10.0])
def test_k2_on_policy_gradient_is_reinforce(tau):
    on_policy = inputs([-0.5, -1.0, -2.0], [-0.5, -1.0, -2.0], [0, 0, 1], [0.5, -0.5], [0.5, 0.5])
    (gradient,) = torch.autograd.grad(k2(on_policy, tau=tau).loss, on_policy.logprobs_T)
    torch.testing.assert_close(gradient, torch.tensor([-0.25, -0.25, 0.25], dtype=torch.float64))


def test_equal_rewards_give_no_gradient_on_policy():
    advantages = group_mean(torch.tensor([1.0, 1.0, 1.0], dtype=torch.float64)).tolist()
    same = inputs([-1.0, -2.0, -3.0], [-1.0, -2.0, -3.0], [0, 1, 2], advantages, [1 / 3] * 3)
    (gradient,) = torch.autograd.grad(k2(same, tau=0.1).loss, same.logprobs_T)
    assert gradient.abs().max().item() == 0.0


def test_k2_sums_over_tokens_without_length_normalisation():
    # Doubling every token's log-ratio doubles the sequence's, whatever the length.
    longer = inputs([-0.5] * 4, [-0.6] * 4, [0] * 4, [0.0], [1.0])
    assert k2(longer, tau=1.0, scale="printed").loss.item() == pytest.approx(0.4**2)


def test_k2_rejects_tau_zero():
    with pytest.raises(ValueError, match="tau must be positive, got 0"):
        k2(EXAMPLE, tau=0)


def test_grpo_clips_by_hand():
    # Sequence 0: ratios e^0.5 (clipped to 1.2, A=1) and e^-0.1; sequence 1: ratio e^-1 (clipped to 0.8, A=-1).
    example = inputs([0.5, -0.1, -1.0], [0.0, 0.0, 0.0], [0, 0, 1], [1.0, -1.0], [0.5, 0.5])
    expected = -(0.5 * (1.2 + math.exp(-0.1)) / 2 + 0.5 * min(-math.exp(-1), -0.8))
    assert grpo(example).loss.item() == pytest.approx(expected, abs=1e-9)
    assert grpo(example).metrics["loss/clipped_share"].item() == pytest.approx(0.25 + 0.5)


def test_group_mean_includes_the_sample_and_does_not_divide():
    torch.testing.assert_close(
        group_mean(torch.tensor([1.0, 0.0, 0.0, 0.0])), torch.tensor([0.75, -0.25, -0.25, -0.25])
    )


def test_log_partition_baseline():
    # 2 successes in 8: 0.357 at tau 1, 0.861 at 0.1, 0.986 at 0.01 (K1.5's estimator, worked out).
    rewards = torch.tensor([1.0] * 2 + [0.0] * 6, dtype=torch.float64)
    for tau, baseline in ((1.0, 0.357), (0.1, 0.861), (0.01, 0.986)):
        assert (rewards - log_partition(rewards, tau=tau))[0].item() == pytest.approx(baseline, abs=5e-4)
    mean, largest = rewards.mean().item(), 1.0
    assert (rewards - log_partition(rewards, tau=1e6))[0].item() == pytest.approx(mean, abs=1e-5)
    assert (rewards - log_partition(rewards, tau=1e-6))[0].item() == pytest.approx(largest, abs=1e-5)


def test_group_normalised():
    torch.testing.assert_close(group_normalised(torch.tensor([1.0, 0.0]), epsilon=0.0), torch.tensor([1.0, -1.0]))
    assert group_normalised(torch.tensor([1.0, 1.0])).abs().max().item() == 0.0
