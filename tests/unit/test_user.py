"""A simulated user: what it hears, what it is told, and how the conversation ends."""

import asyncio
import json

import pytest
from fakes import Answers, Letters

from envs.user import UserEnv
from envs.world import WorldEnv
from rewards.world import goal_reached
from rl.errors import EnvLostError
from rl.rollout import Episode, RolloutLimits
from rl.tool_calls import STARTER, read_turn
from rl.types import EndReason, Task
from rl.world_tasks import WorldTasks

PERSONA, AIM = "a patient gardener", "to have order A1 sent"
FIELDS = {
    "persona": PERSONA,
    "aim": AIM,
    "answer": "GOLD answer",
    "rubric": ["GOLD rubric"],
    "goal": {"orders": {"A1": {"status": "GOLD sent"}}},
    "world": {
        "state": {"orders": {"A1": {"status": "open", "price": 3}}},
        "collections": {
            "orders": {"tools": ["get", "set"], "fields": {"status": {"enum": ["open", "GOLD sent"]}}},
        },
    },
}
MESSAGES = (
    {"role": "system", "content": "Be polite."},
    {"role": "user", "content": "Hello there."},
)
TASK = Task(id="t", kind="chat", messages=MESSAGES, fields=FIELDS)
SEND = '<|call|>{"name": "set_orders", "arguments": {"id": "A1", "status": "GOLD sent"}}<|/call|>'


class Calling(Letters):
    """Letters that read the starters' tool calls, and write what is offered into the prompt."""

    def prompt_ids(self, messages, tools=()):
        return [*map(ord, "".join(map(json.dumps, tools))), *super().prompt_ids(messages)]

    def read(self, token_ids, *, call_number=0):
        return read_turn(self.decode(token_ids), STARTER, number=call_number)


class Script(Answers):
    """An engine that says these things, one after the other."""

    def __init__(self, *lines):
        left = iter(lines)
        super().__init__(lambda _prompt: next(left))


def episode(policy, user=None, *, make_env=None, **settings):
    return Episode(
        name="e", task=TASK, make_env=make_env or (lambda: UserEnv(**settings)), engine=policy, chat=Calling(),
        others={"critic": user} if user else {}, temperature=1.0, seed=0,
        limits=RolloutLimits(max_tokens=2000, context=9000, env_deadline_s=5),
    )  # fmt: skip


def run(*args, **settings):
    rollout = asyncio.run(episode(*args, **settings).run())
    assert rollout.error is None
    return rollout


WORLD = {"_target_": "envs.world.WorldEnv"}


def test_they_talk_until_the_user_is_done():
    policy, user = Script("Which one?", "And now?"), Script(" Order A1. \n", "Thanks [done]")
    rollout = run(policy, user, by="critic")
    assert rollout.end_reason is EndReason.ENV_END
    assert [(m["role"], m["content"]) for m in rollout.messages] == [
        ("assistant", "Which one?"),
        ("user", "Order A1."),
        ("assistant", "And now?"),
    ]
    assert [s.from_model for s in rollout.segments] == [False, True, False, True], "what the user says is not learnt"
    assert policy.prompts[1].endswith("Hello there.Which one?Order A1.")


def test_the_user_is_told_its_persona_each_time_and_the_roles_are_swapped():
    async def asks():
        env = UserEnv(max_tokens=9, by="critic")
        await env.reset(TASK)
        first = await env.step({"role": "assistant", "content": "Which one?"})
        heard = await env.hear("A1")
        return first.ask, heard, (await env.step({"role": "assistant", "content": "Sure?"})).ask

    first, heard, second = asyncio.run(asks())
    assert (first.max_tokens, first.by) == (9, "critic")
    assert list(heard.messages) == [{"role": "user", "content": "A1"}]
    part, *talk = second.messages
    assert part == first.messages[0]
    assert part["role"] == "user"
    assert PERSONA in part["content"]
    assert AIM in part["content"]
    assert "[done]" in part["content"]
    assert [(m["role"], m["content"]) for m in talk] == [
        ("assistant", "Hello there."),
        ("user", "Which one?"),
        ("assistant", "A1"),
        ("user", "Sure?"),
    ]
    assert list(first.messages[1:]) == talk[:2]


def test_the_policy_may_play_the_user():
    policy = Script("Which one?", "A1", "Done.", "[done]")
    rollout = run(policy)
    assert [m["content"] for m in rollout.messages] == ["Which one?", "A1", "Done."]
    assert rollout.completion_tokens == len("Which one?") + len("Done.") + 2, "it learns its own part alone"
    assert PERSONA in policy.prompts[1]


