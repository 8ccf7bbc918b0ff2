"""A simulated world: records that tools read and change, and calls that sometimes fail, as tools do in life."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from envs.base import Opening, Step
from envs.tools import Toolbox, ToolEnv, ToolError
from rl.tool_calls import declaration
from rl.types import Message, Task

T = TypeVar("T")
Records = dict[str, dict[str, Any]]
"""The records of one collection, by id."""

ACTIONS = {
    "get": "Reads one of the {}.",
    "find": "Lists the {} whose fields have these values; without any, all.",
    "add": "Adds one to the {}.",
    "set": "Changes fields of one of the {}.",
    "remove": "Removes one of the {}.",
}
OUTAGE = "the service is not available and nothing was done; try again"


@dataclass
class Share:
    """How much of a call's work is done: all of it, or with ``cut`` the first half, which ``note`` then says."""

    cut: bool
    note: str = ""

    def of(self, things: Iterable[T]) -> list[T]:
        whole = list(things)
        if not self.cut or len(whole) < 2:
            return whole
        done = whole[: len(whole) // 2]
        self.note = f"\nincomplete: the service stopped after {len(done)} of {len(whole)}"
        return done


class World:
    """The state of one rollout.

    ``task.fields["world"]`` describes it: ``state`` holds records by collection and id, and ``collections`` says, of
    each that has tools, which ``tools`` these are (some of ``ACTIONS``) and the JSON schemas of a record's ``fields``.
    Raises ``ValueError`` if it does not. The luck of a call depends on the task's id and the call's number alone.
    """

    def __init__(self, task: Task, *, failure_rate: float, partial_rate: float) -> None:
        described = task.fields.get("world", {})
        if not isinstance(described, Mapping) or not {"state", "collections"} <= described.keys():
            raise ValueError(f"task {task.id}: fields.world must have state and collections, got {described}")
        for name, collection in described["collections"].items():
            unknown = sorted(set(collection["tools"]) - ACTIONS.keys())
            if unknown or name not in described["state"] or "id" in collection["fields"]:
                raise ValueError(
                    f"task {task.id}: world.collections.{name} must have tools out of {', '.join(ACTIONS)}, fields "
                    f"none of which is called id, and records in world.state, got {collection}"
                )
        self.state: dict[str, Records] = copy.deepcopy(dict(described["state"]))
        self.collections: Mapping[str, Any] = described["collections"]
        self.counts = {"calls": 0, "failed": 0, "partial": 0}
        self._seed = f"world/{task.id}"
        self._fails = failure_rate
        self._stops = failure_rate + partial_rate

    def call(self, action: str, collection: str, arguments: Mapping[str, Any]) -> str:
        """Do it, in part if luck has it so. Raises ``ToolError`` for an outage, and for what cannot be done."""
        luck = random.Random(f"{self._seed}/{self.counts['calls']}").random()
        self.counts["calls"] += 1
        if luck < self._fails:
            self.counts["failed"] += 1
            raise ToolError(OUTAGE)
        share = Share(cut=luck < self._stops)
        said = json.dumps(_act(action, self.state[collection], arguments, share), ensure_ascii=False)
        self.counts["partial"] += bool(share.note)
        return said + share.note


def _act(action: str, records: Records, arguments: Mapping[str, Any], share: Share) -> Any:
    name = arguments.get("id", "")
    fields = [(field, value) for field, value in arguments.items() if field != "id"]
    if action == "find":
        fits = [key for key, record in records.items() if all(record.get(f) == value for f, value in fields)]
        return [{"id": key, **records[key]} for key in share.of(fits)]
    if (action == "add") == (name in records):
        raise ToolError(f"{name} exists already" if action == "add" else f"there is no {name}")
    if action == "get":
        return {"id": name, **dict(share.of(records[name].items()))}
    if action == "remove":
        return {"removed": name, **records.pop(name)}
    records.setdefault(name, {}).update(share.of(fields))
    return {"id": name, **records[name]}


class RecordTool:
    """One action on one collection of a world."""

    def __init__(self, world: World, action: str, collection: str) -> None:
        fields = dict(world.collections[collection]["fields"]) if action in ("find", "add", "set") else {}
        schema: dict[str, Any] = {"type": "object", "properties": fields, "additionalProperties": False}
        if action != "find":
            schema["properties"] = {"id": {"type": "string"}, **fields}
            schema["required"] = ["id", *(fields if action == "add" else ())]
        if action == "set":
            schema["minProperties"] = 2
        self.declaration: Mapping[str, Any] = declaration(
            f"{action}_{collection}", ACTIONS[action].format(collection), schema
        )
        self._world, self._action, self._collection = world, action, collection

    async def open(self, task: Task) -> None:
        pass

    async def call(self, arguments: Mapping[str, Any]) -> str:
        # Nothing is awaited, so the calls of one turn, started in order, are carried out in order.
        return self._world.call(self._action, self._collection, arguments)

    async def close(self) -> None:
        pass


class WorldEnv(ToolEnv):
    """Offers the tools of the world that ``task.fields["world"]`` describes (see ``World``).

    It ends with the outcome ``state``, and how many ``calls`` reached the world, ``failed`` in an outage, or were done
    in ``partial``. Calls that the Toolbox refuses count as none.

    Args:
        failure_rate: probability that a call does nothing and says that the service is not available.
        partial_rate: probability that a call stops half-way and says so, if its work has several parts: the records
            that ``find`` lists, the fields that ``get`` reads or that ``add`` and ``set`` write.
        turns: most policy turns.
        output_chars: most characters of one tool's output; the middle of longer ones is left out.

    """

    def __init__(
        self, *, failure_rate: float = 0.0, partial_rate: float = 0.0, turns: int = 12, output_chars: int = 4000
    ) -> None:
        if min(failure_rate, partial_rate) < 0 or failure_rate + partial_rate > 1:
            raise ValueError(
                "failure_rate and partial_rate must be at least 0 and together at most 1, got "
                f"{failure_rate}, {partial_rate}"
            )
        super().__init__(tools=(), turns=turns, output_chars=output_chars)
        self._output_chars = output_chars
        self._rates = {"failure_rate": failure_rate, "partial_rate": partial_rate}

    async def reset(self, task: Task) -> Opening:
        self._world = World(task, **self._rates)
        tools = [
            RecordTool(self._world, action, name)
            for name, collection in self._world.collections.items()
            for action in collection["tools"]
        ]
        self._toolbox = Toolbox(tools, output_chars=self._output_chars)
        return await super().reset(task)

    async def step(self, message: Message) -> Step:
        step = await super().step(message)
        return step if step.end is None else replace(step, outcome={"state": self._world.state, **self._world.counts})
