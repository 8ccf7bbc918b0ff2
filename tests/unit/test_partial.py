"""Rollouts that outlive an iteration: paused, resumed, restarted with the run, or ahead of training."""

import asyncio
import time
from dataclasses import replace

import pytest
import torch
from fakes import Letters

from envs.base import Opening, Step
from envs.single_turn import SingleTurn
from rl.collect import Collector, rollout_metrics
from rl.gate import Gate
from rl.in_flight import group_from, record_of
from rl.joint import JointCollector
from rl.losses import LossInputs, grpo, importance, k2
from rl.rollout import Episode, RolloutLimits
from rl.staleness import learnable
from rl.types import EndReason, Rollout, RolloutGroup, Sample, Score, Segment, Task

TICK_S = 0.002


class Typist:
    """An engine that types a task's letter as often as its text says, a token a tick, and can be interrupted."""

    def __init__(self):
        self.version = 1
        self.requests = []
        self._stop = set()

    async def sample(self, request):
        self.requests.append(request)
        prompt = list(request.prompt_ids)
        asked, said = prompt[: prompt.index(1)], prompt[prompt.index(1) + 1 :]
        want = int("".join(chr(t) for t in asked if chr(t).isdigit())) - len(said)
        ids = []
        while len(ids) < request.max_tokens and request.session not in self._stop:
            await asyncio.sleep(TICK_S)
            ids.append(ord("x") if len(ids) < want else 0)
            if not ids[-1]:
                break
        interrupted = request.session in self._stop
        self._stop.discard(request.session)
        return Sample(
            token_ids=ids, logprobs=[-0.5] * len(ids), stopped=bool(ids) and ids[-1] == 0, policy_version=self.version,
            generate_s=0.0, interrupted=interrupted and not (ids and ids[-1] == 0),
        )  # fmt: skip

    async def interrupt(self, sessions):
        self._stop |= sessions


def task(length, number=0):
    return Task(id=f"{length}-{number}", kind="math", messages=({"role": "user", "content": str(length)},))


async def score(_task, rollout):
    return Score(value=float(len(rollout.completion)))


def joint(engine, runner, *, allowance=None, iteration_s=None, ahead=0, per_iteration=4, group_size=2, envs=None):
    gate = Gate(engine=engine, allowance=allowance)
    policy = Collector(
        engine=gate, chat=Letters(), envs=envs or {"single_turn": SingleTurn}, score=score, seed=0, run=runner.run,
        limits=RolloutLimits(max_tokens=400, context=500),
    )  # fmt: skip
    return JointCollector(
        policy=policy, critic=None, judging=None, kinds={}, group_size=group_size, temperature=lambda _kind, _i: 1.0,
        gate=gate, per_iteration=per_iteration, iteration_s=iteration_s, ahead=ahead,
    )  # fmt: skip


@pytest.fixture
def runner():
    with asyncio.Runner() as one:
        yield one


def test_an_allowance_pauses_long_rollouts_and_new_weights_finish_them(runner):
    engine = Typist()
    both = joint(engine, runner, allowance=20, per_iteration=2)
    first = both.collect([task(5), task(50)], iteration=1)
    assert [g.task.id for g in first.groups] == ["5-0"]
    assert first.pending == 1
    assert both.room == 1
    engine.version = 2
    assert both.collect([task(6)], iteration=2).pending == 1
    engine.version = 3
    third = both.collect([task(7)], iteration=3)
    (long,) = [g for g in third.groups if g.task.id == "50-0"]
    assert third.pending == 0
    for rollout in long.rollouts:
        assert rollout.completion == "x" * 50
        said = [s for s in rollout.segments if s.from_model]
        assert [(len(s.token_ids), s.policy_version) for s in said] == [(20, 1), (20, 2), (11, 3)]
        assert rollout.end_reason is EndReason.STOP
    prefixes = [list(r.prompt_ids) for r in engine.requests if r.session == "train/1/1/0"]
    assert [p[:-20] for p in prefixes[1:]] == prefixes[:-1], "it goes on from exactly the tokens that it had"


