"""Parts that a configuration names by ``_target_``: rewards, environments, task sources, advantages, losses."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hydra.errors import InstantiationException
from hydra.utils import instantiate


def build(spec: Mapping[str, Any], *, name: str, partial: bool = False) -> Any:
    """Call (or with ``partial``, prepare to call) what ``spec["_target_"]`` names with the rest of ``spec``.

    Raises ``ValueError``, beginning with ``name``, if there is no such thing or it rejects the arguments.
    """
    try:
        return instantiate(dict(spec), _partial_=partial, _convert_="all")
    except InstantiationException as error:
        cause = error.__cause__
        if isinstance(cause, ValueError):
            raise ValueError(f"{name}: {cause}") from error
        detail = " ".join(str(cause or error).split())
        raise ValueError(
            f"{name}: _target_ must name something that takes these settings, got {dict(spec)}: {detail}"
        ) from error
