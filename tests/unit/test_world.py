"""Simulated worlds: their tools, their failures, the reward for their final state, and the tasks that live in them."""

import asyncio
import copy
import json

import pytest

from envs.world import OUTAGE, WorldEnv
from rewards.world import goal_reached
from rl.procedural import is_held_out
from rl.types import EndReason, Rollout, Task
from rl.world_tasks import DOMAINS, WorldTasks

ORDERS = {
    "A1": {"status": "open", "price": 3},
    "A2": {"status": "open", "price": 4},
    "A3": {"status": "sent", "price": 3},
}
WORLD = {
    "state": {"orders": ORDERS, "secrets": {"S1": {"code": 7}}},
    "collections": {
        "orders": {
            "tools": ["get", "find", "add", "set", "remove"],
            "fields": {"status": {"enum": ["open", "sent"]}, "price": {"type": "integer"}},
        }
    },
}
DONE = {"role": "assistant", "content": "Done."}


def task(world=WORLD, goal=None, name="t"):
    question = {"role": "user", "content": "Send the order."}
    return Task(id=name, kind="world", messages=(question,), fields={"world": copy.deepcopy(world), "goal": goal or {}})


def turn(*calls):
    parts = [{"id": f"functions.{n}:{i}", "function": {"name": n, "arguments": a}} for i, (n, a) in enumerate(calls)]
    return {"role": "assistant", "content": "", "tool_calls": parts}


async def played(env, the_task, *turns):
    """What was said to each call, and the last step."""
    await env.reset(the_task)
    steps = [await env.step(t) for t in turns]
    await env.close()
    return [m["content"] for step in steps for m in step.messages], steps[-1]


def said(*calls, the_task=None, **settings):
    return asyncio.run(played(WorldEnv(**settings), the_task or task(), *(turn(c) for c in calls)))[0]


def test_what_was_written_is_read():
    replies = said(
        ("set_orders", {"id": "A1", "status": "sent"}),
        ("get_orders", {"id": "A1"}),
        ("add_orders", {"id": "A9", "status": "open", "price": 9}),
        ("find_orders", {"status": "open"}),
        ("remove_orders", {"id": "A2"}),
        ("find_orders", {}),
    )
    assert json.loads(replies[1]) == {"id": "A1", "status": "sent", "price": 3}
    assert [r["id"] for r in json.loads(replies[3])] == ["A2", "A9"]
    assert {r["id"]: r["price"] for r in json.loads(replies[5])} == {"A1": 3, "A3": 3, "A9": 9}


def test_calls_of_one_turn_are_carried_out_in_order():
    calls = [("set_orders", {"id": "A1", "price": i}) for i in range(20)] + [("get_orders", {"id": "A1"})]
    replies, _ = asyncio.run(played(WorldEnv(), task(), turn(*calls)))
    assert [json.loads(r)["price"] for r in replies] == [*range(20), 19]


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (("get_orders", {"id": "A7"}), "error: there is no A7"),
        (("remove_orders", {"id": "A7"}), "error: there is no A7"),
        (("set_orders", {"id": "A7", "price": 1}), "error: there is no A7"),
        (("add_orders", {"id": "A1", "status": "open", "price": 1}), "error: A1 exists already"),
        (("add_orders", {"id": "A7", "price": 1}), "error: add_orders: 'status' is a required property"),
        (("set_orders", {"id": "A1"}), "error: set_orders: "),
        (("set_orders", {"id": "A1", "status": "lost"}), "error: set_orders: 'lost' is not one of ['open', 'sent']"),
        (("set_orders", {"id": "A1", "colour": "red"}), "error: set_orders: Additional properties"),
        (("find_orders", {"colour": "red"}), "error: find_orders: Additional properties"),
        (("get_secrets", {"id": "S1"}), "error: there is no tool get_secrets"),
    ],
)
def test_what_makes_no_sense_is_refused_and_changes_nothing(call, error):
    replies, end = asyncio.run(played(WorldEnv(), task(), turn(call), DONE))
    assert replies[0].startswith(error)
    assert end.outcome["state"] == WORLD["state"]