class Uneven(Typist):
    """Types a group's second rollout ten times as slowly, and ends it after five letters."""

    async def sample(self, request):
        if request.session.endswith("/1"):
            await asyncio.sleep(30 * TICK_S)
            return Sample(
                token_ids=[*b"xxxx", 0], logprobs=[-0.5] * 5, stopped=True, policy_version=self.version, generate_s=0.0
            )
        return await super().sample(request)


def test_an_iteration_ends_although_the_last_to_move_ends_and_does_not_wait(runner):
    both = joint(Uneven(), runner, allowance=10, per_iteration=1)
    first = runner.run(asyncio.wait_for(both._collect([task(50)], 1), 5))
    assert (first.groups, first.pending) == ([], 1)
    (running,) = both._running.values()
    assert (sorted(running.group.episodes), sorted(running.group.ended)) == ([0], [1])


def test_time_pauses_what_has_not_ended(runner):
    engine = Typist()
    both = joint(engine, runner, iteration_s=0.1)
    started = time.monotonic()
    first = both.collect([task(5), task(300)], iteration=1)
    assert time.monotonic() - started < 0.25
    assert [g.task.id for g in first.groups] == ["5-0"]
    said = [len(e.segments[-1].token_ids) for r in both._running.values() for e in r.group.episodes.values()]
    assert all(10 < count < 60 for count in said), "nothing that was sampled is lost"
    runner.run(asyncio.sleep(0.05))
    assert said == [len(e.segments[-1].token_ids) for r in both._running.values() for e in r.group.episodes.values()], (
        "a paused rollout stands still"
    )


class Guide:
    """Three turns; says how many there were, and whether it was born again."""

    born = 0

    def __init__(self):
        self.turns = 0
        Guide.born += 1

    async def reset(self, task):
        return Opening(messages=task.messages)

    async def step(self, message):
        self.turns += 1
        if self.turns == 3:
            return Step(end=EndReason.ENV_END)
        return Step(messages=[{"role": "user", "content": f"turn {self.turns}"}])

    async def close(self):
        pass


class Forgetful(Guide):
    async def step(self, message):
        step = await super().step(message)
        return replace(step, messages=[{**m, "content": f"{m['content']} {Guide.born}"} for m in step.messages])


class Turns(Typist):
    """Types ten letters a turn."""

    async def sample(self, request):
        prompt = list(request.prompt_ids)
        last = len(prompt) - 1 - prompt[::-1].index(1)
        return await super().sample(replace(request, prompt_ids=[ord("1"), ord("0"), 1, *prompt[last + 1 :]]))


KEPT = []
"""Collectors of broken-off runs, so that their rollouts are not collected as garbage while they wait."""


def restarted(both, folder, engine, runner, envs):
    KEPT.append(both)
    both.save(folder)
    again = joint(engine, runner, allowance=8, per_iteration=1, envs=envs)
    again.load(folder)
    return again


def test_a_restart_in_the_middle_goes_on_with_the_same_tokens_and_a_new_environment(tmp_path, runner):
    envs = {"single_turn": Guide}
    whole = joint(Turns(), runner, per_iteration=1, envs=envs).collect([task(0)], iteration=1).groups[0]
    engine = Turns()
    both = joint(engine, runner, allowance=8, per_iteration=1, envs=envs)
    for iteration in range(1, 9):
        engine.version = iteration
        harvest = both.collect([task(0)] * both.room if iteration == 1 else [], iteration=iteration)
        if harvest.groups:
            break
        before = [s for r in both._running.values() for e in r.group.episodes.values() for s in e.segments]
        both = restarted(both, tmp_path, engine, runner, envs)
        after = [s for group in both._resumed for e in group.episodes.values() for s in e.segments]
        assert before == after
    (group,) = harvest.groups
    assert [r.token_ids for r in group.rollouts] == [r.token_ids for r in whole.rollouts]
    assert [list(r.messages) for r in group.rollouts] == [list(r.messages) for r in whole.rollouts]
    assert {s.policy_version for r in group.rollouts for s in r.segments if s.from_model} == set(
        range(1, iteration + 1)
    )


