"""Wrong settings are answered in one line that says what to write; every file in conf/ loads."""

import pytest

from rl.compose import CONF, load_config, option_paths
from rl.prepare import prepare
from rl.validation import validate
from scripts.cli import main

GROUPS = [
    f"{folder.name}={path.stem}" for folder in CONF.iterdir() if folder.is_dir() for path in folder.glob("*.yaml")
]


@pytest.mark.parametrize("choice", GROUPS)
def test_every_group_file_loads(choice):
    name = choice.split("=")[1]
    extra = {
        "jsonl": ["tasks.train.path=a"],
        "saved": ["tasks.train.path=a", "tasks.held_out.path=b"],
        "plugin": ["reward._target_=c"],
    }
    validate(load_config([choice, *extra.get(name, [])]))


def test_quickstart_prepares():
    config = load_config([])
    parts = prepare(config)
    assert len(parts.held_out) == config.evaluation.tasks
    assert {task.kind for task in parts.held_out} == {"math", "code", "tools"}


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("iteratons=3", "iteratons is not a setting; did you mean iterations?"),
        ("rollout.grop_size=4", "did you mean rollout.group_size?"),
        ("iterations=many", "iterations"),
        ("algorithm=k3", "algorithm=k3 does not exist; choose one of grpo, k2, k2_log_z"),
        ("algorithm.loss.taau=1", "algorithm.loss.taau is not a setting"),
        ("algorithm.loss.tau=-1", "algorithm.loss.tau must be positive, got -1"),
        ("rollout.group_size=1", "rollout.group_size must be at least 2"),
        ("rollout.max_tokens=600", "rollout.max_tokens must be below model.context (512)"),
        ("trainer.zero_stage=4", "trainer.zero_stage must be 1, 2 or 3, got 4"),
        ("trainer.expert_parallel=3", "trainer.expert_parallel must be a divisor of trainer.ranks (2), got 3"),
        ("trainer.schedule=square", "trainer.schedule must be one of constant, linear, cosine, got square"),
        ("trainer.micro_batch_tokens=100", "trainer.micro_batch_tokens must be at least model.context"),
        ("algorithm.updates_per_iteration=100", "must not exceed tasks.per_iteration"),
        ("model.path=/nowhere", "model.path must be a model folder or name, got /nowhere"),
        (
            "model.context=9999 trainer.micro_batch_tokens=9999",
            "model.context must not exceed what the model was built for (4096), got 9999",
        ),
        ("reward._target_=rewards.nothing.here", "reward: _target_ must name something"),
        ("reward=plugin", "reward._target_"),
        ("reward=math reward.markr=x", "reward.markr is not a setting"),
        ("reward=math +reward.markr=x", "reward: math_answer must take these settings: got an unexpected keyword"),
        (
            "tasks=arithmetic reward=math reward.extract=[boxd]",
            "extract must list some of boxed, marker, last, got ['boxd']",
        ),
        ("reward=plugin reward._target_=unheard", "must be a dotted path or an installed plugin"),
        ("reward.parts.code.kinds=[prose]", "reward.parts must serve its kind 'code', and no part does"),
        ("tasks=arithmetic reward=code", "the reward needs the fields tests, but the task has answer"),
        ("reward_pool.workers=0", "reward_pool.workers must be null or at least 1, got 0"),
        ("tasks=arithmetic tasks.train.families=[sums]", "not a setting"),
        ("tasks=arithmetic +tasks.train.families=[sums]", "tasks.train: families must name some of"),
        ("critic.mode=nobody", "critic.mode"),
        ("critic.kinds=[chat,math]", "tasks.held_out must have a verifier"),
        ("critic.mode=none", "critic.kinds must be empty without a critic"),
        ("critic.max_tokens=512", "critic.max_tokens must be below model.context (512)"),
        ("critic.rubrics=[quickstart,nowhere.yaml]", "nowhere.yaml"),
        ("critic.rubrics=[human]", "critic.rubrics must hold a rubric for task"),
        ("critic.pairs.degree=0", "degree must be at least 1, got 0"),
        ("critic.refresh.group_size=1", "critic.refresh.group_size must be at least 2"),
        ("+critic.refresh.objective=guess", "critic.refresh.objective must be rl or supervised, got 'guess'"),
        ("critic.guard.floor=0.9", "the lower one first, got 0.9, 0.85"),
        ("critic.workers=0", "critic.workers must be at least 1"),
        ("critic.temperature=-1", "critic.temperature must not be negative"),
        ("kinds.chat.group_size=1", "kinds.chat.group_size must be null or at least 2, got 1"),
        ("+kinds.chat.groupsize=4", "kinds.chat must only have group_size, max_tokens, weight"),
        ("+kinds.chat.last_temperature=0", "kinds.chat.last_temperature must be null or positive, got 0"),
        ("rollout.turn_tokens=0", "rollout.turn_tokens must be null or at least 1, got 0"),
        ("rollout.repetitions=1", "rollout.repetitions must be null or at least 2, got 1"),
        ("rollout.spare=-1", "rollout.spare must not be negative, got -1"),
        ("rollout.keep_outputs=2", "rollout.turn_tokens must be set with rollout.keep_outputs"),
        ("budget.penalty=-1", "budget.penalty must not be negative, got -1"),
        ("budget.policy._target_=rl.budget.Guess", "budget.policy"),
        (
            "budget.policy._target_=rl.budget.Learned +budget.policy.percentile=0",
            "percentile must be above 0 and up to 100",
        ),
        ("env_pool.services=-1", "env_pool.services must not be negative, got -1"),
        ("env_pool.concurrency=0", "env_pool.concurrency must be at least 1, got 0"),
        ("+env_pool.limits.toolz=3", "env_pool.limits.toolz must name one of single_turn, tools"),
        ("rollout.iteration_s=0", "rollout.iteration_s must be null or positive, got 0"),
        ("rollout.max_staleness=-1", "rollout.max_staleness must not be negative, got -1"),
        ("rollout.asynchronous=true", "rollout.max_staleness must be at least 1 with rollout.asynchronous"),
        (
            "rollout.asynchronous=true rollout.max_staleness=1 rollout.iteration_s=3",
            "rollout.iteration_s must be null with rollout.asynchronous",
        ),
        ("algorithm.importance_cap=0.5", "algorithm.importance_cap must be null or at least 1, got 0.5"),
        (
            "kinds.chat.group_size=6 +kinds.chat.max_tokens=600",
            "kinds.chat.max_tokens must be null, or from",
        ),
        ("+tasks.sets.mine.tasks=3", "tasks.sets.mine must have tasks and reward"),
        ("tasks.sets.open.count=0", "tasks.sets.open.count must be a whole number of at least 1, got 0"),
        ("critic=self", "must leave room for two replies to task"),
        ("env.single_turn._target_=envs.nothing.Here", "single_turn"),
    ],
)
def test_wrong_settings(override, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["train", *override.split()]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1, "one line"
    assert not list(tmp_path.iterdir()), "nothing written"


def test_option_paths_are_complete():
    paths = option_paths()
    assert {"iterations", "rollout.group_size", "trainer.zero_stage", "algorithm.loss"} <= set(paths)
