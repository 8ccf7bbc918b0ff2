"""Real DeepSpeed ranks: the ZeRO stage and the number of ranks change where things lie, not what is learnt."""

from contextlib import contextmanager

import pytest

from rl.compose import REPOSITORY, load_config
from rl.prepare import prepare
from rl.procedural import problem_at
from rl.types import EndReason, Rollout, RolloutGroup, Score, Segment, Task
from rl.workers import placement
from rl.workers.trainer_group import TrainerGroup
from rl.workers.trainer_worker import TrainerOptions

UPDATES = 20


def groups(version, chat):
    """32 problems, each with two right and two wrong replies of the kinds that the starter gives."""
    made = []
    for number in range(32):
        problem = problem_at(number, families=["add", "subtract", "multiply"], seed=1, held_out=False)
        prompt = chat.prompt_ids([{"role": "user", "content": problem.question}])
        wrong = str(int(problem.answer) + 1)
        replies = [f"{problem.steps}\nanswer: {problem.answer}", f"answer: {problem.answer}",
                   f"{problem.steps}\nanswer: {wrong}", f"answer: {wrong}"]  # fmt: skip
        rollouts = []
        for reply in replies:
            ids = [*chat.tokenizer.encode(reply), *chat.stop_token_ids]
            segments = (
                Segment(token_ids=prompt, from_model=False),
                Segment(token_ids=ids, from_model=True, sampler_logprobs=[-1.0] * len(ids), policy_version=version),
            )
            rollouts.append(Rollout(task_id="t", segments=segments, messages=(), end_reason=EndReason.STOP))
        task = Task(id=str(number), kind="math", messages=())
        scores = tuple(Score(value=value) for value in (1.0, 1.0, 0.0, 0.0))
        made.append(RolloutGroup(task=task, rollouts=tuple(rollouts), scores=scores))
    return made


@contextmanager
def trainer(zero_stage, ranks, expert_parallel=1):
    """A trainer of the starter, two updates per iteration so that the log-ratio counts, and the chat to prompt it."""
    config = load_config([])
    parts = prepare(config)
    placement.connect(config.cluster)
    try:
        actors, up = placement.start_trainer_workers(
            TrainerOptions(
                model=str(REPOSITORY / "models/starter"), ranks=ranks, zero_stage=zero_stage,
                expert_parallel=expert_parallel, learning_rate=1e-4, adam_betas=(0.9, 0.95), weight_decay=0.0,
                max_grad_norm=1.0, gradient_checkpointing=False, loss=parts.loss, importance_cap=None, seed=0,
                threads=1,
            ),
            config.cluster,
        )  # fmt: skip
        placement.wait_started(up, config.cluster)
        yield TrainerGroup(
            actors, advantage=parts.advantage, rate=lambda _step: 1e-4, updates_per_iteration=2, micro_batch_tokens=512,
            deadline_s=120,
        ), parts.chat  # fmt: skip
    finally:
        placement.disconnect()


def curve(*layout):
    """Loss and policy drift of each of 20 updates."""
    with trainer(*layout) as (learner, chat):
        records = [learner.update(groups(learner.version, chat)) for _ in range(UPDATES // 2)]
        assert learner.version == UPDATES
    return [(r["loss/total"], r["rollout/logprob_gap/mean"]) for r in records]


@pytest.fixture(scope="module")
def reference():
    return curve(1, 1)


def test_the_reference_moves(reference):
    assert abs(reference[0][1] - reference[-1][1]) > 0.1, "a curve that stands still would prove nothing"


@pytest.mark.parametrize(
    ("zero_stage", "ranks", "expert_parallel"),
    [(1, 2, 1), (2, 1, 1), (2, 2, 1), (3, 1, 1), (3, 2, 1), (1, 2, 2), (2, 2, 2), (3, 2, 2)],
)
def test_same_curve(reference, zero_stage, ranks, expert_parallel):
    own = curve(zero_stage, ranks, expert_parallel)
    print(zero_stage, ranks, expert_parallel, max(abs(a[0] - b[0]) for a, b in zip(own, reference, strict=True)))
    for got, wanted in zip(own, reference, strict=True):
        assert got[0] == pytest.approx(wanted[0], abs=1e-2)
        assert got[1] == pytest.approx(wanted[1], rel=1e-2)


@pytest.mark.parametrize(("zero_stage", "expert_parallel"), [(3, 1), (1, 2), (3, 2)])
def test_a_saved_trainer_goes_on_as_if_it_had_not_ended(zero_stage, expert_parallel, tmp_path):
    layout = zero_stage, 2, expert_parallel
    with trainer(*layout) as (learner, chat):
        learner.update(groups(learner.version, chat))
        learner.save(tmp_path)
        ours = learner.update(groups(learner.version, chat))
    with trainer(*layout) as (learner, chat):
        learner.load(tmp_path, version=2)
        theirs = learner.update(groups(learner.version, chat))
        assert learner.version == 4
    assert ours["optim/grad_norm"] > 0
    for name in ("loss/total", "optim/grad_norm", "rollout/logprob_gap/mean"):
        assert theirs[name] == ours[name]
