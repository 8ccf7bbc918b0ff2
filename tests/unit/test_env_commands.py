"""``closedloop env new`` and ``closedloop env check``, as a user would meet them."""

import asyncio
import json
import subprocess
import sys

import pytest
from jsonschema import Draft202012Validator

from rl.compose import REPOSITORY
from rl.dataset_tasks import saved_row
from rl.repo_tasks import RepoTasks
from rl.sandbox import isolation
from scripts.cli import main
from scripts.env_check import examine, read_tasks
from scripts.env_play import example


def printed(capsys):
    return " ".join(capsys.readouterr().out.split())


def test_a_new_environment_passes_its_own_test_and_check(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["env", "new", "my_game"]) == 0
    assert "closedloop env check my_game.MyGame" in capsys.readouterr().out
    assert main(["env", "new", "my_game"]) == 2
    assert "NAME must not be taken, got my_game" in capsys.readouterr().err
    assert main(["env", "new", "My Game"]) == 2
    assert "NAME must be a Python name in lower case" in capsys.readouterr().err
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "."], cwd=tmp_path, capture_output=True,
        text=True, check=False, env={"PYTHONPATH": f"{tmp_path}:{REPOSITORY}", "PATH": ""},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    monkeypatch.syspath_prepend(str(tmp_path))
    assert main(["env", "check", "my_game.MyGame", "turns=3"]) == 0
    out = printed(capsys)
    assert "fit to train in" in out
    assert "unfit" not in out
    assert "ends │ turn_limit" in out


def test_an_environment_of_the_configuration_by_its_name(capsys):
    assert main(["env", "check", "tools", 'tools=[{"_target_": "envs.calculator.Calculator"}]']) == 0
    assert "tools called │ calculator" in printed(capsys)


@pytest.mark.skipif(isolation.problem() is not None, reason=str(isolation.problem()))
def test_a_workspace_with_its_tasks(tmp_path, capsys):
    path = tmp_path / "tasks.jsonl"
    path.write_text(json.dumps(saved_row(RepoTasks().task_at(0), 0.5)) + "\n")
    assert main(["env", "check", "envs.workspace.Workspace", "--tasks", str(path)]) == 0
    assert "shell, read_file, write_file, replace" in printed(capsys)
    assert main(["env", "check", "envs.workspace.Workspace"]) == 1
    assert "files must map at least one path to a text" in printed(capsys)


ENVS = """
import asyncio, itertools, random, time
from envs.base import Ask, Opening, Step
from rl.tool_calls import declaration
from rl.types import EndReason

class Fine:
    tools, outcome = (), {}
    def __init__(self):
        self.turns = 0
    async def reset(self, task):
        return Opening(messages=task.messages, tools=self.tools)
    async def step(self, message):
        self.turns += 1
        if self.turns == 3:
            return Step(end=EndReason.ENV_END, outcome=self.outcome)
        return self.reply(message)
    def reply(self, message):
        return Step(messages=[{"role": "user", "content": f"Turn {self.turns}."}])
    async def close(self):
        pass

class Hangs(Fine):
    async def reset(self, task):
        await asyncio.sleep(60)

class Blocks(Fine):
    async def reset(self, task):
        time.sleep(0.6)
        return Opening(messages=task.messages)

class Raises(Fine):
    def reply(self, message):
        return Step(messages=[{"role": "user", "content": message["content"][0]}])

class Silent(Fine):
    def reply(self, message):
        return Step()

class Impostor(Fine):
    def reply(self, message):
        return Step(messages=[{"role": "assistant", "content": "Yes."}])

class Wordless(Fine):
    def reply(self, message):
        return Step(messages=[{"role": "user", "content": None}])

class Unwritable(Fine):
    outcome = {"seen": {1, 2}}

class NotANumber(Fine):
    outcome = {"loss": float("nan")}

class Random(Fine):
    def reply(self, message):
        return Step(messages=[{"role": "user", "content": str(random.random())}])

class Counting(Fine):
    count = itertools.count()
    def reply(self, message):
        return Step(messages=[{"role": "user", "content": str(next(self.count))}])

class Shared(Fine):
    heard = []
    async def reset(self, task):
        self.heard.clear()
        return await super().reset(task)
    def reply(self, message):
        self.heard.append(message["content"])
        return Step(messages=[{"role": "user", "content": repr(self.heard)}])

class Unclosable(Fine):
    async def reset(self, task):
        self.file = object()
        return await super().reset(task)
    async def close(self):
        del self.file

class BadSchema(Fine):
    tools = (declaration("a", "", {"type": "thing"}),)

class NoSchema(Fine):
    tools = ({"name": "a"},)

class Unanswered(Fine):
    tools = (declaration("a", "", {"type": "object"}),)

class Plain(Fine):
    def step(self, message):
        return Step(end=EndReason.STOP)

class Asks(Fine):
    def reply(self, message):
        return Step(ask=Ask(messages=[{"role": "user", "content": "?"}], max_tokens=5))
    async def hear(self, text):
        return Step(messages=[{"role": "user", "content": text}])

class AsksForEver(Asks):
    async def hear(self, text):
        return self.reply(None)
"""


