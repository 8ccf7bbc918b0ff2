"""The Python tool in its real sandbox: what it remembers, what it survives, what it cannot reach."""

import asyncio
import time

import pytest

from envs.python_tool import Python
from envs.tools import ToolEnv, ToolError
from rl.sandbox import isolation
from rl.sandbox.base import Limits
from rl.sandbox.session import Session
from rl.tool_calls import STARTER, read_turn
from rl.types import Task

pytestmark = pytest.mark.skipif(isolation.problem() is not None, reason="no sandbox here")


def run(*codes, **limits):
    """What each piece of code comes to, in one interpreter."""

    async def all_of_them():
        tool = Python(limits={"wall_s": 3.0} | limits)
        said = []
        try:
            for code in codes:
                try:
                    said.append(await tool.call({"code": code}))
                except ToolError as error:
                    said.append(f"error: {error}")
        finally:
            await tool.close()
        return said

    return asyncio.run(all_of_them())


def test_it_remembers_prints_and_shows_the_last_value():
    assert run("x = 3", "print(x + 1)", "x * 2", "def f(n):\n    return n + x", "f(4)", "None") == [
        "(no output)", "4", "6", "(no output)", "7", "(no output)",
    ]  # fmt: skip


def test_errors_are_output_and_harm_nothing():
    first, second, third, fourth = run("y = 1\n1/0", "y", "import sys; sys.exit(2)", "def (")
    assert first.startswith("Traceback")
    assert first.endswith("ZeroDivisionError: division by zero")
    assert "session.py" not in first
    assert (second, third) == ("1", "(no output)")
    assert "SyntaxError" in fourth


def test_what_takes_too_long_dies_and_the_next_call_meets_a_new_interpreter():
    started = time.monotonic()
    slow, gone, fine = run("x = 1\nwhile True: pass", "x", "2 + 2")
    assert "took more than 3 s" in slow
    assert "NameError" in gone
    assert fine == "4"
    assert time.monotonic() - started < 15


def test_death_memory_and_floods_are_survived():
    died, big, flood, fine = run(
        "import os; os._exit(1)", "b = bytearray(10**10)", "print('a' * 10**7)", "1", memory_mib=256, output_kib=4
    )
    assert "it died" in died
    assert "MemoryError" in big
    assert len(flood) < 5000
    assert "[...]" in flood
    assert fine == "1"


def test_it_sees_neither_the_machine_nor_a_network():
    files, net, environment = run(
        "import os; print(os.path.exists('/root'), os.path.exists('/etc/passwd'), os.listdir('/tmp'))",
        "import socket; socket.create_connection(('192.0.2.1', 80), timeout=0.2)",
        "import os; print(*os.environ)",
    )
    assert files == "False False []"
    assert "Network is unreachable" in net
    assert set(environment.split()) <= {"HOME", "LANG", "LC_CTYPE", "PATH", "PWD", "PYTHONDONTWRITEBYTECODE"}


def test_calls_of_one_turn_follow_each_other_in_one_interpreter():
    async def turn():
        env = ToolEnv(tools=[{"_target_": "envs.python_tool.Python"}])
        await env.reset(Task(id="t", kind="tools", messages=()))
        codes = ("x = 2", "x = x ** 5", "x")
        calls = "".join(f'<|call|>{{"name": "python", "arguments": {{"code": "{c}"}}}}<|/call|>' for c in codes)
        step = await env.step(read_turn(calls, STARTER, number=0))
        await env.close()
        return [m["content"] for m in step.messages]

    assert asyncio.run(turn()) == ["(no output)", "(no output)", "32"]


def test_files_and_shell():
    async def work():
        session = Session(Limits(wall_s=5))
        await session.ask("write", files={"/tmp/repo/a.py": "x = 1\n", "/tmp/repo/b/c.txt": "hi"})
        shown = await session.ask("shell", command="cat a.py; ls b; false", cwd="/tmp/repo")
        read = await session.ask("read", folder="/tmp/repo")
        await session.close()
        return shown, read

    shown, read = asyncio.run(work())
    assert shown == {"output": "x = 1\nc.txt\n", "status": 1}
    assert read == {"files": {"a.py": "x = 1\n", "b/c.txt": "hi"}}


def test_many_sandboxes_at_once_and_none_is_left():
    async def one(number):
        env = ToolEnv(tools=[{"_target_": "envs.python_tool.Python"}])
        await env.reset(Task(id=str(number), kind="tools", messages=()))
        body = f'{{"name": "python", "arguments": {{"code": "print({number} ** 2)"}}}}'
        step = await env.step(read_turn(f"<|call|>{body}<|/call|>", STARTER, number=0))
        await env.close()
        return step.messages[0]["content"]

    async def many():
        return await asyncio.gather(*map(one, range(24)))

    assert asyncio.run(many()) == [str(n**2) for n in range(24)]