def test_the_outcome_tells_the_final_state_and_the_task_stays_as_it_was():
    the_task = task()
    _, end = asyncio.run(played(WorldEnv(), the_task, turn(("remove_orders", {"id": "A1"}), ("get_x", {})), DONE))
    assert end.end is EndReason.STOP
    assert end.outcome.keys() == {"state", "calls", "failed", "partial"}
    assert end.outcome["calls"] == 1
    assert end.outcome["state"]["orders"].keys() == {"A2", "A3"}
    assert the_task.fields["world"] == WORLD


def test_turns_are_limited_and_the_outcome_is_there_all_the_same():
    call = ("set_orders", {"id": "A1", "price": 8})
    _, end = asyncio.run(played(WorldEnv(turns=2), task(), turn(call), turn(call)))
    assert end.end is EndReason.TURN_LIMIT
    assert end.outcome["state"]["orders"]["A1"]["price"] == 8


def test_equal_turns_get_equal_replies_and_other_tasks_other_luck():
    calls = [("find_orders", {})] * 40
    rates = {"failure_rate": 0.3, "partial_rate": 0.3, "turns": 50}
    first = said(*calls, **rates)
    assert len(set(first)) == 3
    assert said(*calls, **rates) == first
    assert said(*calls, the_task=task(name="u"), **rates) != first


def test_failures_come_as_often_as_they_should():
    count = 4000
    _, end = asyncio.run(
        played(WorldEnv(failure_rate=0.2, partial_rate=0.1), task(), turn(*[("find_orders", {})] * count), DONE)
    )
    assert end.outcome["calls"] == count
    assert end.outcome["failed"] / count == pytest.approx(0.2, abs=0.02)
    assert end.outcome["partial"] / count == pytest.approx(0.1, abs=0.02)


def test_an_outage_does_nothing_and_says_so():
    replies, end = asyncio.run(played(WorldEnv(failure_rate=1), task(), turn(("remove_orders", {"id": "A1"})), DONE))
    assert replies == [f"error: {OUTAGE}"]
    assert end.outcome == {"state": WORLD["state"], "calls": 1, "failed": 1, "partial": 0}


def test_a_partial_call_does_the_first_half_and_says_so():
    replies, end = asyncio.run(
        played(
            WorldEnv(partial_rate=1),
            task(),
            turn(("find_orders", {})),
            turn(("set_orders", {"id": "A1", "price": 8, "status": "sent"})),
            turn(("remove_orders", {"id": "A2"})),
            DONE,
        )
    )
    found, note = replies[0].split("\n")
    assert [r["id"] for r in json.loads(found)] == ["A1"]
    assert note == "incomplete: the service stopped after 1 of 3"
    assert replies[1] == '{"id": "A1", "status": "open", "price": 8}\nincomplete: the service stopped after 1 of 2'
    assert replies[2] == '{"removed": "A2", "status": "open", "price": 4}', "what has one part is done or not"
    assert end.outcome["partial"] == 2


@pytest.mark.parametrize(
    ("world", "problem"),
    [
        ({"state": {}}, "fields.world must have state and collections"),
        ({"state": {}, "collections": {"a": {"tools": ["get"], "fields": {}}}}, "records in world.state"),
        ({"state": {"a": {}}, "collections": {"a": {"tools": ["sell"], "fields": {}}}}, "must have tools out of get"),
        ({"state": {"a": {}}, "collections": {"a": {"tools": ["get"], "fields": {"id": {}}}}}, "called id"),
        ({"state": {"a": {}}, "collections": {"a": {"tools": ["set"], "fields": {"b": {"type": 3}}}}}, "tool set_a"),
    ],
)
def test_a_world_that_makes_no_sense(world, problem):
    with pytest.raises(ValueError, match=problem):
        asyncio.run(WorldEnv().reset(task(world)))


def test_wrong_settings():
    for rates in ({"failure_rate": -0.1}, {"failure_rate": 0.6, "partial_rate": 0.6}):
        with pytest.raises(ValueError, match="failure_rate and partial_rate must be"):
            WorldEnv(**rates)


def scored(goal, final):
    outcome = {} if final is None else {"state": final}
    rollout = Rollout(task_id="t", segments=(), messages=(), end_reason=EndReason.STOP, outcome=outcome)
    score = goal_reached(task(goal=goal), rollout)
    return score.value, score.parts["fulfilled"]


