"""``closedloop tasks``: what the training tasks are, and which of them are worth training on."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from rl.collect import Collector
from rl.config import Config
from rl.dataset_tasks import saved_row
from rl.selection import Filter, Measured, coverage, unsuitable_type
from rl.tasks import first_tasks
from rl.types import RolloutGroup, Task

BATCH = 64
"""Tasks measured between two lines of progress."""
NO_REASONING = "\nReply with the final answer alone and nothing else: no reasoning, no steps."


def report(config: Config, limit: int | None) -> int:
    """Print what the training tasks are made of."""
    from rl.prepare import prepare, verified

    parts = prepare(config)
    tasks = verified(config, _chosen(parts.train, limit))
    lengths = sorted(len(parts.chat.prompt_ids(task.messages)) for task in tasks)
    types = Counter(unsuitable_type(task) for task in tasks)
    table = Table("what", "tasks", "share")
    for title, counts in (
        ("kind", Counter(task.kind for task in tasks)),
        ("tag", coverage(tasks)),
        ("unsuitable type", {k: n for k, n in types.items() if k is not None}),
    ):
        for name, count in dict(counts).items():
            table.add_row(f"{title} {name}", str(count), f"{100 * count / len(tasks):.1f} %")
    console = Console()
    console.print(table)
    middle, last = lengths[len(lengths) // 2], lengths[-1]
    console.print(f"{len(tasks)} tasks; prompt tokens: shortest {lengths[0]}, median {middle}, longest {last}")
    return 0


def filter_tasks(config: Config, rules: Filter, *, output: Path, samples: int, guesses: int, limit: int | None) -> int:
    """Measure, then write the kept tasks and a manifest. Raises ``ValueError`` for wrong input."""
    from rl.launch import sampling
    from rl.prepare import prepare, verified

    if samples < 1 or guesses < 0:
        raise ValueError(f"--samples must be at least 1 and --guesses not negative, got {samples} and {guesses}")
    parts = prepare(config)
    tasks = verified(config, _chosen(parts.train, limit))
    log = output.with_suffix(".measured.jsonl")
    settings = {
        "model": config.model.path,
        "samples": samples,
        "guesses": guesses,
        "temperature": config.rollout.temperature,
    }
    known = _read_log(log, settings)
    missing = [task for task in tasks if task.id not in known]
    console = Console(stderr=True)
    if missing:
        console.print("starting an engine and the reward's processes")
        with sampling(config, parts) as (collector, _), Progress(console=console) as progress:
            bar = progress.add_task("measuring", total=len(tasks), completed=len(tasks) - len(missing))
            for start in range(0, len(missing), BATCH):
                batch = missing[start : start + BATCH]
                measured = _measure(collector, config, batch, samples, guesses)
                _append(log, settings, measured)
                known |= {m.id: m for m in measured}
                progress.advance(bar, len(batch))
    verdicts = {task.id: rules.verdict(task, known[task.id]) for task in tasks}
    kept = [task for task in tasks if verdicts[task.id] == "kept"]
    _write(output, [saved_row(task, known[task.id].pass_rate) for task in kept])
    counts = Counter(verdicts.values())
    manifest = {**settings, **asdict(rules), "measured": len(tasks), "verdicts": dict(counts)}
    output.with_suffix(".manifest.json").write_text(json.dumps(manifest, indent=2) + "\n")
    table = Table("verdict", "tasks")
    for verdict, count in counts.most_common():
        table.add_row(verdict, str(count))
    Console().print(table)
    print(f"{output}: {len(kept)} of {len(tasks)} tasks kept")
    return 0


def _chosen(source: Any, limit: int | None) -> list[Task]:
    if source.size is None and limit is None:
        raise ValueError("--limit must be given, because the training tasks have no end")
    return first_tasks(source, source.size if limit is None else limit)


def _measure(collector: Collector, config: Config, tasks: Sequence[Task], samples: int, guesses: int) -> list[Measured]:
    """Tries with and without reasoning, at the rollout temperature."""
    value = config.evaluation.pass_value
    temperature = config.rollout.temperature
    tried = collector.collect(tasks, group_size=samples, temperature=temperature, stream="filter")
    guessed: list[RolloutGroup] = []
    if guesses:
        quick = [_without_reasoning(task) for task in tasks]
        guessed = collector.collect(quick, group_size=guesses, temperature=temperature, stream="filter/guess")
    return [
        Measured(
            id=task.id,
            passed=_passed(tried[number], value),
            tries=max(1, sum(s.fault is None for s in tried[number].scores)),
            guessed=_passed(guessed[number], value) if guesses else 0,
            guesses=guesses,
            tags=task.tags,
        )
        for number, task in enumerate(tasks)
    ]


def _passed(group: RolloutGroup, pass_value: float) -> int:
    return sum(s.fault is None and s.value >= pass_value for s in group.scores)


def _without_reasoning(task: Task) -> Task:
    *before, last = task.messages
    return replace(task, messages=(*before, {**last, "content": f"{last['content']}{NO_REASONING}"}))


def _read_log(log: Path, settings: dict[str, Any]) -> dict[str, Measured]:
    """What an earlier part of the same measurement found. Raises ``ValueError`` if it was another one."""
    if not log.exists():
        return {}
    first, *rest = log.read_text().splitlines() or ["{}"]
    if json.loads(first) != settings:
        raise ValueError(f"{log} was measured with other settings ({first}); delete it or choose another --output")
    found = {}
    for line in rest:
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            continue  # the line that a kill cut off
        found[row["id"]] = Measured(**{**row, "tags": tuple(row["tags"])})
    return found


def _append(log: Path, settings: dict[str, Any], measured: Sequence[Measured]) -> None:
    log.parent.mkdir(parents=True, exist_ok=True)
    new = not log.exists()
    with log.open("a") as file:
        if new:
            file.write(json.dumps(settings) + "\n")
        file.writelines(json.dumps(asdict(m)) + "\n" for m in measured)


def _write(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".writing-{path.name}")
    aside.write_text("".join(json.dumps(row) + "\n" for row in rows))
    aside.replace(path)
