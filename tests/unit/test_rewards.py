"""What rewards say of replies, and what the boundary makes of rewards that fail."""

import asyncio
import json
from collections import Counter

import pytest

from rewards.base import Declaration, build_reward, check_fields, declaration, reward
from rewards.code import CodeReward, program
from rewards.combine import Combined
from rewards.equivalence import equivalent
from rewards.length import LengthReward
from rewards.math import final_answer, math_answer
from rewards.scoring import evaluate, settle
from rewards.style import finished, in_language, matches, no_repetition
from rl.compose import REPOSITORY
from rl.errors import ToolMissingError
from rl.shaping import shape
from rl.types import EndReason, Fault, Question, Rollout, RolloutGroup, Score, Segment, Task, Verdict

PAIRS = [json.loads(line) for line in (REPOSITORY / "tests/data/math_pairs.jsonl").read_text().splitlines()]
TASK = Task(id="t", kind="math", messages=(), fields={"answer": "2"})


def said(text, tokens=1, end=EndReason.STOP):
    segment = Segment(token_ids=(1,) * tokens, from_model=True, sampler_logprobs=(0.0,) * tokens)
    return Rollout(task_id="t", segments=(segment,), messages=({"role": "assistant", "content": text},), end_reason=end)


def test_math_agrees_with_the_labelled_pairs():
    wrong = [p for p in PAIRS if equivalent(p["gold"], p["answer"]) != p["equal"]]
    assert len(PAIRS) >= 300
    assert len(Counter(p["kind"] for p in PAIRS)) >= 20
    assert len(wrong) <= len(PAIRS) // 100, wrong


@pytest.mark.parametrize(
    "answer",
    [
        "9**9**9**9",
        "{" * 2**20,
        "(" * 30 + "1" + ")" * 30,
        "10^{99999999}",
        "999999!",
        "9^9^9",
        "\\frac" * 90,
        "3!!!!!",
    ],
)
def test_answers_that_no_one_asks_for_are_wrong_at_once(answer):
    assert not equivalent("1", answer)


@pytest.mark.parametrize(
    ("reply", "answer", "value"),
    [
        ("answer: 2", "2", 1),
        ("1+1=2\nanswer: 2", "2", 1),
        ("answer: 3\nAnswer: 2.0\nbecause", "2", 1),
        ("answer: 1,200", "1200", 1),
        ("answer: 2.", "2", 1),
        ("answer: Paris ", "paris", 1),
        ("so \\boxed{\\frac{1}{2}} it is, answer: 3", "0.5", 1),
        ("half, $\\frac{2}{4}$", "1/2", 1),
        ("I get 17, then 19", "19", 1),
        ("answer: 3", "2", 0),
        ("answer: 2 or 3", "2", 0),
        ("answer:", "2", 0),
        ("", "2", 0),
        ("no idea", "2", 0),
        ("answer: nan", "2", 0),
        ("\\boxed{2", "2", 1),
        ("answer: " + "9" * 100_000, "2", 0),
    ],
)
def test_final_answers(reply, answer, value):
    score = evaluate(math_answer, Task(id="t", kind="math", messages=(), fields={"answer": answer}), said(reply))
    assert (score.fault, score.value) == (None, value)


def test_extraction_follows_the_configured_order():
    reply = "\\boxed{1}\nanswer: 2\nso 3"
    assert [final_answer(reply, extract=[e]) for e in ("boxed", "marker", "last")] == ["1", "2", "3"]
    assert final_answer("so 3", extract=["marker"]) is None


def test_programs_are_found_in_replies():
    assert program("def f(): pass") == "def f(): pass"
    assert program("First\n```python\na = 1\n```\nthen\n```\nb = 2\n```") == "b = 2\n"
    assert program("```python\na = 1") == "a = 1"
    assert program("```bash\nls\n```") is None
    assert program("  ") is None


def missing_tool(task, rollout):
    raise ToolMissingError("no latex here")


async def slowly(task, rollout):
    await asyncio.sleep(0)
    return 0.5


def hungry(task, rollout):
    raise MemoryError


@reward(range=(-1, 0))
def negative(task, rollout):
    return -0.5


@pytest.mark.parametrize(
    ("function", "fault"),
    [
        (lambda task, rollout: 1 / 0, Fault.EXCEPTION),
        (lambda task, rollout: "high", Fault.EXCEPTION),
        (lambda task, rollout: float("nan"), Fault.INVALID),
        (lambda task, rollout: 1.5, Fault.INVALID),
        (lambda task, rollout: -0.5, Fault.INVALID),
        (missing_tool, Fault.TOOL),
        (hungry, Fault.MEMORY),
        (slowly, None),
        (negative, None),
        (lambda task, rollout: True, None),
    ],
)
def test_a_failing_reward_is_a_fault_and_not_a_zero(function, fault):
    score = evaluate(function, TASK, said("x"))
    assert score.fault is fault
    assert (score.error is None) == (fault is None)


def test_declarations():
    assert declaration(math_answer) == Declaration(low=0, high=1, fields=("answer",))
    assert declaration(build_reward({"_target_": "rewards.math.math_answer", "marker": "#"})).fields == ("answer",)
    assert declaration(lambda task, rollout: 0) == Declaration()
    with pytest.raises(ValueError, match="range must be two finite numbers"):
        reward(range=(1, 0))
    with pytest.raises(ValueError, match="task t: the reward needs the fields tests, but the task has answer"):
        check_fields(CodeReward, [TASK])


