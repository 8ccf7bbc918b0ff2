"""MCP servers for real: calls, errors, servers that die or hang, and no process left behind."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time

import psutil
import pytest

from envs.mcp import McpEnv
from rl.compose import REPOSITORY
from rl.rollout import Episode, RolloutLimits
from rl.types import EndReason, Sample, Task

SERVER = str(REPOSITORY / "tests/data/mcp/server.py")
DONE = {"role": "assistant", "content": "Done."}


def task(**fields):
    return Task(id="t", kind="tools", messages=({"role": "user", "content": "Go."},), fields=fields)


def turn(*calls):
    parts = [{"id": f"functions.{n}:{i}", "function": {"name": n, "arguments": a}} for i, (n, a) in enumerate(calls)]
    return {"role": "assistant", "content": "", "tool_calls": parts}


@pytest.fixture
def pids(tmp_path):
    """The folder in which servers leave their ids. At the end none of them may live."""
    yield tmp_path
    started = [int(path.name) for path in tmp_path.iterdir()]
    assert started, "no server was started"
    assert not [pid for pid in started if psutil.pid_exists(pid)]


def stdio(pids, *args, **settings):
    return McpEnv(command=sys.executable, args=[SERVER, str(pids), *args], **settings)


async def said(env, *turns, the_task=None):
    try:
        await env.reset(the_task or task())
        return [m["content"] for t in turns for m in (await env.step(t)).messages]
    finally:
        await env.close()


def test_tools_are_offered_with_their_schemas_and_called(pids):
    async def rollout():
        env = stdio(pids)
        opening = await env.reset(task())
        steps = [
            await env.step(turn(("add", {"a": 2, "b": 3}), ("add", {"a": 4, "b": 5}))),
            await env.step(turn(("note", {"text": "one"}))),
            await env.step(turn(("note", {"text": "two"}), ("draw", {}))),
            await env.step(DONE),
        ]
        await env.close()
        return opening, steps

    opening, steps = asyncio.run(rollout())
    offered = {t["function"]["name"]: t["function"] for t in opening.tools}
    assert offered.keys() == {"add", "note", "refuse", "draw", "arguments", "die", "hang"}
    assert offered["add"]["description"] == "Adds two numbers."
    assert offered["add"]["parameters"]["required"] == ["a", "b"]
    contents = [[m["content"] for m in step.messages] for step in steps]
    assert contents == [["5", "9"], ["one"], ["one\ntwo", "before\n[image]\nafter"], []]
    assert steps[-1].end is EndReason.STOP


def test_turns_and_outputs_are_limited(pids):
    async def rollout():
        env = stdio(pids, turns=2, output_chars=10)
        await env.reset(task())
        steps = [await env.step(turn(("note", {"text": "x" * 99}))), await env.step(turn(("add", {"a": 1, "b": 1})))]
        await env.close()
        return steps

    first, second = asyncio.run(rollout())
    assert first.messages[0]["content"] == "xxxxx\n[...]\nxxxxx"
    assert second.end is EndReason.TURN_LIMIT


def test_what_is_wrong_with_a_call_goes_to_the_policy_and_the_server_lives_on(pids):
    calls = [("add", {"a": 1}), ("add", {"a": 1, "b": "x"}), ("subtract", {}), ("refuse", {"why": "no"})]
    replies = asyncio.run(said(stdio(pids), turn(*calls), turn(("add", {"a": 1, "b": 1}))))
    assert replies[0] == "error: add: 'b' is a required property"
    assert replies[1] == "error: add: 'x' is not of type 'integer'"
    assert replies[2].startswith("error: there is no tool subtract; there are add, ")
    assert replies[3].startswith("error: ")
    assert "no" in replies[3]
    assert replies[4] == "2"


def test_arguments_of_configuration_and_task_and_variables(pids):
    env = stdio(pids, "first", env={"COLOUR": "red"})
    assert asyncio.run(said(env, turn(("arguments", {})), the_task=task(mcp=["second"]))) == ["first second red"]


def test_a_server_that_dies_is_a_fault_with_its_last_words(pids):
    async def rollout():
        env = stdio(pids)
        await env.reset(task())
        with pytest.raises(ConnectionError, match="failed: Connection closed; it wrote: out of luck"):
            await env.step(turn(("die", {})))
        with pytest.raises(ConnectionError, match="Connection closed"):
            await env.step(turn(("add", {"a": 1, "b": 1})))
        await env.close()

    asyncio.run(rollout())


def test_a_server_that_is_killed_between_calls_is_a_fault(pids):
    async def rollout():
        env = stdio(pids)
        await env.reset(task())
        for path in pids.iterdir():
            os.kill(int(path.name), signal.SIGKILL)
        with pytest.raises(ConnectionError, match="Connection closed"):
            await env.step(turn(("add", {"a": 1, "b": 1})))
        await env.close()

    asyncio.run(rollout())


@pytest.mark.parametrize(
    ("command", "args", "problem"),
    [
        ("no-such-program", [], "did not start: FileNotFoundError"),
        (sys.executable, ["-c", "raise SystemExit('bad day')"], "did not start: .*; it wrote: bad day"),
    ],
)
def test_what_is_no_server(command, args, problem):
    with pytest.raises(ConnectionError, match=problem):
        asyncio.run(said(McpEnv(command=command, args=args)))


def test_a_server_that_is_never_ready(pids):
    started = time.monotonic()
    with pytest.raises(ConnectionError, match="did not list its tools within 2 s"):
        asyncio.run(said(stdio(pids, "late", start_deadline_s=2)))
    assert time.monotonic() - started < 20


class Caller:
    """A chat format and an engine of a policy that says one thing, whatever it hears: a call."""

    def __init__(self, name):
        self.name = name

    def prompt_ids(self, messages, tools=()):
        return [1]

    continuation_ids = prompt_ids

    def read(self, token_ids, *, call_number=0):
        return turn((self.name, {}))

    async def sample(self, request):
        return Sample(token_ids=[0], logprobs=[0.0], stopped=True, policy_version=0, generate_s=0.0)


def episode(pids, name, *args, deadline_s):
    caller = Caller(name)
    return Episode(
        name="e", task=task(), make_env=lambda: stdio(pids, *args), engine=caller, chat=caller, temperature=1.0, seed=0,
        limits=RolloutLimits(max_tokens=99, context=999, env_deadline_s=deadline_s),
    )  # fmt: skip


@pytest.mark.slow
def test_a_silent_server_is_a_recorded_fault_and_is_ended_even_if_it_does_not_want_to(pids):
    rollout = asyncio.run(episode(pids, "hang", "stubborn", deadline_s=6).run())
    assert rollout.end_reason is EndReason.ENV_ERROR
    assert rollout.error == "the environment gave no answer within 6 s"


def test_a_rollout_that_is_cut_off_while_its_server_starts_leaves_no_server(pids):
    async def cut_off():
        running = asyncio.create_task(episode(pids, "hang", "late", deadline_s=60).run())
        while not list(pids.iterdir()):
            await asyncio.sleep(0.01)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running

    asyncio.run(cut_off())


def test_eight_at_once_have_servers_of_their_own(pids):
    async def one(number):
        return await said(stdio(pids), turn(("note", {"text": str(number)})), turn(("note", {"text": "x"})))

    async def eight():
        return await asyncio.gather(*map(one, range(8)))

    assert asyncio.run(eight()) == [[str(n), f"{n}\nx"] for n in range(8)]
    assert len(list(pids.iterdir())) == 8


def test_it_may_be_closed_by_another_task_than_began_it(pids):
    async def rollout():
        env = stdio(pids)
        await asyncio.create_task(env.reset(task()))
        step = await asyncio.create_task(env.step(turn(("add", {"a": 1, "b": 1}))))
        await asyncio.create_task(env.close())
        return step.messages[0]["content"]

    assert asyncio.run(rollout()) == "2"


@pytest.fixture
def address(pids):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with subprocess.Popen([sys.executable, SERVER, str(pids), "http", str(port)]) as process:
        while True:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            assert process.poll() is None
            time.sleep(0.05)
        yield f"http://127.0.0.1:{port}/mcp", process
        process.kill()


def test_a_server_with_an_address(address):
    url, process = address
    calls = turn(("add", {"a": 2, "b": 3}), ("refuse", {"why": "no"}))
    sums, refusal = asyncio.run(said(McpEnv(url=url), calls))
    assert sums == "5"
    assert refusal.startswith("error: ")
    with pytest.raises(ValueError, match=r"fields.mcp must be empty for a server with a url, got \['x'\]"):
        asyncio.run(said(McpEnv(url=url), the_task=task(mcp=["x"])))

    async def killed():
        env = McpEnv(url=url)
        await env.reset(task())
        process.kill()
        process.wait()
        for _ in range(2):
            with pytest.raises(ConnectionError, match="the MCP server failed"):
                await env.step(turn(("add", {"a": 1, "b": 1})))
        with pytest.raises(ConnectionError, match=r"the MCP server failed: .*connection attempts failed"):
            await env.close()

    asyncio.run(killed())
    with pytest.raises(ConnectionError, match="did not start"):
        asyncio.run(said(McpEnv(url=url)))


@pytest.mark.parametrize("wrong", [{}, {"command": "a", "url": "b"}, {"url": "b", "args": ["c"]}])
def test_settings_must_name_one_server(wrong):
    with pytest.raises(ValueError, match="either command, with args and env, or url alone must be set"):
        McpEnv(**wrong)
    with pytest.raises(ValueError, match="start_deadline_s must be positive, got 0"):
        McpEnv(command="a", start_deadline_s=0)
