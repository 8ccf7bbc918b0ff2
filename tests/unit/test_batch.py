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
    rows = packed_rows(micro.rows)
    logits = policy(
        input_ids=ids[None], position_ids=rows.positions[None], packed_rows=rows, logits_to_keep=at, use_cache=False
    ).logits[0]
    return token_logprobs(logits, torch.from_numpy(micro.sampled_T), temperature=1.0)


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


@pytest.mark.parametrize("name", ["starter", "starter_dsv3"])
def test_what_layers_add_up_is_not_rounded_and_matrix_products_stay_bf16(name):
    model = load_policy(str(REPOSITORY / "models" / name), gradient_checkpointing=True).train()
    (micro,) = make_batch(weigh(GROUPS[:1], group_mean), ranks=1, max_tokens=1000).micro_batches[0]
    seen, types = {}, set()

    def keep(module, inputs, output):
        seen.setdefault(module, (inputs[0] if inputs else None, output[0] if isinstance(output, tuple) else output))

    for layer in model.model.layers:
        for module in (layer, layer.self_attn, layer.mlp):
            module.register_forward_hook(keep)
    for module in model.modules():
        if isinstance(module, torch.nn.Linear):
            module.register_forward_hook(lambda _m, inputs, output: types.update({inputs[0].dtype, output.dtype}))
    logprobs(model, micro).sum().backward()
    for layer in model.model.layers:
        before, after = seen[layer]
        added = seen[layer.self_attn][1], seen[layer.mlp][1]
        assert (before.dtype, after.dtype, *(x.dtype for x in added)) == (torch.float32,) * 2 + (torch.bfloat16,) * 2
        torch.testing.assert_close(after - before, added[0].float() + added[1].float(), rtol=0, atol=1e-4)
    assert types == {torch.bfloat16}
    assert all(p.grad is not None for p in model.model.layers[0].self_attn.parameters())


def sharing(rollouts):
    """The same rollouts, all with the first one's prompt."""
    prompt = rollouts[0].segments[0]
    return tuple(replace(r, segments=(prompt, *r.segments[1:])) for r in rollouts)


@pytest.mark.parametrize("max_tokens", [1000, 60])
def test_a_groups_prompt_is_computed_once_and_nothing_changes(policy, max_tokens):
    groups = [replace(g, rollouts=sharing(g.rollouts)) for g in GROUPS]
    sequences = weigh(groups, group_mean)
    batch = make_batch(sequences, ranks=1, max_tokens=max_tokens)
    spared = sum(len(g.rollouts[0].segments[0].token_ids) * (len(g.rollouts) - 1) for g in groups)
    assert batch.tokens - batch.computed_tokens == (spared if max_tokens == 1000 else pytest.approx(spared, abs=12))
    assert sum(len(m.token_ids_N) for m in batch.micro_batches[0]) == batch.computed_tokens
    alone = replace(
        batch, micro_batches=[[make_batch([s], ranks=1, max_tokens=1000).micro_batches[0][0] for s in sequences]]
    )
    for loss in LOSSES.values():
        (value, gradient), (want, wanted) = (loss_and_gradient(policy, b, loss) for b in (batch, alone))
        assert value == pytest.approx(want, rel=1e-5)
        assert torch.linalg.vector_norm(gradient - wanted) <= 1e-5 * torch.linalg.vector_norm(wanted)


def test_supervised_groups_need_no_second_rollout_and_weights_are_shares():
    lesson = replace(GROUPS[0], rollouts=GROUPS[0].rollouts[:1], scores=GROUPS[0].scores[:1], supervised=True, weight=3)
    sequences = weigh([lesson, GROUPS[1], replace(GROUPS[1], weight=0)], group_mean)
    assert [(s.supervised, s.weight) for s in sequences] == [(True, 0.75)] + [(False, pytest.approx(1 / 12))] * 3
    (micro,) = make_batch(sequences, ranks=1, max_tokens=1000).micro_batches[0]
    assert sorted(micro.supervised_S.tolist()) == [False, False, False, True]


def test_views_of_a_rollout_are_one_sequence_and_each_is_computed_on_its_own_context(policy):
    ids = [10 + (7 * t) % 90 for t in range(30)]

    def said(tokens):
        return Segment(token_ids=tokens, from_model=True, sampler_logprobs=[-2.0] * len(tokens))

    first = (Segment(token_ids=ids[:12], from_model=False), said(ids[12:16]))
    second = (Segment(token_ids=ids[:6] + ids[10:18], from_model=False, new_view=True), said(ids[18:24]))
    long, other = replace(rollout(1, 9), segments=first + second), rollout(2, 8)
    parts = [replace(long, segments=view) for view in (first, second)]
    scores = (Score(value=1.0), Score(value=0.0))
    (two,) = weigh([replace(GROUPS[0], rollouts=(long, other), scores=scores)], group_mean)[:1]
    (whole,) = make_batch([two], ranks=1, max_tokens=1000).micro_batches[0]
    assert whole.seq_ids_T.tolist() == [0] * 10
    assert len(whole.rows) == 2
    alone = [make_batch([replace(two, rollout=part)], ranks=1, max_tokens=1000).micro_batches[0][0] for part in parts]
    with torch.no_grad():
        torch.testing.assert_close(
            logprobs(policy, whole), torch.cat([logprobs(policy, m) for m in alone]), rtol=0, atol=2e-5
        )
    batch = make_batch([two], ranks=1, max_tokens=1000)
    assert batch.computed_tokens == len(whole.token_ids_N) == 12 + 4 + 14 + 6
