"""Things to get done in small simulated worlds, without end: a shop's orders, a calendar, a smart home.

As in ``rl.procedural`` an instruction's text alone decides whether it is held out.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rl.procedural import is_held_out
from rl.types import Task

Records = dict[str, dict[str, Any]]

NAMES = ("Ann", "Ben", "Eva", "Leo", "Mia", "Tom")
ITEMS = ("books", "chairs", "cups", "lamps", "pens", "rugs")
STATUSES = ("open", "sent", "cancelled")
TITLES = ("budget talk", "design review", "interview", "lunch", "planning", "team meeting", "training", "workshop")
DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday")
ROOMS = ("kitchen", "bedroom", "hall", "office", "bathroom")
KINDS = ("lamp", "heater", "fan", "speaker")


@dataclass(frozen=True, kw_only=True)
class Errand:
    """What to do with the records of one collection. ``goal``: by id, the fields it must have; None if it must go."""

    collection: str
    instruction: str
    records: Records
    fields: Mapping[str, Any]
    """JSON schemas of a record's fields."""
    tools: Sequence[str]
    goal: Mapping[str, Mapping[str, Any] | None]


def _ids(rng: random.Random, letter: str, count: int) -> list[str]:
    return [f"{letter}{number}" for number in rng.sample(range(10, 100), count)]


def _where(records: Records, **fields: Any) -> list[str]:
    return [key for key, record in records.items() if all(record[f] == value for f, value in fields.items())]


def _other(rng: random.Random, options: Sequence[Any], but: Any) -> Any:
    return rng.choice([option for option in options if option != but])


def shop(rng: random.Random) -> Errand:
    """Cancel, change, send or enter orders. No customer has two orders of the same item."""
    pairs = rng.sample(list(itertools.product(NAMES, ITEMS)), rng.randint(5, 9))
    *keys, new = _ids(rng, "A", len(pairs))
    *known, (customer, item) = pairs
    orders: Records = {
        key: {"customer": who, "item": what, "quantity": rng.randint(1, 9), "status": rng.choice(STATUSES)}
        for key, (who, what) in zip(keys, known, strict=True)
    }
    key = rng.choice(keys)
    order = orders[key]
    order["status"] = "open"
    quantity = _other(rng, range(1, 10), order["quantity"])
    who, what = order["customer"], order["item"]
    added = {"customer": customer, "item": item, "quantity": quantity, "status": "open"}
    instruction, goal = rng.choice(
        (
            (f"Cancel {who}'s order of {what}.", {key: {"status": "cancelled"}}),
            (f"{who} now wants {quantity} {what}. Change the order.", {key: {"quantity": quantity}}),
            (
                f"Mark every open order of {who} as sent.",
                {k: {"status": "sent"} for k in _where(orders, customer=who, status="open")},
            ),
            (f"Enter an open order {new}: {quantity} {item} for {customer}.", {new: added}),
        )
    )
    return Errand(
        collection="orders",
        instruction=instruction,
        records=orders,
        fields={
            "customer": {"type": "string"},
            "item": {"type": "string"},
            "quantity": {"type": "integer", "minimum": 1},
            "status": {"enum": list(STATUSES)},
        },
        tools=("get", "find", "add", "set"),
        goal=goal,
    )


def calendar(rng: random.Random) -> Errand:
    """Move, cancel or enter events. No two have the same title."""
    *titles, title = rng.sample(TITLES, rng.randint(5, 8))
    *keys, new = _ids(rng, "E", len(titles) + 1)
    events: Records = {
        key: {"title": name, "day": rng.choice(DAYS), "hour": rng.randint(8, 17)}
        for key, name in zip(keys, titles, strict=True)
    }
    key = rng.choice(keys)
    event = events[key]
    day, hour = _other(rng, DAYS, event["day"]), _other(rng, range(8, 18), event["hour"])
    instruction, goal = rng.choice(
        (
            (f"Move the {event['title']} to {day} at {hour}:00.", {key: {"day": day, "hour": hour}}),
            (f"Move the {event['title']} to {hour}:00 on the same day.", {key: {"hour": hour}}),
            (f"Cancel the {event['title']}: remove it.", {key: None}),
            (f"Clear {event['day']}: remove all events on it.", dict.fromkeys(_where(events, day=event["day"]))),
            (
                f"Enter the {title} on {day} at {hour}:00 as event {new}.",
                {new: {"title": title, "day": day, "hour": hour}},
            ),
        )
    )
    return Errand(
        collection="events",
        instruction=instruction,
        records=events,
        fields={
            "title": {"type": "string"},
            "day": {"enum": list(DAYS)},
            "hour": {"type": "integer", "minimum": 0, "maximum": 23},
        },
        tools=("get", "find", "add", "set", "remove"),
        goal=goal,
    )