def test_an_environment_that_does_not_repeat_itself_is_a_fault(tmp_path, runner):
    engine, envs = Turns(), {"single_turn": Forgetful}
    both = joint(engine, runner, allowance=16, per_iteration=1, envs=envs)
    both.collect([task(0)], iteration=1)
    harvest = restarted(both, tmp_path, engine, runner, envs).collect([], iteration=2)
    (group,) = harvest.groups
    assert {s.fault for s in group.scores} == {"env"}
    assert "said something else" in group.rollouts[0].error


def test_ended_rollouts_of_an_unfinished_group_are_kept_and_scored_again(runner):
    both = joint(Typist(), runner)
    both.gate.open()
    group = both.policy.begin(task(3), size=2, temperature=0.7, stream="s")
    group.ended[1] = runner.run(group.episodes.pop(1).run())
    again = group_from(record_of(group), both.policy)
    assert again.ended == group.ended
    assert again.episodes.keys() == {0}
    assert [s.value for s in runner.run(both.policy.finish(again)).scores] == [3.0, 3.0]


def test_ahead_of_training_rollouts_go_on_while_the_trainer_works(runner):
    engine = Typist()
    both = joint(engine, runner, ahead=1, per_iteration=2)
    assert both.room == 4
    first = both.collect([task(5), task(80), task(6), task(81)], iteration=1)
    assert [g.task.id for g in first.groups] == ["5-0", "6-0"]
    assert first.pending == both.room == 2

    def work():
        time.sleep(0.3)
        return 7

    assert both.beside(work) == 7
    engine.version = 2
    second = both.collect([task(7), task(8)], iteration=2)
    assert [g.task.id for g in second.groups] == ["80-0", "81-0"], "they ended while the trainer worked"
    assert second.pending == 2


def test_without_limits_nothing_is_pending(runner):
    both = joint(Typist(), runner)
    assert both.collect([task(3), task(40)], iteration=1).pending == 0
    assert both.beside(lambda: 3) == 3


def test_the_budget_is_exact_however_often_a_rollout_is_paused(runner):
    engine = Typist()
    both = joint(engine, runner, allowance=7, per_iteration=1)
    both.policy.limits = RolloutLimits(max_tokens=30, context=500)
    iteration, groups = 0, []
    while not groups:
        iteration += 1
        groups = both.collect([task(100)] if iteration == 1 else [], iteration=iteration).groups
    assert {(r.completion_tokens, r.end_reason) for r in groups[0].rollouts} == {(30, EndReason.BUDGET)}


def test_a_turn_of_many_has_a_cap_and_its_environment_sees_what_there_is(runner):
    env = Guide()
    episode = Episode(
        name="e", task=task(0), make_env=lambda: env, engine=Turns(), chat=Letters(), temperature=1.0, seed=0,
        limits=RolloutLimits(max_tokens=100, context=500, turn_tokens=4),
    )  # fmt: skip
    rollout = runner.run(episode.run())
    assert rollout.end_reason is EndReason.ENV_END
    assert [m["content"] for m in rollout.messages] == ["xxxx", "turn 1", "xxxx", "turn 2", "xxxx"]
    ends = [s.token_ids for s in rollout.segments if not s.from_model and list(s.token_ids) == [0]]
    assert len(ends) == 2, "what ends a turn that the policy did not end is not learnt, and the last word ends it all"


class Hung(SingleTurn):
    async def step(self, message):
        await asyncio.sleep(60)


class Sticky(SingleTurn):
    async def close(self):
        raise RuntimeError("no")


class Mute(SingleTurn):
    async def step(self, message):
        return Step()


