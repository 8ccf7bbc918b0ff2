"""Prompts that users may reword: templates with named places, and the text that fills them."""

from __future__ import annotations

import string
from collections.abc import Sequence

from rl.types import Task


def check_template(template: str, *, name: str, needs: Sequence[str], may_have: Sequence[str] = ()) -> None:
    """Raise ``ValueError``, beginning with ``name``, unless ``str.format`` can fill the template with these places.

    It must have all of ``needs`` and nothing but these and ``may_have``.
    """
    try:
        used = {place for _, place, _, _ in string.Formatter().parse(template) if place is not None}
    except ValueError:
        used = set()
    if not set(needs) <= used <= {*needs, *may_have}:
        others = f", optionally {_places(may_have)}" if may_have else ""
        raise ValueError(
            f"{name} must be a template with {_places(needs)}{others}, and every other brace written twice, "
            f"got {template!r}"
        )


def _places(names: Sequence[str]) -> str:
    return " and ".join(f"{{{name}}}" for name in names)


def conversation(task: Task) -> str:
    """The text of the task's messages; with the roles if there is more than one."""
    texts = [str(message.get("content") or "") for message in task.messages]
    if len(texts) <= 1:
        return "".join(texts)
    return "\n\n".join(f"{m['role']}: {text}" for m, text in zip(task.messages, texts, strict=True))