def home(rng: random.Random) -> Errand:
    """Switch and set devices. No room has two of the same kind."""
    pairs = rng.sample(list(itertools.product(ROOMS, KINDS)), rng.randint(6, 10))
    devices: Records = {
        key: {"room": room, "kind": kind, "on": rng.random() < 0.5, "level": rng.randint(0, 9)}
        for key, (room, kind) in zip(_ids(rng, "D", len(pairs)), pairs, strict=True)
    }
    key = rng.choice(list(devices))
    device = devices[key]
    device["on"] = True
    room, kind = device["room"], device["kind"]
    level = _other(rng, range(10), device["level"])
    here, alike = _where(devices, room=room, on=True), _where(devices, kind=kind, on=True)
    instruction, goal = rng.choice(
        (
            (f"Set the {kind} in the {room} to level {level}.", {key: {"level": level}}),
            (f"Switch the {kind} in the {room} off and set it to {level}.", {key: {"on": False, "level": level}}),
            (f"Switch off whatever is on in the {room}.", {k: {"on": False} for k in here}),
            (f"Switch off every {kind} in the house that is on.", {k: {"on": False} for k in alike}),
        )
    )
    return Errand(
        collection="devices",
        instruction=instruction,
        records=devices,
        fields={
            "room": {"enum": list(ROOMS)},
            "kind": {"enum": list(KINDS)},
            "on": {"type": "boolean"},
            "level": {"type": "integer", "minimum": 0, "maximum": 9},
        },
        tools=("get", "find", "set"),
        goal=goal,
    )


DOMAINS: dict[str, Callable[[random.Random], Errand]] = {"shop": shop, "calendar": calendar, "home": home}


PERSONAS = (
    "You are in a hurry and answer in a few words.",
    "You are friendly and like to chat, but you come to the point when asked.",
    "You are not used to computers and call things by other names now and then.",
    "You are careful and want to hear what was done before you are content.",
)
GREETING = "Hello, can you do something for me?"


class WorldTasks:
    """Errands in ``DOMAINS``, in equal shares, for the environment ``world``.

    ``held_out`` chooses the split; the two never share an instruction. Each task has ``fields["world"]``, which
    describes the world as ``envs.world.World`` reads it, ``fields["goal"]`` for ``rewards.world.goal_reached``, and its
    domain as tag.

    With ``env="user"`` the errand is the aim of a simulated user (``envs.user.UserEnv``), who begins with a greeting.
    """

    size = None

    def __init__(self, *, seed: int = 0, held_out: bool = False, env: str = "world") -> None:
        if env not in ("world", "user"):
            raise ValueError(f"env must be world or user, got {env!r}")
        self._seed = seed
        self._held_out = held_out
        self._env = env

    def task_at(self, index: int) -> Task:
        rng = random.Random(f"world/{self._seed}/{self._held_out}/{index}")
        domain = rng.choice(list(DOMAINS))
        while True:
            errand = DOMAINS[domain](rng)
            if is_held_out(errand.instruction) == self._held_out:
                break
        name = errand.collection
        talks = self._env == "user"
        spoken = {"persona": rng.choice(PERSONAS), "aim": errand.instruction} if talks else {}
        return Task(
            id=f"{domain}-{index}",
            kind="world",
            messages=({"role": "user", "content": GREETING if talks else errand.instruction},),
            fields={
                **spoken,
                "world": {
                    "state": {name: errand.records},
                    "collections": {name: {"tools": list(errand.tools), "fields": dict(errand.fields)}},
                },
                "goal": {name: dict(errand.goal)},
            },
            env=self._env,
            tags=(domain,),
        )
