"""Form: whether the reply has the asked shape, repeats itself, and is in the asked language."""

from __future__ import annotations

import re
import zlib

from rewards.base import reward
from rl.errors import ToolMissingError
from rl.types import EndReason, Rollout, Task


@reward(range=(0, 1))
def matches(task: Task, rollout: Rollout, *, pattern: str) -> float:
    """1 if the whole reply matches the regular expression ``pattern`` (dot matches newlines), else 0."""
    return float(re.fullmatch(pattern, rollout.completion.strip(), flags=re.DOTALL) is not None)


@reward(range=(0, 1))
def finished(task: Task, rollout: Rollout) -> float:
    """1 if the policy ended its own turn, 0 if it was cut by its budget or stopped for repeating itself."""
    return float(rollout.end_reason not in (EndReason.BUDGET, EndReason.REPETITION))


@reward(range=(0, 1))
def no_repetition(task: Task, rollout: Rollout, *, ngram: int = 4, tolerated: float = 0.2) -> float:
    """1 while at most the share ``tolerated`` of the reply's word n-grams occurred before in it, falling to 0 at all.

    Replies without spaces to speak of are measured by how far zlib shrinks them below a tenth instead.
    """
    words = rollout.completion.split()
    if len(words) < ngram + 1:
        data = rollout.completion.encode()
        return 0.0 if len(data) >= 200 and len(zlib.compress(data)) < len(data) / 10 else 1.0
    grams = [tuple(words[i : i + ngram]) for i in range(len(words) - ngram + 1)]
    repeated = 1 - len(set(grams)) / len(grams)
    return 1.0 if repeated <= tolerated else (1 - repeated) / (1 - tolerated)


@reward(range=(0, 1))
def in_language(task: Task, rollout: Rollout, *, language: str = "en", least_letters: int = 20) -> float:
    """Probability that the reply is in ``language`` (ISO 639-1), by langdetect; 1 if it is too short to tell.

    A task may ask for another language in ``fields["language"]``.
    """
    text = rollout.completion
    if sum(c.isalpha() for c in text) < least_letters:
        return 1.0
    found = _languages(text)
    return min(1.0, found.get(str(task.fields.get("language", language)), 0.0))


def _languages(text: str) -> dict[str, float]:
    try:
        import langdetect
    except ImportError as error:
        raise ToolMissingError("in_language needs langdetect: pip install langdetect") from error
    langdetect.DetectorFactory.seed = 0
    try:
        return {guess.lang: float(guess.prob) for guess in langdetect.detect_langs(text)}
    except langdetect.LangDetectException:
        return {}
