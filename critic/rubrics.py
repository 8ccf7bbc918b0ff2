"""Rubrics: what the critic looks for when it compares responses, read from YAML files and checked entry by entry."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from rl.types import Task

_SHIPPED = Path(__file__).with_name("rubrics")


class RubricKind(StrEnum):
    """Where a rubric comes from (K2 §3.2.2)."""

    CORE = "core"
    """What the assistant should value, whatever the task."""
    PRESCRIPTIVE = "prescriptive"
    """Forbids a way to please the judge without being better."""
    INFERRED = "inferred"
    """Not in the published list, but implied by what is written about it."""
    HUMAN = "human"
    """Written by people for a context."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Rubric:
    """One thing that the critic looks for, in the words that the judge reads."""

    name: str
    text: str
    kind: RubricKind = RubricKind.HUMAN
    kinds: tuple[str, ...] = ()
    """Task kinds that it is for; empty means all."""
    tags: tuple[str, ...] = ()
    """The task must have at least one of them; empty means any task."""
    weight: float = 1.0
    """Importance as the judge is told, above 0."""
    mandatory: bool = False
    """A response that breaks it loses its pairs."""

    def applies(self, task: Task) -> bool:
        """Whether the task is in the rubric's scope."""
        return (not self.kinds or task.kind in self.kinds) and (
            not self.tags or not set(self.tags).isdisjoint(task.tags)
        )

    def render(self) -> str:
        """The line that the judge reads."""
        importance = "" if self.weight == 1 else f" (counts {self.weight:g}x)"
        return f"- {self.name}: {self.text}{importance}{' (must be kept)' if self.mandatory else ''}"


@dataclass(frozen=True)
class RubricSet:
    """Rubrics with different names, in the order of their files."""

    rubrics: tuple[Rubric, ...]

    def __iter__(self) -> Iterator[Rubric]:
        return iter(self.rubrics)

    def __len__(self) -> int:
        return len(self.rubrics)

    @cached_property
    def hash(self) -> str:
        """16 hex digits that change with any rubric's content, and not with order or the layout of files."""
        content = [
            {
                "name": rubric.name,
                "text": rubric.text,
                "kind": rubric.kind,
                "kinds": sorted(set(rubric.kinds)),
                "tags": sorted(set(rubric.tags)),
                "weight": float(rubric.weight),
                "mandatory": rubric.mandatory,
            }
            for rubric in sorted(self.rubrics, key=lambda rubric: rubric.name)
        ]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]

    @property
    def mandatory(self) -> tuple[Rubric, ...]:
        return tuple(rubric for rubric in self.rubrics if rubric.mandatory)

    def for_task(self, task: Task) -> RubricSet:
        """Those whose scope the task is in."""
        return RubricSet(tuple(rubric for rubric in self.rubrics if rubric.applies(task)))

    def render(self) -> str:
        """The list as the judge reads it, one line per rubric."""
        return "\n".join(rubric.render() for rubric in self.rubrics)


def load_rubrics(files: Sequence[str]) -> RubricSet:
    """Read rubrics from YAML files; the bare name of a shipped file (``core``) stands for it.

    Raises ``ValueError``, naming file, rubric and field, for whatever is malformed, and for a name that comes twice.
    """
    rubrics: list[Rubric] = []
    file_of: dict[str, str] = {}
    for file in files:
        for number, row in enumerate(_rows(file), start=1):
            rubric = _rubric(row, file, number)
            if rubric.name in file_of:
                raise _refusal(
                    f"{file}: rubric {number}: name",
                    "unique over all files",
                    f"{rubric.name!r}, which {file_of[rubric.name]} has already",
                    "rename or drop one of the two, and list each file once",
                )
            file_of[rubric.name] = file
            rubrics.append(rubric)
    return RubricSet(tuple(rubrics))


