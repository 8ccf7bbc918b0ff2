"""Batches on a real policy: neither packing nor splitting changes logprobs, loss or gradient (A4)."""

from dataclasses import replace
from functools import partial

import pytest
import torch

from rl.advantages import group_mean
from rl.attention import packed_rows
from rl.batch import make_batch, weigh
from rl.compose import REPOSITORY
from rl.logprobs import token_logprobs
from rl.losses import LossInputs, grpo, k2
from rl.precision import fp32_arithmetic
from rl.types import EndReason, Fault, Rollout, RolloutGroup, Score, Segment, Task
from rl.workers.trainer_worker import load_policy

LOSSES = {"k2": partial(k2, tau=0.3), "grpo": grpo}


@pytest.fixture(scope="module", params=["starter", "starter_dsv3"])
def policy(request):
    model = load_policy(str(REPOSITORY / "models" / request.param), gradient_checkpointing=False)
    model.set_experts_implementation("eager")
    return model.float()


def rollout(number, length):
    ids = [10 + (number * 7 + 3 * t) % 90 for t in range(length)]
    half = length // 2
    return Rollout(
        task_id="t",
        segments=(
            Segment(token_ids=ids[:half], from_model=False),
            Segment(token_ids=ids[half:-2], from_model=True, sampler_logprobs=[-2.0] * (length - half - 2)),
            Segment(token_ids=ids[-2:], from_model=False),
        ),
        messages=(),
        end_reason=EndReason.STOP,
    )


def group(number, lengths):
    return RolloutGroup(
        task=Task(id=str(number), kind="math", messages=()),
        rollouts=tuple(rollout(number * 10 + k, n) for k, n in enumerate(lengths)),
        scores=tuple(Score(value=float(k == 0)) for k in range(len(lengths))),
    )


GROUPS = [group(0, [9, 14, 30]), group(1, [12, 8, 21])]


def logprobs(policy, micro):
    ids, at = torch.from_numpy(micro.token_ids_N), torch.from_numpy(micro.predict_at_T)
    lengths = micro.lengths_S.tolist()
    logits = policy(
        input_ids=ids[None],
        position_ids=torch.cat([torch.arange(n) for n in lengths])[None],
        packed_rows=packed_rows(lengths),
        logits_to_keep=at,
        use_cache=False,
    ).logits[0]
    return token_logprobs(logits, ids[at + 1], temperature=1.0)


def loss_and_gradient(policy, batch, loss):
    policy.zero_grad()
    total = 0.0
    for micro in (m for rank in batch.micro_batches for m in rank):
        new = logprobs(policy, micro)
        value = loss(
            LossInputs(
                logprobs_T=new,
                old_logprobs_T=torch.from_numpy(micro.sampler_logprobs_T),
                seq_ids_T=torch.from_numpy(micro.seq_ids_T),
                advantages_S=torch.from_numpy(micro.advantages_S),
                weights_S=torch.from_numpy(micro.weights_S),
            )
        ).loss
        value.backward()
        total += value.item()
    return total, torch.cat([p.grad.flatten() for p in policy.parameters() if p.grad is not None])


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize(("ranks", "max_tokens"), [(1, 30), (2, 60), (3, 30)])
def test_loss_and_gradient_do_not_depend_on_the_split(policy, name, ranks, max_tokens):
    sequences = weigh(GROUPS, group_mean)
    whole = loss_and_gradient(policy, make_batch(sequences, ranks=1, max_tokens=1000), LOSSES[name])
    split = make_batch(sequences, ranks=ranks, max_tokens=max_tokens)
    assert sum(len(rank) for rank in split.micro_batches) > 1
    loss, gradient = loss_and_gradient(policy, split, LOSSES[name])
    assert loss == pytest.approx(whole[0], rel=1e-5)
    assert torch.linalg.vector_norm(gradient - whole[1]) <= 1e-5 * torch.linalg.vector_norm(whole[1])


def test_packing_does_not_change_logprobs(policy):
    sequences = weigh(GROUPS, group_mean)
    (together,) = make_batch(sequences, ranks=1, max_tokens=1000).micro_batches[0]
    with torch.no_grad():
        packed = logprobs(policy, together)
        order = sorted(range(len(sequences)), key=lambda i: (-len(sequences[i].rollout.token_ids), i))
        alone = [make_batch([sequences[i]], ranks=1, max_tokens=1000).micro_batches[0][0] for i in order]
        torch.testing.assert_close(packed, torch.cat([logprobs(policy, m) for m in alone]), rtol=0, atol=2e-5)


def test_environment_tokens_carry_no_loss(policy):
    def changed(r):
        last = replace(r.segments[2], token_ids=[50, 51])
        return replace(r, segments=(*r.segments[:2], last))

    other = [replace(g, rollouts=tuple(map(changed, g.rollouts))) for g in GROUPS]
    values = [
        loss_and_gradient(policy, make_batch(weigh(groups, group_mean), ranks=1, max_tokens=1000), LOSSES["k2"])[0]
        for groups in (GROUPS, other)
    ]
    assert values[0] == pytest.approx(values[1], rel=1e-6)


def test_failed_rollouts_leave_their_group():
    scores = (Score(value=1.0), Score.failed(Fault.EXCEPTION, "broken"), Score(value=0.0))
    one = replace(GROUPS[0], scores=scores)
    none = replace(GROUPS[1], scores=(Score(value=1.0), *[Score.failed(Fault.EXCEPTION, "broken")] * 2))
    sequences = weigh([one, none], group_mean)
    assert [(s.advantage, s.weight) for s in sequences] == [(0.5, 0.5), (-0.5, 0.5)]


def test_fp32_arithmetic_uses_the_rounded_weights_and_leaves_them():
    model = load_policy(str(REPOSITORY / "models/starter"), gradient_checkpointing=False).eval()
    (micro,) = make_batch(weigh(GROUPS[:1], group_mean), ranks=1, max_tokens=1000).micro_batches[0]
    with torch.no_grad():
        before = logprobs(model, micro)
        with fp32_arithmetic(model):
            exact = logprobs(model, micro)
        assert torch.equal(logprobs(model, micro), before)
        torch.testing.assert_close(exact, logprobs(model.float(), micro), rtol=0, atol=1e-5)
    assert not torch.equal(exact, before)