class Garbled(SingleTurn):
    async def step(self, message):
        return Step(messages=[{"role": "tool", "content": None}])


@pytest.mark.parametrize(
    ("env", "error"),
    [(Hung, "no answer within 0.05 s"), (Mute, "say something or end"), (Garbled, "must have role and content")],
)
def test_a_hung_or_silent_environment_is_a_recorded_fault(runner, env, error):
    limits = RolloutLimits(max_tokens=9, context=99, env_deadline_s=0.05)
    episode = Episode(
        name="", task=task(1), make_env=env, engine=Typist(), chat=Letters(), limits=limits, temperature=1.0, seed=0
    )
    rollout = runner.run(episode.run())
    assert rollout.end_reason is EndReason.ENV_ERROR
    assert error in rollout.error


def test_an_environment_that_does_not_close_does_not_cost_the_rollout(runner):
    limits = RolloutLimits(max_tokens=9, context=99)
    episode = Episode(
        name="", task=task(1), make_env=Sticky, engine=Typist(), chat=Letters(), limits=limits, temperature=1.0, seed=0
    )
    rollout = runner.run(episode.run())
    assert rollout.end_reason is EndReason.STOP
    assert "did not close" in rollout.error
    counted = rollout_metrics([group(rollout)])
    assert (counted["fault/env_close"], counted["fault/env"]) == (1.0, 0.0)


def rollout(*pieces):
    segments = [Segment(token_ids=(1, 2), from_model=False)]
    segments += [
        Segment(token_ids=(3,) * n, from_model=True, sampler_logprobs=(-1.0,) * n, policy_version=v) for n, v in pieces
    ]
    return Rollout(task_id="t", segments=tuple(segments), messages=(), end_reason=EndReason.STOP)


def group(*rollouts):
    return RolloutGroup(task=task(1), rollouts=rollouts, scores=(Score(value=0.0),) * len(rollouts))


def test_only_segments_of_young_enough_weights_are_learnt():
    groups = [group(rollout((4, 1), (6, 3)), rollout((5, 3)))]
    (fresh,), metrics = learnable(groups, version=3, oldest=3)
    assert [r.completion_tokens for r in fresh.rollouts] == [6, 5]
    assert fresh.rollouts[0].token_ids == groups[0].rollouts[0].token_ids
    assert fresh.rollouts[0].loss_mask == [False] * 6 + [True] * 6
    assert fresh.rollouts[1] is groups[0].rollouts[1]
    assert learnable(groups, version=3, oldest=1)[0] == groups
    assert metrics == {
        "staleness/mean": 8 / 15, "staleness/max": 2.0, "staleness/left_out": 4 / 15,
    }  # fmt: skip


def test_importance_weighs_gradients_and_leaves_values_alone():
    old, sampler = torch.tensor([-1.0, -1.0, -1.0]), torch.tensor([-1.0, -2.0, -0.5])
    weights = importance(old, sampler, cap=2.0)
    assert torch.allclose(weights, torch.tensor([1.0, 2.0, torch.tensor(-0.5).exp().item()]))
    for loss, options in ((k2, {"tau": 0.5}), (grpo, {})):
        grads, values = [], []
        for correction in (None, torch.ones(3), weights):
            new = old.clone().requires_grad_()
            outputs = loss(
                LossInputs(
                    logprobs_T=new, old_logprobs_T=old, seq_ids_T=torch.tensor([0, 0, 1]),
                    advantages_S=torch.tensor([1.0, -1.0]), weights_S=torch.tensor([0.5, 0.5]),
                    correction_T=correction,
                ),
                **options,
            )  # fmt: skip
            outputs.loss.backward()
            grads.append(new.grad)
            values.append(float(outputs.loss.detach()))
        assert torch.allclose(grads[0], grads[1])
        assert torch.allclose(grads[2], weights * grads[0])
        assert values[0] == pytest.approx(values[2])
