"""``closedloop env check``: run an environment without a model, and say whether it is fit to train in."""

from __future__ import annotations

import asyncio
import contextlib
import statistics
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from jsonschema import Draft202012Validator
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from envs.base import Env
from rl.compose import load_config
from rl.dataset_tasks import read_rows
from rl.plugins import build
from rl.tool_calls import STARTER, ToolCall, read_turn
from rl.types import Message, Task
from scripts.env_play import APART, CHECKS, CLOSES, SAME, Play, UnfitError, example, in_time, shown
from scripts.reward_check import PROMPTS

NOISE = "%$#@! ]]> {\"'\\ \0 <|call|> \N{SNOWMAN} 0"
TURNS = 50
"""Empty or nonsensical turns in a row, unless the rollout ends before."""


@dataclass
class Report:
    """What the check found. ``findings`` says what is wrong, by check; empty if the environment is fit."""

    episodes: int = 0
    seconds: list[float] = field(default_factory=list)
    ends: Counter[str] = field(default_factory=Counter)
    tools: dict[str, bool] = field(default_factory=dict)
    """By name, whether a call could be made up."""
    findings: dict[str, list[str]] = field(default_factory=dict)

    def add(self, error: UnfitError) -> None:
        found = self.findings.setdefault(error.check, [])
        if str(error) not in found:
            found.append(str(error))


def check(target: str, settings: Mapping[str, Any], tasks: str | None, *, deadline_s: float) -> int:
    """Print the report; 0 if the environment is fit, 1 if not. Raises ``ValueError`` for wrong input."""
    spec = _spec(target, settings)
    build(spec, name=f"env {target}")
    report = asyncio.run(examine(lambda: build(spec, name=f"env {target}"), read_tasks(tasks), deadline_s))
    _print(target, report)
    return int(bool(report.findings))


def _spec(target: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The environment's configuration: a dotted path, or a name in the configuration's ``env``."""
    known = load_config([]).env
    if target in known:
        return {**known[target], **settings}
    if "." not in target:
        raise ValueError(f"SPEC must be a dotted path or one of {', '.join(sorted(known))}, got {target!r}")
    return {"_target_": target, **settings}


def read_tasks(path: str | None) -> list[Task]:
    """Tasks from rows as ``closedloop tasks filter`` writes them, or with a prompt and whatever fields; else two."""
    if path is None:
        hello = ({"role": "user", "content": "Hello."},)
        return [Task(id=f"check-{number}", kind="check", messages=hello) for number in range(2)]
    tasks = []
    for index, (where, row) in enumerate(read_rows(path)):
        column = next((name for name in PROMPTS if isinstance(row.get(name), str)), None)
        if column is None and "messages" not in row:
            raise ValueError(f"{where}: a row must have one of {', '.join(PROMPTS)} or messages, got {sorted(row)}")
        messages = row["messages"] if column is None else [{"role": "user", "content": row[column]}]
        fields = row["fields"] if isinstance(row.get("fields"), dict) else dict(row)
        kind = str(row.get("kind", "check"))
        tasks.append(Task(id=str(row.get("id", index)), kind=kind, messages=tuple(messages), fields=fields))
    if not tasks:
        raise ValueError(f"--tasks must hold at least one row, got none in {path}")
    return tasks


async def examine(make: Callable[[], Env], tasks: Sequence[Task], deadline_s: float) -> Report:
    """Play every task with scripted turns: each script alone, alone once more, and then all at the same time."""
    report = Report()
    for task in tasks:

        def play(turns: Sequence[Message], task: Task = task) -> Awaitable[list[Any]]:
            report.episodes += 1
            return Play(make, task, deadline_s, report.seconds.append, lambda end: report.ends.update([end])).run(turns)

        try:
            (opening,) = await play([])
            scripts = _scripts(opening["tools"], report)
            alone = [await play(turns) for turns in scripts.values()]
            again = [await play(turns) for turns in scripts.values()]
            _compare(scripts, alone, again, SAME, f"task {task.id}, played again")
            together = await asyncio.gather(*map(play, scripts.values()), return_exceptions=True)
            _compare(scripts, alone, together, APART, f"task {task.id}, with others beside it")
        except UnfitError as error:
            report.add(error)
    for failed in (False, True):
        try:
            await _close(make(), failed, deadline_s)
        except UnfitError as error:
            report.add(error)
    return report


async def _close(env: Env, failed: bool, deadline_s: float) -> None:
    """Close an instance that was never reset, or whose ``reset`` had nothing to begin with and may have failed."""
    if failed:
        nothing = Task(id="nothing", kind="check", messages=())
        with contextlib.suppress(UnfitError):
            await in_time(lambda: env.reset(nothing), "reset", deadline_s)
    try:
        await in_time(env.close, "close", deadline_s)
    except UnfitError as error:
        raise UnfitError(CLOSES, str(error)) from error


def _compare(names: Mapping[str, Any], first: Sequence[Any], second: Sequence[Any], check: str, when: str) -> None:
    for name, one, other in zip(names, first, second, strict=True):
        if one != other:
            said = other if isinstance(other, BaseException) else next(
                (new for old, new in zip(one, other, strict=False) if old != new), other
            )  # fmt: skip
            raise UnfitError(check, f"{when}: said something else to {name}: {shown(said)}")


def _scripts(tools: Sequence[Mapping[str, Any]], report: Report) -> dict[str, list[Message]]:
    """Turns that any policy may take, by what they are."""
    empty, noise = ({"role": "assistant", "content": text} for text in ("", NOISE))
    turns: list[Message] = []
    for body in ("{", '{"name": "no_such_tool", "arguments": {}}'):
        turns.append(read_turn(f"<|call|>{body}<|/call|>", STARTER, number=len(turns)))
    for tool in tools:
        name, schema = tool["function"]["name"], tool["function"]["parameters"]
        arguments = example(schema)
        report.tools[name] = Draft202012Validator(schema).is_valid(arguments)
        if report.tools[name]:
            call = ToolCall(id=f"functions.{name}:{len(turns)}", name=name, arguments=arguments)
            turns.append({"role": "assistant", "content": "", "tool_calls": [call.as_message_part()]})
    return {"empty turns": [empty] * TURNS, "nonsense": [noise] * TURNS, "tool calls": [*turns, empty]}


def _print(target: str, report: Report) -> None:
    table = Table(title=f"env {target}", show_header=False)
    table.add_row("episodes played", str(report.episodes))
    if report.seconds:
        millis = [1000 * s for s in report.seconds]
        table.add_row("latency p50, slowest", f"{statistics.median(millis):.1f} ms, {max(millis):.1f} ms")
    table.add_row("ends", ", ".join(f"{end} {count}" for end, count in sorted(report.ends.items())) or "none")
    called = [name if made else f"{name} (no call could be made up)" for name, made in report.tools.items()]
    table.add_row("tools called", ", ".join(called) or "none")
    for name in CHECKS:
        found = len(report.findings.get(name, ()))
        table.add_row(name, f"{found} findings" if found else "yes")
    console = Console()
    console.print(table)
    for name, texts in report.findings.items():
        for text in texts[:3]:
            console.print(f"[red]unfit[/]: {name}: {escape(text)}")
    if not report.findings:
        console.print("[green]fit to train in[/]")
