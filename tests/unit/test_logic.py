"""reasoning-gym as a task source with its own verifiers, and the puzzles that it lacks."""

import pytest

from rewards.logic import answer_text, puzzle_answer, reasoning_gym_answer
from rl.puzzle_tasks import UNSOUND, PuzzleTasks, ReasoningGymTasks
from rl.puzzles import FAMILIES
from rl.tasks import first_tasks
from rl.types import EndReason, Rollout


def say(text):
    messages = ({"role": "assistant", "content": text},)
    return Rollout(task_id="t", segments=(), messages=messages, end_reason=EndReason.STOP)


QUICK = (
    "chain_sum", "countdown", "puzzle24", "mini_sudoku", "cryptarithm", "basic_arithmetic", "caesar_cipher", "gcd",
    "leg_counting", "letter_counting", "number_sorting", "prime_factorization", "spell_backward", "word_sorting",
)  # fmt: skip


@pytest.mark.parametrize("name", QUICK)
def test_generators_accept_their_own_answer_and_nothing_else(name):
    (task,) = first_tasks(ReasoningGymTasks(datasets=[name], seed=4), 1)
    own = task.fields["entry"]["answer"]
    assert reasoning_gym_answer(task, say(f"so\nanswer: {own}"), partial_credit=True) == 1
    assert reasoning_gym_answer(task, say("answer: no idea at all")) == 0


def test_there_are_a_hundred_generators():
    assert len(ReasoningGymTasks(seed=4)._names) >= 100


def test_reasoning_gym_splits_are_disjoint_and_streams_repeat():
    options = {"datasets": ["chain_sum", "countdown"], "seed": 2}
    train = [t.messages[0]["content"] for t in first_tasks(ReasoningGymTasks(**options), 60)]
    held_out = [t.messages[0]["content"] for t in first_tasks(ReasoningGymTasks(**options, held_out=True), 60)]
    assert not set(train) & set(held_out)
    assert train == [t.messages[0]["content"] for t in first_tasks(ReasoningGymTasks(**options), 60)]


def test_difficulty_is_a_setting():
    easy, hard = (
        ReasoningGymTasks(datasets="chain_sum", settings={"chain_sum": {"min_terms": n, "max_terms": n}}).task_at(0)
        for n in (2, 6)
    )
    assert easy.fields["entry"]["question"].count("+") + easy.fields["entry"]["question"].count("-") < 3
    assert len(hard.fields["entry"]["question"]) > len(easy.fields["entry"]["question"])


@pytest.mark.parametrize("name", ["countdwn", *UNSOUND[:2]])
def test_unknown_and_unsound_generators_are_refused(name):
    with pytest.raises(ValueError, match=f"datasets must name sound generators of reasoning-gym, got \\['{name}'\\]"):
        ReasoningGymTasks(datasets=[name])


def test_wrong_difficulty_settings():
    with pytest.raises(ValueError, match=r"settings\.chain_sum must fit the generator's configuration"):
        ReasoningGymTasks(datasets="chain_sum", settings={"chain_sum": {"terms": 2}}).task_at(0)


def test_puzzles_are_verified():
    tasks = first_tasks(PuzzleTasks(seed=3), 60)
    assert {t.tags[0] for t in tasks} == set(FAMILIES)
    for task in tasks:
        own = task.fields["accepts"].get("text")
        if own is not None:
            assert puzzle_answer(task, say(f"thinking\nAnswer: {own}")) == 1
        assert puzzle_answer(task, say("answer: qqq")) == 0


def test_where_answers_stand():
    assert answer_text("a\nanswer: 1\n2", "answer:") == "1\n2"
    assert answer_text("answer: 3 <answer> 4\n5 </answer>", "answer:") == "4\n5"
    assert answer_text(" six ", "answer:") == "six"
