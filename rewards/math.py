"""Math: whether the reply's final answer equals the reference.

Answers that no data set asks for (a tower of powers, a megabyte of braces) are refused as wrong before they are parsed.
What passes may still take long, which is why rewards run in a pool with deadlines.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from rewards.base import reward
from rewards.equivalence import LONGEST, equivalent
from rl.types import Rollout, Score, Task

EXTRACTORS = ("boxed", "marker", "last")

_LAST = re.compile(r"\$([^$\n]+)\$|[-+]?\d[\d,]*(?:\.\d+)?(?:/\d+)?%?")


@reward(range=(0, 1), fields=("answer",))
def math_answer(task: Task, rollout: Rollout, *, extract: Sequence[str] = EXTRACTORS, marker: str = "answer:") -> Score:
    r"""Compare the reply's final answer with ``task.fields["answer"]``. Range 0 to 1.

    Args:
        task: ``fields["answer"]`` is the reference, plain or LaTeX.
        rollout: its last message is read.
        extract: where to look for the final answer, in this order: ``boxed`` (the last ``\boxed{}``), ``marker`` (the
            line behind the last ``marker``), ``last`` (the last formula or number of the reply).
        marker: compared without case.

    """
    unknown = sorted(set(extract) - set(EXTRACTORS))
    if unknown or not extract:
        raise ValueError(f"extract must list some of {', '.join(EXTRACTORS)}, got {list(extract)}")
    found = final_answer(rollout.completion, extract=extract, marker=marker)
    right = found is not None and equivalent(str(task.fields["answer"]), found)
    return Score(value=float(right), parts={"has_answer": float(found is not None)})


def final_answer(text: str, *, extract: Sequence[str] = EXTRACTORS, marker: str = "answer:") -> str | None:
    """The part of a reply that is its answer, or None."""
    readers: dict[str, Callable[[], str | None]] = {
        "boxed": lambda: _boxed(text),
        "marker": lambda: _marked(text, marker),
        "last": lambda: _last(text[-4000:]),
    }
    for name in extract:
        found = readers[name]()
        if found is not None:
            return found
    return None


def _boxed(text: str) -> str | None:
    start = max(text.rfind("\\boxed{"), text.rfind("\\fbox{"))
    if start < 0:
        return None
    begin = text.index("{", start) + 1
    depth = 1
    for end in range(begin, min(len(text), begin + 2 * LONGEST)):
        depth += {"{": 1, "}": -1}.get(text[end], 0)
        if depth == 0:
            return text[begin:end].strip() or None
    return None


def _marked(text: str, marker: str) -> str | None:
    place = text.casefold().rfind(marker.casefold())
    if place < 0:
        return None
    behind = text[place + len(marker) :].strip()
    return behind.splitlines()[0].strip() if behind else None


def _last(text: str) -> str | None:
    matches = list(_LAST.finditer(text))
    return (matches[-1].group(1) or matches[-1].group(0)).strip() if matches else None
