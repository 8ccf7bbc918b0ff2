"""Parts that a configuration names by ``_target_``: rewards, environments, task sources, advantages, losses."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import entry_points
from typing import Any

from hydra.errors import InstantiationException
from hydra.utils import instantiate

from rl.errors import ToolMissingError

REWARDS = "closedloop.rewards"
"""Entry-point group under which installed packages offer rewards by name."""


def build(spec: Mapping[str, Any], *, name: str, partial: bool = False) -> Any:
    """Call (or with ``partial``, prepare to call) what ``spec["_target_"]`` names with the rest of ``spec``.

    A target without a dot is the name of an installed reward plugin. Nested ``_target_`` settings are passed on as
    they are. Raises ``ValueError``, beginning with ``name``, if there is no such thing or it rejects the arguments.
    """
    spec = dict(spec)
    if "." not in str(spec["_target_"]):
        spec["_target_"] = _installed(str(spec["_target_"]), name)
    try:
        return instantiate(spec, _partial_=partial, _convert_="all", _recursive_=False)
    except InstantiationException as error:
        cause = error.__cause__
        if isinstance(cause, ValueError | ToolMissingError):
            raise ValueError(f"{name}: {cause}") from error
        detail = " ".join(str(cause or error).split())
        raise ValueError(
            f"{name}: _target_ must name something that takes these settings, got {spec}: {detail}"
        ) from error


def _installed(plugin: str, name: str) -> str:
    found = {point.name: point for point in entry_points(group=REWARDS)}
    if plugin not in found:
        there = ", ".join(sorted(found)) or "none"
        raise ValueError(f"{name}: _target_ must be a dotted path or an installed plugin ({there}), got {plugin!r}")
    return found[plugin].value.replace(":", ".")