def combined(**parts):
    return Combined(parts={k: {**v, "reward": {"_target_": f"{__name__}.{v['reward']}"}} for k, v in parts.items()})


def half(task, rollout):
    return Score(value=0.5, parts={"inner": 1.0})


def shouted(task, rollout):
    return float(rollout.completion.isupper())


def test_rewards_combine_by_weight_kind_and_gate():
    whole = combined(
        base={"reward": "half", "weight": 2},
        bonus={"reward": "negative", "kinds": ["math"]},
        only_code={"reward": "half", "kinds": ["code"]},
        gate={"reward": "shouted", "gate": True},
    )
    score = evaluate(whole, TASK, said("YES"))
    assert score.value == 2 * 0.5 - 0.5
    assert score.parts == {"base": 0.5, "base/inner": 1.0, "bonus": -0.5, "gate": 1.0}
    assert evaluate(whole, TASK, said("yes")).value == 0
    assert whole.declaration == Declaration(low=-1.0, high=3.0)


def test_a_part_that_fails_fails_the_whole():
    score = evaluate(combined(good={"reward": "half"}, bad={"reward": "missing_tool"}), TASK, said("x"))
    assert score.fault is Fault.TOOL


def test_each_kind_of_task_needs_a_part_and_its_fields():
    whole = combined(math={"reward": "half", "kinds": ["math"]}, gate={"reward": "half", "gate": True})
    with pytest.raises(ValueError, match=r"task c: reward\.parts must serve its kind 'chat'"):
        check_fields(whole, [Task(id="c", kind="chat", messages=())])
    with pytest.raises(ValueError, match="must have reward, and may have weight, kinds and gate"):
        Combined(parts={"x": {"weigth": 1, "reward": {}}})


def asks_a_judge(task, rollout):
    questions = tuple(Question(name=name, task=TASK, weight=weight) for name, weight in (("a", 0.5), ("b", 0.25)))
    return Score(value=0.25, questions=questions)


def test_questions_go_to_the_judge():
    def judge(value):
        async def answer(question):
            return Verdict(value=value, version=7)

        return answer

    score = evaluate(asks_a_judge, TASK, said("x"))
    settled = asyncio.run(settle(score, judge(0.5)))
    assert settled.value == 0.25 + 0.5 * 0.75
    assert settled.verdicts == {"a": 0.5, "b": 0.5}
    assert (settled.critic_version, settled.questions) == (7, ())
    assert asyncio.run(settle(score, judge(None))).fault is Fault.CRITIC
    assert asyncio.run(settle(score, None)).fault is Fault.TOOL


def test_length_reward_by_hand():
    """The example of acceptance A12: {100, 200, 300 right; 100, 300 wrong} gives {0.5, 0, -0.5, 0, -0.5}."""
    rollouts = tuple(said("x", tokens=n) for n in (100, 200, 300, 100, 300))
    scores = tuple(Score(value=v) for v in (1, 1, 1, 0, 0))
    group = RolloutGroup(task=TASK, rollouts=rollouts, scores=scores)
    rule = LengthReward(weight=1.0, warmup_iterations=3)
    assert rule(group, iteration=4) == [0.5, 0.0, -0.5, 0.0, -0.5]
    assert rule(group, iteration=3) == [0.0] * 5, "off during warm-up"
    same = RolloutGroup(task=TASK, rollouts=rollouts[:1] * 2, scores=scores[:2])
    assert rule(same, iteration=4) == [0.0, 0.0]
    (shaped,) = shape([group], {"length": rule}, iteration=4)
    assert [s.value for s in shaped.scores] == [1.5, 1.0, 0.5, 0.0, -0.5]
    assert shaped.scores[0].parts == {"length": 0.5}
    assert LengthReward(weight=1.0, threshold=0.7)(group, iteration=4) == [0.0] * 5, "three of five are right"
    low = RolloutGroup(task=TASK, rollouts=rollouts[:2], scores=(Score(value=-1), Score(value=-2)))
    assert LengthReward(weight=1.0)(low, iteration=1) == [0.0, -0.5], "without a threshold, whatever the scores' range"


def test_shaping_leaves_faults_alone():
    scores = (Score(value=1), Score.failed(Fault.TIMEOUT, "slow"))
    group = RolloutGroup(task=TASK, rollouts=(said("x", 1), said("x", 9)), scores=scores)
    (shaped,) = shape([group], {"length": LengthReward(weight=1.0)}, iteration=1)
    assert shaped.scores == (Score(value=1, parts={"length": 0.0}), scores[1])


def test_style_rewards():
    assert matches(TASK, said("<think>\nx</think> 2"), pattern="<think>.*</think>.*") == 1
    assert matches(TASK, said("2"), pattern="<think>.*") == 0
    assert finished(TASK, said("x", end=EndReason.BUDGET)) == 0
    assert no_repetition(TASK, said("the cat sat on the mat and looked at the dog")) == 1
    assert no_repetition(TASK, said("go on " * 50)) < 0.1
    assert no_repetition(TASK, said("a" * 500)) == 0
    assert in_language(TASK, said("The weather is fine today and we will walk to the market.")) > 0.9
    assert in_language(TASK, said("Das Wetter ist heute schön und wir gehen auf den Markt.")) < 0.1
    german = Task(id="t", kind="math", messages=(), fields={"language": "de"})
    assert in_language(german, said("Das Wetter ist heute schön und wir gehen auf den Markt.")) > 0.9
    assert in_language(TASK, said("42")) == 1
