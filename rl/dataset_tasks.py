"""Tasks from rows: local files, or any ``datasets`` name, mapped by configuration and checked row by row."""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rl.procedural import is_held_out
from rl.types import Task

PARTS = ("train", "held_out", "all")
TYPES = {"str": str, "int": int, "float": (int, float), "bool": bool, "list": list, "dict": dict}
_FILES = (".jsonl", ".jsonl.gz", ".json", ".csv", ".parquet")


class DatasetTasks:
    """Rows of a data set, mapped to tasks.

    Args:
        path: a ``.jsonl`` (also ``.jsonl.gz``), ``.json``, ``.csv`` or ``.parquet`` file, or a name or folder that
            ``datasets`` loads.
        split: split of a ``datasets`` name; ignored for files.
        prompt: template of the user message, with ``{column}`` for a column's value.
        system: system message, or null.
        fields: what the reward needs: field name to template. A template that is one ``{column}`` and nothing else
            gives the column's value as it is, so lists stay lists; any other template gives text.
        constants: fields that are the same for every row, for example ``{test_style: stdio}``.
        patterns: field name to a regular expression; the field becomes its first group's last match, for example
            ``{answer: "#### (.+)"}`` for GSM8K.
        columns: column name to its type (str, int, float, bool, list, dict); a row that differs is refused.
        rows: from and to (exclusive) row number, or null for all.
        tags: columns whose values become the task's tags.
        kind: the tasks' kind.
        env: the tasks' environment.
        part: ``train`` or ``held_out`` take disjoint shares of the rows, by the prompt's text; ``all`` takes all.
        held_out_percent: size of the ``held_out`` share.

    Raises ``ValueError``, naming file and line, for a malformed row, and for an empty selection.

    """

    def __init__(
        self,
        *,
        path: str,
        prompt: str,
        fields: Mapping[str, str],
        split: str = "train",
        system: str | None = None,
        constants: Mapping[str, Any] | None = None,
        patterns: Mapping[str, str] | None = None,
        columns: Mapping[str, str] | None = None,
        rows: Sequence[int] | None = None,
        tags: Sequence[str] = (),
        kind: str = "math",
        env: str = "single_turn",
        part: str = "all",
        held_out_percent: int = 10,
    ) -> None:
        if part not in PARTS:
            raise ValueError(f"tasks: part must be one of {', '.join(PARTS)}, got {part!r}")
        unknown = sorted(set((columns or {}).values()) - set(TYPES))
        if unknown:
            raise ValueError(f"tasks: columns must have types out of {', '.join(TYPES)}, got {', '.join(unknown)}")
        first, last = rows or (0, None)
        stem = Path(path).name.partition(".")[0]
        self._tasks: list[Task] = []
        for index, (where, row) in enumerate(read_rows(path, split)):
            if index < first or (last is not None and index >= last):
                continue
            _check_columns(row, columns or {}, where)
            text = _fill(prompt, row, where)
            if part != "all" and is_held_out(text, percent=held_out_percent) != (part == "held_out"):
                continue
            values = {name: _value(template, row, where) for name, template in fields.items()}
            for name, pattern in (patterns or {}).items():
                values[name] = _last_match(pattern, str(values.get(name, "")), name, where)
            opening = [] if system is None else [{"role": "system", "content": system}]
            self._tasks.append(
                Task(
                    id=f"{stem}-{index}",
                    kind=kind,
                    messages=(*opening, {"role": "user", "content": text}),
                    fields={**(constants or {}), **values},
                    env=env,
                    tags=tuple(tag for column in tags for tag in _tags(row, column, where)),
                )
            )
        if not self._tasks:
            raise ValueError(f"tasks: path must hold at least one row for part {part!r}, got none in {path}")

    @property
    def size(self) -> int:
        return len(self._tasks)

    def task_at(self, index: int) -> Task:
        return self._tasks[index]


class SavedTasks:
    """Tasks as ``closedloop tasks filter`` writes them, with their measured pass rate in ``fields["pass_rate"]``."""

    def __init__(self, *, path: str) -> None:
        self._tasks = [_saved_task(row, where) for where, row in read_rows(path)]
        if not self._tasks:
            raise ValueError(f"tasks: path must hold at least one task, got none in {path}")

    @property
    def size(self) -> int:
        return len(self._tasks)

    def task_at(self, index: int) -> Task:
        return self._tasks[index]


