"""Several questions in one conversation: tasks, environment, reward, and how the lengths of two runs are compared."""

import asyncio

import pytest
from fakes import Answers, Letters

from envs.series import Series
from rewards.scoring import evaluate
from rewards.series import share_right
from rl.rollout import Episode, RolloutLimits
from rl.tasks import ProceduralTasks, SeriesTasks
from rl.types import EndReason
from scripts.bench.modes import length_bias

SOURCE = {"_target_": "rl.tasks.ProceduralTasks", "seed": 4}


def test_a_series_asks_the_tasks_of_its_source_one_after_the_other():
    source = ProceduralTasks(seed=4)
    task = SeriesTasks(source=SOURCE, length=3).task_at(2)
    asked = [source.task_at(i) for i in (6, 7, 8)]
    answers = {t.messages[0]["content"]: t.fields["answer"] for t in asked}

    def reply(prompt):
        number = sum(question in prompt for question in answers)
        said = list(answers.values())[number - 1]
        return f"answer: {said if number != 2 else -1}"

    episode = Episode(
        name="e", task=task, make_env=Series, engine=Answers(reply), chat=Letters(), temperature=1.0, seed=0,
        limits=RolloutLimits(max_tokens=500, context=2000),
    )  # fmt: skip
    rollout = asyncio.run(episode.run())
    assert rollout.end_reason is EndReason.ENV_END
    assert [m["content"] for m in rollout.messages if m["role"] == "user"] == list(answers)[1:]
    with pytest.raises(ValueError, match="latency_s must not be negative"):
        Series(latency_s=-1)
    assert evaluate(share_right, task, rollout).value == pytest.approx(2 / 3)
    with pytest.raises(ValueError, match="length must be at least 1, got 0"):
        SeriesTasks(source=SOURCE, length=0)
    with pytest.raises(ValueError, match="one message with an answer"):
        SeriesTasks(source={"_target_": "rl.tasks.FunctionTasks"}, length=2).task_at(0)


def test_lengths_are_compared_with_those_of_a_run_that_waits():
    reference = list(range(1, 101))
    assert length_bias(reference, reference) == {"ks": 0.0, "top_decile": pytest.approx(0.1)}
    short = length_bias([5] * 50, reference)
    assert short == {"ks": pytest.approx(0.95), "top_decile": 0.0}
    assert length_bias([200] * 10, reference) == {"ks": 1.0, "top_decile": 1.0}