def state(**orders):
    kept = {key: record for key, record in {**ORDERS, **orders}.items() if record is not None}
    return {**WORLD["state"], "orders": kept}


SENT = {"status": "sent", "price": 3}


@pytest.mark.parametrize(
    ("goal", "final", "score"),
    [
        ({"A1": {"status": "sent"}}, state(A1=SENT), (1, 1)),
        ({"A1": {"status": "sent"}}, state(), (0, 0)),
        ({"A1": {"status": "sent"}}, state(A1=SENT | {"price": 9}), (0, 1)),
        ({"A1": {"status": "sent"}}, state(A1=SENT, A2=None), (0, 1)),
        ({"A1": {"status": "sent"}}, state(A1=SENT, A9=SENT), (0, 1)),
        ({"A1": {"status": "sent"}}, {**state(A1=SENT), "secrets": {}}, (0, 1)),
        ({"A1": {"status": "sent"}}, None, (0, 0)),
        ({"A1": None, "A2": {"price": 9}}, state(A1=None, A2={"status": "open", "price": 9}), (1, 1)),
        ({"A1": None, "A2": {"price": 9}}, state(A2={"status": "open", "price": 9}), (0, 0)),
        ({"A9": SENT}, state(A9=SENT), (1, 1)),
        ({"A9": SENT}, state(A9={"status": "sent"}), (0, 0)),
    ],
)
def test_the_goal_counts_and_what_else_was_changed(goal, final, score):
    assert scored({"orders": goal}, final) == score


async def _persist(env, call):
    """Repeat a call until it was not in an outage."""
    while True:
        step = await env.step(turn(call))
        reply = step.messages[0]["content"]
        if reply != f"error: {OUTAGE}":
            return reply


async def oracle(the_task, **rates):
    """Does what the goal asks for, writing one field a time where a call was left incomplete."""
    env = WorldEnv(turns=500, **rates)
    await env.reset(the_task)
    ((name, goal),) = the_task.fields["goal"].items()
    for key, fields in goal.items():
        known = key in the_task.fields["world"]["state"][name]
        if fields is None:
            await _persist(env, (f"remove_{name}", {"id": key}))
            continue
        reply = await _persist(env, (f"{'set' if known else 'add'}_{name}", {"id": key, **fields}))
        assert not reply.startswith("error"), reply
        if "incomplete" in reply:
            for field, value in fields.items():
                await _persist(env, (f"set_{name}", {"id": key, field: value}))
    end = await env.step(DONE)
    rollout = Rollout(task_id=the_task.id, segments=(), messages=(), end_reason=end.end, outcome=end.outcome)
    return goal_reached(the_task, rollout).value


async def idle(the_task):
    env = WorldEnv()
    await env.reset(the_task)
    end = await env.step(DONE)
    rollout = Rollout(task_id=the_task.id, segments=(), messages=(), end_reason=end.end, outcome=end.outcome)
    return goal_reached(the_task, rollout).value


@pytest.mark.parametrize("rates", [{}, {"failure_rate": 0.3, "partial_rate": 0.3}])
def test_every_task_can_be_solved_and_none_is_solved_already(rates):
    tasks = [WorldTasks(seed=5).task_at(i) for i in range(150)]
    assert {t.tags[0] for t in tasks} == set(DOMAINS)
    for the_task in tasks:
        again = Task(
            id=the_task.id, kind="world", messages=the_task.messages, fields=json.loads(json.dumps(the_task.fields))
        )
        assert asyncio.run(oracle(again, **rates)) == 1, the_task
        assert asyncio.run(idle(again)) == 0, the_task


def test_a_task_depends_on_its_number_and_seed_alone():
    assert [WorldTasks().task_at(i) for i in range(9)] == [WorldTasks().task_at(i) for i in range(9)]
    assert WorldTasks(seed=1).task_at(0) != WorldTasks(seed=2).task_at(0)


def test_splits_share_no_instruction():
    for held_out in (False, True):
        tasks = [WorldTasks(seed=3, held_out=held_out).task_at(i) for i in range(100)]
        assert all(is_held_out(t.messages[0]["content"]) == held_out for t in tasks)
        assert len({t.messages[0]["content"] for t in tasks}) > 30
