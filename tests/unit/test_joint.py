"""One iteration's rollouts together: who is ranked, who is left out, and that nobody waits who need not."""

import asyncio
from concurrent.futures import Future, ThreadPoolExecutor
from types import SimpleNamespace

import pytest
from fakes import Answers, Letters
from test_critic import critic, judge, larger

from envs.single_turn import SingleTurn
from rl.collect import Collector, rollout_metrics
from rl.config import KindConfig
from rl.critic_learner import CriticLearner
from rl.errors import EngineLostError, WorkerFailedError
from rl.gate import Gate
from rl.joint import JointCollector
from rl.rollout import RolloutLimits
from rl.types import Fault, Score, Task, WeightVersion
from rl.workers.rollout_pool import RolloutPool

CHECKED = Task(id="sum", kind="math", messages=({"role": "user", "content": "1+1"},), fields={"answer": "2"})
OPEN = Task(id="open", kind="chat", messages=({"role": "user", "content": "Say a number."},))


class Policy(Answers):
    """Says another number each time; judges like ``larger``."""

    def __init__(self, **options):
        super().__init__(self.say, **options)
        self.said = 0

    def say(self, prompt):
        if "|" in prompt:
            return larger(prompt)
        self.said += 1
        return str(self.said % 4)


async def exact(task, rollout):
    assert task.kind == "math", "what the critic ranks never reaches the reward"
    return Score(value=float(rollout.completion == task.fields["answer"]))


def joint(engine, *, weight=1.0, kinds=None, judge_engine=None):
    one = critic(judge(judge_engine or engine, context=400))
    one.guard.weight = weight

    async def score(task, rollout):
        return Score(value=0.0) if one.ranks(task) else await exact(task, rollout)

    def collector(engine, score):
        return Collector(
            engine=engine, chat=Letters(), envs={"single_turn": SingleTurn}, score=score, seed=0,
            limits=RolloutLimits(max_tokens=60, context=400), run=asyncio.run, judge=one.judge,
        )  # fmt: skip

    gate = Gate(engine=engine)
    return JointCollector(
        policy=collector(gate, score),
        critic=one,
        judging=collector(judge_engine or engine, one.score),
        kinds=kinds or {},
        group_size=4,
        temperature=lambda kind, iteration: 1.0,
        gate=gate,
        per_iteration=2,
    )


def test_verified_and_ranked_groups_and_lessons_come_together():
    both = joint(Policy(), weight=0.5, kinds={"chat": KindConfig(group_size=3, weight=2.0)})
    first = both.collect([CHECKED, OPEN], iteration=1)
    assert [(g.task.kind, len(g.rollouts), g.weight) for g in first.groups] == [("math", 4, 1.0), ("chat", 3, 1.0)]
    assert sum(s.value for s in first.groups[0].scores) == 1.0
    assert sorted(s.value for s in first.groups[1].scores) == [0.0, 0.5, 1.0]
    assert first.lessons == []
    second = both.collect([CHECKED, OPEN], iteration=2)
    assert second.lessons
    assert {g.task.kind for g in second.lessons} == {"judge"}
    assert {s.parts["parsed"] for g in second.lessons for s in g.scores} == {1.0}


class Worker:
    """A rollout worker that answers at once and remembers how many requests came together."""

    def __init__(self, engine):
        self.engine, self.together, self.answers = engine, [], []
        self.submit, self.poll = SimpleNamespace(remote=self.take), SimpleNamespace(remote=self.give)

    def take(self, requests):
        self.together.append(len(requests))
        with ThreadPoolExecutor() as other:
            self.answers += [(i, other.submit(asyncio.run, self.engine.sample(r)).result()) for i, r in requests]

    def give(self, _timeout_s):
        answers, self.answers = self.answers, []
        ready = Future()
        ready.set_result(answers)
        return SimpleNamespace(future=lambda: ready)


def test_an_iterations_rollouts_and_lessons_join_the_engines_batch_at_one_step():
    worker = Worker(Policy())
    both = joint(RolloutPool([worker], deadline_s=10), weight=0.0)
    both.collect([CHECKED, CHECKED], iteration=1)
    assert worker.together == [8]
    lessons = both.collect([CHECKED, CHECKED], iteration=2).lessons
    assert worker.together == [8, 8 + sum(len(g.rollouts) for g in lessons)], "else low-order bits depend on timing"


def test_a_critic_without_weight_ranks_nothing():
    none = joint(Policy(), weight=0.0)
    assert [g.task.kind for g in none.collect([CHECKED, OPEN], iteration=1).groups] == ["math"]