def saved_row(task: Task, pass_rate: float) -> dict[str, Any]:
    """The row from which ``SavedTasks`` makes the task again."""
    fields = {**task.fields, "pass_rate": pass_rate}
    return {"id": task.id, "kind": task.kind, "messages": list(task.messages), "fields": fields, "env": task.env,
            "tags": list(task.tags)}  # fmt: skip


def _saved_task(row: Mapping[str, Any], where: str) -> Task:
    _check_columns(row, {"id": "str", "kind": "str", "messages": "list", "fields": "dict", "tags": "list"}, where)
    return Task(
        id=row["id"],
        kind=row["kind"],
        messages=tuple(row["messages"]),
        fields=row["fields"],
        env=str(row.get("env", "single_turn")),
        tags=tuple(row["tags"]),
    )


def read_rows(path: str, split: str = "train") -> Iterator[tuple[str, Mapping[str, Any]]]:
    """(where, row) for every row of a file or a ``datasets`` name; ``where`` is what an error message calls it."""
    file = Path(path)
    looks_like_file = path.endswith(_FILES)
    if looks_like_file and not file.is_file():
        raise ValueError(f"tasks: path must be a file or a datasets name, got {path}, which does not exist")
    if path.endswith((".jsonl", ".jsonl.gz")):
        yield from _json_lines(file)
        return
    import datasets

    try:
        if looks_like_file:
            loaded = datasets.load_dataset(file.suffix[1:], data_files=str(file), split="train")
        else:
            name, _, subset = path.partition(":")
            loaded = datasets.load_dataset(name, subset or None, split=split)
    except (OSError, ValueError, datasets.exceptions.DatasetGenerationError) as error:
        raise ValueError(f"tasks: path must be readable, got {path}: {str(error).splitlines()[0]}") from error
    for number, row in enumerate(loaded):
        yield f"{path}: row {number + 1}", row


def _json_lines(file: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    with gzip.open(file, "rt", encoding="utf-8") if file.suffix == ".gz" else file.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            where = f"{file}:{number}"
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise ValueError(f"{where}: every line must be a JSON object, got {line.strip()[:60]!r}") from error
            if not isinstance(row, dict):
                raise ValueError(f"{where}: every line must be a JSON object, got {line.strip()[:60]!r}")
            yield where, row


def _check_columns(row: Mapping[str, Any], columns: Mapping[str, str], where: str) -> None:
    for column, kind in columns.items():
        value = row.get(column)
        if not isinstance(value, TYPES[kind]) or (isinstance(value, bool) and kind != "bool"):  # type: ignore[arg-type]
            raise ValueError(
                f"{where}: column {column!r} must be {kind}, got {type(value).__name__} {str(value)[:60]!r}"
            )


def _column(name: str, row: Mapping[str, Any], where: str) -> Any:
    if row.get(name) is None:
        raise ValueError(f"{where}: column {name!r} must have a value; the row has {sorted(row)}")
    return row[name]


def _fill(template: str, row: Mapping[str, Any], where: str) -> str:
    """Put the row's columns into the template. Only ``{column}`` is replaced; other braces stay."""
    return re.sub(r"\{(\w+)\}", lambda match: str(_column(match.group(1), row, where)), template)


def _value(template: str, row: Mapping[str, Any], where: str) -> Any:
    whole = re.fullmatch(r"\{(\w+)\}", template)
    return _column(whole.group(1), row, where) if whole else _fill(template, row, where)


def _tags(row: Mapping[str, Any], column: str, where: str) -> list[str]:
    value = _column(column, row, where)
    return [str(v) for v in value] if isinstance(value, list) else [str(value)]


def _last_match(pattern: str, text: str, name: str, where: str) -> str:
    found = re.findall(pattern, text)
    if not found:
        raise ValueError(f"{where}: field {name!r} must match {pattern!r}, got {text[-60:]!r}")
    return str(found[-1]).strip()
