"""Tools and the environment that offers them."""

import asyncio
import time

import pytest

from envs.calculator import Calculator, evaluate
from envs.tools import Toolbox, ToolEnv, ToolError, shortened
from rl.chat import Chat
from rl.compose import REPOSITORY
from rl.rollout import Episode, RolloutLimits
from rl.tool_calls import STARTER, calls_in, declaration, read_turn
from rl.types import EndReason, Sample, Task

TASK = Task(id="t", kind="tools", messages=({"role": "user", "content": "What is 12*34?"},))
CALCULATOR = {"_target_": "envs.calculator.Calculator"}


def turn(*bodies, number=0):
    return read_turn("".join(f"<|call|>{body}<|/call|>" for body in bodies), STARTER, number=number)


def call(expression):
    return f'{{"name": "calculator", "arguments": {{"expression": "{expression}"}}}}'


async def played(env, *turns):
    opening = await env.reset(TASK)
    steps = [await env.step(t) for t in turns]
    await env.close()
    return opening, steps


def test_calls_are_answered_in_order_and_the_answer_ends_the_rollout():
    last = {"role": "assistant", "content": "answer: 408"}
    opening, (first, second) = asyncio.run(
        played(ToolEnv(tools=[CALCULATOR]), turn(call("12*34"), call("2**10"), number=3), last)
    )
    assert [t["function"]["name"] for t in opening.tools] == ["calculator"]
    assert list(first.messages) == [
        {"role": "tool", "tool_call_id": "functions.calculator:3", "name": "calculator", "content": "408"},
        {"role": "tool", "tool_call_id": "functions.calculator:4", "name": "calculator", "content": "1024"},
    ]
    assert first.end is None
    assert second.end is EndReason.STOP
    assert not second.end.truncated


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("{", "error: the call is not valid JSON"),
        ('{"name": "abacus", "arguments": {}}', "error: there is no tool abacus; there are calculator"),
        ('{"name": "calculator", "arguments": {}}', "error: calculator: 'expression' is a required property"),
        ('{"name": "calculator", "arguments": {"expression": 3}}', "error: calculator: 3 is not of type 'string'"),
        (call("1/0"), "error: division by zero"),
        (call("x+1"), "error: only numbers"),
    ],
)
def test_what_is_wrong_with_a_call_comes_back_to_the_policy(body, said):
    _, (step,) = asyncio.run(played(ToolEnv(tools=[CALCULATOR]), turn(body)))
    assert step.messages[0]["content"].startswith(said)
    assert step.end is None


def test_turns_are_limited():
    _, steps = asyncio.run(played(ToolEnv(tools=[CALCULATOR], turns=2), turn(call("1")), turn(call("2"))))
    assert [s.end for s in steps] == [None, EndReason.TURN_LIMIT]
    assert steps[1].end.truncated


class Slow:
    def __init__(self, name, seconds):
        self.declaration = declaration(name, "Waits.", {"type": "object"})
        self.seconds = seconds

    async def open(self, task):
        pass

    async def call(self, arguments):
        await asyncio.sleep(self.seconds)
        return "x" * 50

    async def close(self):
        pass


def test_calls_of_one_turn_run_at_the_same_time_and_long_outputs_lose_their_middle():
    box = Toolbox([Slow("a", 0.2), Slow("b", 0.2)], output_chars=20)
    started = time.monotonic()
    answers = asyncio.run(box.answer(turn('{"name": "a"}', '{"name": "b"}')))
    assert time.monotonic() - started < 0.35
    assert [a["content"] for a in answers] == ["x" * 10 + "\n[...]\n" + "x" * 10] * 2


def test_wrong_settings():
    with pytest.raises(ValueError, match="different names"):
        Toolbox([Slow("a", 0), Slow("a", 0)])
    broken = Slow("a", 0)
    broken.declaration = declaration("a", "", {"type": "thing"})
    with pytest.raises(ValueError, match="tool a: parameters must be a JSON schema"):
        Toolbox([broken])
    with pytest.raises(ValueError, match="turns and output_chars must be at least 1"):
        ToolEnv(tools=[CALCULATOR], turns=0)


@pytest.mark.parametrize(
    ("expression", "value"),
    [("1+2*3", "7"), ("(1+2)*3", "9"), ("-7//2", "-4"), ("7/2", "3.5"), ("0.1+0.2", "0.3"), ("10**30", "1" + "0" * 30),
     ("2**-1", "0.5"), (" 7 % 4 ", "3"), ("1/3", "0.333333333333")],
)  # fmt: skip
def test_calculator(expression, value):
    assert asyncio.run(Calculator().call({"expression": expression})) == value


@pytest.mark.parametrize(
    "expression", ["", "1+", "a", "f(1)", "2**0.5", "9**9**9", "(-1)**0.5", "1e400*1e700", "'a'*3", "True", "[1]"]
)
def test_what_is_no_arithmetic_is_refused(expression):
    started = time.monotonic()
    with pytest.raises(ToolError):
        evaluate(expression)
    assert time.monotonic() - started < 0.1


def test_a_value_beyond_decimals_is_the_policys_mistake_and_no_fault():
    with pytest.raises(ToolError, match="too large"):
        asyncio.run(Calculator().call({"expression": "9**900/7"}))


def test_shortened():
    assert shortened("abc", 3) == "abc"
    assert shortened("abcdef", 4) == "ab\n[...]\nef"


def test_a_call_without_marks_is_no_call():
    assert calls_in({"role": "assistant", "content": "x"}) == []


class Thinker:
    """An engine that thinks and adds one, turn after turn, in the starter's own tokens, and then answers."""

    def __init__(self, chat, turns):
        self.lines = [f"<think>step {n}</think>" + f"<|call|>{call(f'{n}+1')}<|/call|>" for n in range(turns)]
        self.chat, self.said, self.prompts = chat, [], []

    async def sample(self, request):
        number = len(self.said)
        ids = self.chat.reply_ids(self.lines[number] if number < len(self.lines) else "answer: done")
        self.prompts.append(list(request.prompt_ids))
        self.said.append(ids)
        return Sample(
            token_ids=ids, logprobs=[-1.0] * len(ids), stopped=True, policy_version=0, generate_s=0.0,
        )  # fmt: skip


def test_300_turns_of_thought_call_and_result_keep_every_token_and_every_thought():
    chat = Chat(str(REPOSITORY / "models/starter"))
    engine = Thinker(chat, 300)
    episode = Episode(
        name="e", task=TASK, make_env=lambda: ToolEnv(tools=[CALCULATOR], turns=400), engine=engine, chat=chat,
        limits=RolloutLimits(max_tokens=10**6, context=10**6), temperature=1.0, seed=0,
    )  # fmt: skip
    rollout = asyncio.run(episode.run())
    assert (rollout.end_reason, rollout.completion) == (EndReason.STOP, "answer: done")
    results = [m for m in rollout.messages if m["role"] == "tool"]
    assert [m["content"] for m in results] == [str(n + 1) for n in range(300)]
    assert [m["tool_call_id"] for m in results] == [f"functions.calculator:{n}" for n in range(300)]
    said = [list(s.token_ids) for s in rollout.segments if s.from_model]
    assert said == engine.said
    for earlier, reply, later in zip(engine.prompts, engine.said, engine.prompts[1:], strict=False):
        assert later[: len(earlier) + len(reply)] == earlier + reply, "thoughts stay where they were"
    assert rollout.token_ids == engine.prompts[-1] + engine.said[-1]
