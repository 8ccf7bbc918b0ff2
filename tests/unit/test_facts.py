"""Open-ended tasks whose truth can be computed: what is claimed, what of it holds, and what the hidden measure says."""

import random

import pytest

from rewards.facts import true_facts
from rewards.scoring import evaluate
from rl.facts import Claim, claim_about, claims
from rl.tasks import FactTasks
from rl.types import EndReason, Rollout, Task


@pytest.mark.parametrize(
    ("said", "holds"),
    [
        ("is odd", True), ("is even", False), ("is over 46", True), ("is over 47", False), ("is under 48", True),
        ("is under 47", False), ("starts with 4", True), ("starts with 7", False), ("ends in 7", True),
        ("ends in 4", False),
    ],
)  # fmt: skip
def test_what_holds_of_47(said, holds):
    assert Claim(47, said).holds is holds


def test_random_claims_are_as_true_as_asked():
    rng = random.Random(0)
    for true in (True, False):
        assert all(claim_about(rng.randint(10, 99), rng, true=true).holds is true for _ in range(200))


def test_claims_are_found_among_other_words():
    found, rest = claims("Great question! 47 is odd. 47 ends in 7. I hope this helps.")
    assert [str(claim) for claim in found] == ["47 is odd.", "47 ends in 7."]
    assert rest == "Great question! I hope this helps."


@pytest.mark.parametrize(
    ("reply", "value"),
    [
        ("47 is odd.", 1.0),
        ("47 is odd. 47 is under 50.", 1.0),
        ("Great question! 47 is odd.", 0.5),
        ("47 is odd. 47 is even.", 0.0),
        ("48 is even.", 0.0),
        ("I hope this helps.", 0.0),
        ("", 0.0),
    ],
)
def test_the_hidden_measure(reply, value):
    task = Task(
        id="f", kind="chat", messages=({"role": "user", "content": "Tell me about 47."},), fields={"number": 47}
    )
    said = Rollout(
        task_id="f", segments=(), messages=({"role": "assistant", "content": reply},), end_reason=EndReason.STOP
    )
    assert evaluate(true_facts, task, said).value == value


def test_tasks_are_open_ended_and_their_splits_never_overlap():
    train, held_out = FactTasks(seed=0), FactTasks(seed=0, held_out=True)
    questions = [{s.task_at(i).messages[0]["content"] for i in range(300)} for s in (train, held_out)]
    assert not questions[0] & questions[1]
    task = train.task_at(3)
    assert (task.kind, task.tags) == ("chat", ("fact",))
    assert str(task.fields["number"]) in task.messages[0]["content"]