@pytest.fixture
def envs(tmp_path, monkeypatch):
    (tmp_path / "some_envs.py").write_text(ENVS)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "some_envs", raising=False)


@pytest.mark.parametrize("name", ["Fine", "Asks"])
def test_sound_environments_are_fit(envs, name, capsys):
    assert main(["env", "check", f"some_envs.{name}"]) == 0
    out = printed(capsys)
    assert "unfit" not in out
    assert "ends │ env_end 18" in out


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("Hangs", "answers everything in time: task check-0: reset: no answer within 0.5 s"),
        ("Blocks", "answers everything in time: task check-0: reset: no answer within 0.5 s"),
        ("Raises", "answers everything in time: task check-0: turn 1: raised IndexError"),
        ("Plain", "answers everything in time: task check-0: turn 1: raised TypeError"),
        ("AsksForEver", "answers everything in time: task check-0: turn 1: asks models without end"),
        ("Silent", "messages are well-formed: task check-0: turn 1: neither says something nor ends"),
        ("Impostor", "messages are well-formed: task check-0: turn 1: must have a role, not the policy's"),
        ("Wordless", "messages are well-formed: task check-0: turn 1: must have a role"),
        ("Unanswered", "messages are well-formed: task check-0: turn 1: every call must be answered by its id"),
        ("Unwritable", "outcomes are JSON: task check-0: turn 3: Object of type set"),
        ("NotANumber", "outcomes are JSON: task check-0: turn 3: Out of range float"),
        ("BadSchema", "tools have JSON schemas: must be as rl.tool_calls.declaration makes them"),
        ("NoSchema", "tools have JSON schemas: must be as rl.tool_calls.declaration makes them"),
        ("Random", "says the same to the same turns: task check-0, played again: said something else to empty turns"),
        ("Counting", "says the same to the same turns: task check-0, played again"),
        ("Shared", "other instances make no difference: task check-0, with others beside it: said something else"),
        ("Unclosable", "closes after a failed reset: close: raised AttributeError"),
    ],
)
def test_unfit_environments_are_found_out(envs, name, reason, capsys):
    assert main(["env", "check", f"some_envs.{name}", "--deadline", "0.5"]) == 1
    out = printed(capsys)
    assert reason in out
    others = [line for line in out.split("unfit: ")[1:] if not line.startswith(reason.partition(":")[0])]
    assert not others, "one cause, one finding"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nothing"], "SPEC must be a dotted path or one of single_turn, "),
        (["envs.nothing.Env"], "env envs.nothing.Env: _target_ must name something that takes these settings"),
        (["tools", "turns=0"], "turns and output_chars must be at least 1, got 0"),
        (["tools", "turns"], "a setting must be KEY=VALUE, got 'turns'"),
        (["tools", "--tasks", "nowhere.jsonl"], "got nowhere.jsonl, which does not exist"),
    ],
)
def test_wrong_input_is_one_line(arguments, message, capsys):
    assert main(["env", "check", *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_tasks_come_from_rows_with_fields_or_columns(tmp_path):
    path = tmp_path / "tasks.jsonl"
    path.write_text('{"question": "1+1?", "answer": "2"}\n{"id": "b", "messages": [], "fields": {"x": 1}}\n')
    first, second = read_tasks(str(path))
    assert (first.id, first.messages, first.fields["answer"]) == ("0", ({"role": "user", "content": "1+1?"},), "2")
    assert (second.id, second.messages, second.fields) == ("b", (), {"x": 1})
    path.write_text('{"answer": "2"}\n')
    with pytest.raises(ValueError, match=r"tasks.jsonl:1: a row must have one of prompt, question"):
        read_tasks(str(path))


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "object", "properties": {"a": {"type": "string", "minLength": 3}}, "required": ["a"]},
        {"type": "object", "properties": {"a": {"enum": ["x"]}, "b": {"const": 4}}, "required": ["a", "b"]},
        {"type": "array", "items": {"type": "integer", "minimum": 5}, "minItems": 2},
        {"type": "number", "maximum": -3},
        {"type": ["null", "string"]},
        {"anyOf": [{"type": "boolean"}, {"type": "string"}]},
        {"properties": {"a": {"type": "array"}}, "required": ["a"]},
        {},
    ],
)
def test_examples_fit_their_schemas(schema):
    Draft202012Validator(schema).validate(example(schema))


def test_a_tool_that_no_call_can_be_made_up_for_is_named(envs):
    from rl.tool_calls import declaration

    pattern = {"type": "object", "properties": {"a": {"type": "string", "pattern": "^z+$"}}, "required": ["a"]}
    tools = [{"_target_": "envs.calculator.Calculator"}]

    def make():
        from envs.tools import ToolEnv

        env = ToolEnv(tools=tools)
        env._toolbox.declarations.append(declaration("odd", "", pattern))
        return env

    report = asyncio.run(examine(make, read_tasks(None), 5.0))
    assert report.tools == {"calculator": True, "odd": False}
    assert not report.findings