def test_a_group_is_judged_while_others_are_still_sampled():
    order = []

    class Slow(Policy):
        async def sample(self, request):
            prompt = Letters().decode(t for t in request.prompt_ids if t != 1)
            if prompt == "1+1":
                await asyncio.sleep(0.2)
            order.append("judged" if "|" in prompt else prompt)
            return await super().sample(request)

    joint(Slow()).collect([CHECKED, OPEN], iteration=1)
    assert order.index("judged") < order.index("1+1")


class Lost(Policy):
    async def sample(self, request):
        raise EngineLostError("rollout worker 1 failed: killed")


def test_rollouts_of_a_lost_engine_leave_their_groups():
    groups = joint(Lost()).collect([CHECKED, OPEN], iteration=1).groups
    assert {s.fault for g in groups for s in g.scores} == {Fault.ENGINE}
    assert rollout_metrics(groups)["fault/engine"] == 8


class Gone(Policy):
    async def sample(self, request):
        raise WorkerFailedError("no engine is left")


def test_the_run_goes_on_without_a_separate_critics_engines():
    alone = joint(Policy(), judge_engine=Gone())
    alone.collect([CHECKED], iteration=1)
    harvest = alone.collect([CHECKED, OPEN], iteration=2)
    assert harvest.lessons == []
    assert [s.fault for s in harvest.groups[1].scores] == [Fault.CRITIC] * 4
    assert {s.fault for s in harvest.groups[0].scores} == {None}
    assert alone.critic.metrics([])["fault/critic/engine"] > 0


def test_it_stops_without_the_policys():
    with pytest.raises(WorkerFailedError, match="no engine is left"):
        joint(Gone()).collect([CHECKED], iteration=1)


class FakeTrainer:
    """Counts updates; its weights are a number."""

    def __init__(self):
        self.version, self.weights = 0, 0

    def update(self, groups):
        self.version, self.weights = self.version + 1, self.weights + 1
        return {"loss/total": 1.0}

    def save(self, folder):
        self.saved = self.weights

    def load(self, folder, *, version):
        self.weights, self.version = self.saved, version


def separate(answers, tmp_path):
    """A separate critic whose judge answers ``answers[weights]`` of the published weights."""
    trainer = FakeTrainer()
    held = {}

    class Publisher:
        def publish(self):
            held["weights"] = trainer.weights
            engine.version = trainer.version
            version = WeightVersion(number=trainer.version, digest="", digests=(), nbytes=0)
            return version, {"weights/version": trainer.version}

    engine = Answers(lambda prompt: answers[held["weights"]](prompt))
    one = critic(judge(engine, context=400))
    learner = CriticLearner(
        critic=one, shared=False, run=asyncio.run, folder=tmp_path, trainer=trainer, publisher=Publisher()
    )
    learner.follow(7)
    return learner


def right_one(prompt):
    return f"verdict: {'A' if prompt.split('|')[1].startswith('1') else 'B'}"


def wrong_one(prompt):
    return f"verdict: {'B' if prompt.split('|')[1].startswith('1') else 'A'}"


def test_a_refresh_that_harms_is_undone_under_a_new_version(tmp_path):
    from test_refresh import GROUPS

    learner = separate([right_one, wrong_one], tmp_path)
    assert learner.watch(GROUPS)["critic/guard/accuracy"] == 1.0
    metrics = learner.learn(GROUPS)
    assert (metrics["critic/refresh/undone"], metrics["critic/refresh/accuracy_change"]) == (1.0, -1.0)
    assert (learner.trainer.weights, learner.trainer.version, learner.critic.judge.newest) == (0, 2, 2)
    assert learner.watch(GROUPS)["critic/guard/accuracy"] == 1.0


def test_a_refresh_that_helps_is_kept(tmp_path):
    from test_refresh import GROUPS

    learner = separate([wrong_one, right_one], tmp_path)
    learner.watch(GROUPS)
    metrics = learner.learn(GROUPS)
    assert (metrics["critic/refresh/undone"], metrics["critic/loss/total"]) == (0.0, 1.0)
    assert (learner.trainer.weights, learner.critic.judge.newest) == (1, 1)
    assert learner.joined([], GROUPS) == []


def test_shared_weights_learn_with_the_policys(tmp_path):
    learner = CriticLearner(critic=critic(judge()), shared=True, run=asyncio.run, folder=tmp_path)
    learner.follow(9)
    assert learner.critic.judge.newest == 9
    assert learner.joined(["group"], ["lesson"]) == ["group", "lesson"]
    assert learner.learn([]) == {}