def test_a_user_who_is_never_done_meets_the_limit():
    policy, user = Script("a", "b", "c"), Script("1", "2", "3")
    rollout = run(policy, user, by="critic", turns=2)
    assert rollout.end_reason is EndReason.TURN_LIMIT
    assert [m["content"] for m in rollout.messages] == ["a", "1", "b"]
    assert run(Script("a", "b"), Script("1", "[done]"), by="critic", turns=2).end_reason is EndReason.ENV_END


def test_another_mark():
    assert run(Script("a", "b"), Script("[done]", "bye"), by="critic", done="bye").messages[1]["content"] == "[done]"


def test_a_world_behind_the_conversation():
    policy, user = Script("Which one?", SEND, "It is sent."), Script("A1", "[done]")
    rollout = run(policy, user, by="critic", inner=WORLD)
    assert [m["role"] for m in rollout.messages] == ["assistant", "user", "assistant", "tool", "assistant"]
    assert rollout.outcome["state"]["orders"]["A1"]["status"] == "GOLD sent"
    assert rollout.outcome["calls"] == 1
    assert goal_reached(TASK, rollout).value == 1
    assert goal_reached(TASK, run(Script("Sent!"), Script("[done]"), by="critic", inner=WORLD)).value == 0


def test_the_inner_environment_counts_the_turns_with_calls():
    rollout = run(Script("a", "b", SEND, SEND), Script("1", "2"), by="critic", inner=WORLD | {"turns": 2})
    assert rollout.end_reason is EndReason.TURN_LIMIT
    assert rollout.outcome["state"]["orders"]["A1"]["status"] == "GOLD sent"


def test_a_call_of_a_tool_that_is_not_there_is_answered():
    rollout = run(Script(SEND, "Sorry."), Script("[done]"), by="critic")
    assert rollout.messages[1]["content"].startswith("error: there is no tool set_orders")


def test_neither_side_learns_what_is_the_others():
    lines = ("Hm?", SEND, f"What do you want? {SEND}", "It is sent.")
    policy, user = Script(*lines), Script("The usual.", "[done]")
    rollout = run(policy, user, by="critic", inner=WORLD)
    assert len(rollout.messages) == 7
    assert len(user.prompts) == 2
    for prompt in user.prompts:
        assert "GOLD" not in prompt, "the user knows no field of the task but its own, no call and no result"
        assert "price" not in prompt
        assert "Be polite" not in prompt
    offered = json.dumps(asyncio.run(WorldEnv().reset(TASK)).tools)
    for prompt in policy.prompts:
        assert PERSONA not in prompt
        assert AIM not in prompt
        assert "GOLD answer" not in prompt
        assert "GOLD rubric" not in prompt
    assert "GOLD sent" in offered, "the tools themselves name it, so the user's prompts were a real test"


class Lost(UserEnv):
    """Its process dies at the third policy turn, once."""

    died = False

    async def step(self, message):
        if message["content"] == "c" and not Lost.died:
            Lost.died = True
            raise EnvLostError("gone")
        return await super().step(message)


def test_a_new_environment_is_told_the_same_again_and_asks_no_model_twice():
    user = Script("1", "2", "[done]")
    rollout = run(Script("a", "b", "c"), user, make_env=lambda: Lost(by="critic"))
    assert Lost.died
    assert [m["content"] for m in rollout.messages] == ["a", "1", "b", "2", "c"]
    assert len(user.prompts) == 3
    assert user.prompts[2].endswith("Hello there.a1b2c")


@pytest.mark.parametrize(
    ("task", "got"),
    [
        (Task(id="t", kind="chat", messages=MESSAGES, fields={"persona": "x"}), "got fields persona"),
        (Task(id="t", kind="chat", messages=MESSAGES[:1], fields=FIELDS), "a last message of system"),
    ],
)
def test_tasks_without_a_user(task, got):
    with pytest.raises(ValueError, match=got):
        asyncio.run(UserEnv().reset(task))


@pytest.mark.parametrize("wrong", [{"turns": 0}, {"max_tokens": 0}, {"done": ""}])
def test_wrong_settings(wrong):
    with pytest.raises(ValueError, match="turns and max_tokens must be at least 1 and done some text"):
        UserEnv(**wrong)


def test_errands_may_be_the_aim_of_a_user():
    said, talked = (WorldTasks(seed=3, env=env).task_at(5) for env in ("world", "user"))
    assert talked.env == "user"
    assert talked.fields["aim"] == said.messages[0]["content"]
    assert talked.fields["goal"] == said.fields["goal"]
    assert talked.fields["aim"] not in talked.messages[0]["content"]
    env = UserEnv(inner={"_target_": "envs.world.WorldEnv"})
    opening = asyncio.run(env.reset(talked))
    assert opening.messages == talked.messages
    assert opening.tools
    with pytest.raises(ValueError, match="env must be world or user, got 'them'"):
        WorldTasks(env="them")