class _Loader(yaml.SafeLoader):
    """YAML without repeated keys: of two rubrics with a forgotten "-" between them, one would be lost unseen."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.MarkedYAMLError(problem=f"{key!r} comes twice in one mapping", problem_mark=node.start_mark)
        return super().construct_mapping(node, deep)


def _rows(file: str) -> list[Any]:
    shipped = {path.stem: path for path in sorted(_SHIPPED.glob("*.yaml"))}
    path = shipped.get(file, Path(file))
    if not path.is_file():
        raise _refusal(
            "critic.rubrics",
            "YAML files or names of shipped ones",
            f"{file!r}, which is no file",
            f"correct the path, or take one of {', '.join(shipped)}",
        )
    try:
        rows = _Loader(path.read_bytes()).get_single_data()
    except (yaml.YAMLError, ValueError) as error:
        problem = " ".join(str(error).split())
        raise _refusal(f"{file}: the file", "YAML", f"an error: {problem}", "correct that place") from error
    if not isinstance(rows, list) or not rows:
        advice = "begin every rubric with '- name: …'"
        raise _refusal(f"{file}: the file", "a list of at least one rubric", _shown(rows), advice)
    return rows


_Check = tuple[Callable[[Any], bool], str, str]
"""What holds for a field's value, the same in words, and what to do if it does not."""


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _are_texts(value: Any) -> bool:
    return isinstance(value, list) and all(map(_is_text, value))


def _is_weight(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value < math.inf


_QUOTE = "put it in quotes if YAML takes it for something else"
_FIELDS: Mapping[str, _Check] = {
    "name": (_is_text, "a text that is not empty", f"give the rubric a short name; {_QUOTE}"),
    "text": (_is_text, "a text that is not empty", f"write what the judge is to read; {_QUOTE}"),
    "kind": (lambda value: value in list(RubricKind), f"one of {', '.join(RubricKind)}", "leave it out for human"),
    "scope": (lambda value: isinstance(value, dict), "a mapping with kinds or tags", "leave it out for all tasks"),
    "weight": (_is_weight, "a finite number above 0", "leave it out for 1"),
    "mandatory": (lambda value: isinstance(value, bool), "true or false", "leave it out for false"),
}
_REQUIRED = ("name", "text")
_SCOPE: Mapping[str, _Check] = {
    "kinds": (_are_texts, "a list of task kinds", "write for example [chat], or leave it out for all kinds"),
    "tags": (_are_texts, "a list of task tags", "write for example [creative], or leave it out for any tags"),
}


def _rubric(row: Any, file: str, number: int) -> Rubric:
    where = f"{file}: rubric {number}"
    if not isinstance(row, dict):
        raise _refusal(where, "a mapping", _shown(row), f"write its fields as '{_REQUIRED[0]}: …', '{_REQUIRED[1]}: …'")
    if _is_text(row.get("name")):
        where = f"{file}: rubric {_one_line(row['name'])!r}"
    _check(row, _FIELDS, where)
    scope = row.get("scope", {})
    _check(scope, _SCOPE, where, prefix="scope.")
    return Rubric(
        name=_one_line(row["name"]),
        text=_one_line(row["text"]),
        kind=RubricKind(row.get("kind", RubricKind.HUMAN)),
        kinds=tuple(scope.get("kinds", ())),
        tags=tuple(scope.get("tags", ())),
        weight=float(row.get("weight", 1)),
        mandatory=row.get("mandatory", False),
    )


def _check(values: Mapping[Any, Any], checks: Mapping[str, _Check], where: str, prefix: str = "") -> None:
    for field in values:
        if field not in checks:
            known = ", ".join(prefix + name for name in checks)
            raise _refusal(f"{where}: field", f"one of {known}", f"{prefix}{field}", "rename it or leave it out")
    for field, (holds, rule, advice) in checks.items():
        required = prefix + field in _REQUIRED
        if (required or field in values) and not holds(values.get(field)):
            raise _refusal(f"{where}: {prefix}{field}", rule, _shown(values.get(field)), advice)


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _shown(value: Any) -> str:
    return "nothing" if value is None else f"{type(value).__name__} {str(value)[:60]!r}"


def _refusal(what: str, rule: str, value: str, advice: str) -> ValueError:
    return ValueError(f"{what} must be {rule}, got {value}; {advice}")
