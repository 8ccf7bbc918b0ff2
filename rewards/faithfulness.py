"""The faithfulness judge (K2 §3.2.1, after FACTS Grounding): sentences that claim what the context does not support."""

from __future__ import annotations

import re
from itertools import zip_longest

from rewards.base import reward
from rewards.checklist import question
from rl.templates import check_template, conversation
from rl.types import Rollout, Score, Task

FAITHFUL_PROMPT = """\
Context:
{context}

An assistant replied:
{reply}

One sentence of this reply is:
{sentence}

Does this sentence make a factual claim that the context does not support? Greetings, questions, opinions and offers of
help make no factual claim.
Answer yes or no."""


@reward(range=(0, 1))
def faithful(task: Task, rollout: Rollout, *, context: str = "context", prompt: str = FAITHFUL_PROMPT) -> Score:
    """The share of the reply's sentences that claim nothing without support in the context, from 0 to 1.

    Args:
        task: ``fields[context]`` is what the reply must keep to; without that field, the task's messages are.
        rollout: the sentences of its last message are judged, one question for each that has a letter or a digit.
        context: name of the field.
        prompt: the question's text, with ``{sentence}`` and optionally ``{context}`` and ``{reply}``. Its "yes" must
            mean an unsupported claim.

    ``parts["sentences"]`` counts the sentences judged. A reply without any scores 0, so that silence does not pay.
    Raises ``ValueError`` for a wrong template.

    """
    check_template(prompt, name="prompt", needs=("sentence",), may_have=("context", "reply"))
    reply = rollout.completion
    said = [sentence for sentence in sentences(reply) if any(map(str.isalnum, sentence))]
    given = task.fields.get(context)
    ground = conversation(task) if given is None else str(given)
    questions = tuple(
        question(
            task,
            f"sentence/{number}",
            prompt.format(context=ground, reply=reply, sentence=sentence),
            weight=-1 / len(said),
        )
        for number, sentence in enumerate(said)
    )
    return Score(value=float(bool(said)), parts={"sentences": float(len(said))}, questions=questions)


# ruff: noqa: RUF001 - the signs of many scripts are meant
_FULL_WIDTH_END = re.compile(r"""[。！？｡]+[」』”’）)"'*_]*""")
_ENDS = (".", "!", "?", "…", "؟", "۔", "।")
_OPENING = "\"'“‘«([{*_"
_CLOSING = "\"'”’»)]}*_"
_LIST_SIGNS = "-*+#>•"
_ABBREVIATION = re.compile(
    r"(?:[^\W\d_]\.)+[^\W\d_]|Dr|Mrs?|Ms|Mx|Prof|St|Mt|Gen|Col|Capt|Lt|Sgt|Rev|Hon|Sen|Rep|Gov|Pres|vs?|cf|viz|al"
)
_BEFORE_NUMBER = re.compile(
    r"nos?|pp?|figs?|eqs?|vol|ch|sec|art|approx|ca?|est|jan|feb|mar|apr|jun|jul|aug|sept?|oct|nov|dec", re.IGNORECASE
)


def sentences(text: str) -> list[str]:
    """The sentences of a text, in order; together they hold all its characters but white space.

    Lines and full-width stops end sentences. Other stops do before white space, unless the text goes on in lower case
    or the stop belongs to an abbreviation, an initial or a list's number.
    """
    found = []
    for line in _FULL_WIDTH_END.sub("\\g<0>\n", text).splitlines():
        words = line.split()
        current: list[str] = []
        for word, following in zip_longest(words, words[1:], fillvalue=""):
            before = current[-1] if current else ""
            current.append(word)
            if not following or _ends_sentence(before, word, following):
                found.append(" ".join(current))
                current = []
    return found


def _ends_sentence(before: str, word: str, following: str) -> bool:
    core, after = word.rstrip(_CLOSING), following.lstrip(_OPENING)
    if not core.endswith(_ENDS) or after[:1].islower():
        return False
    name = core[:-1].lstrip(_OPENING)
    if core[-1] != "." or name.endswith(_ENDS):
        return True
    if len(name) == 1 and name.isupper():
        return False
    if (len(name) == 1 or name.isdigit()) and not before.strip(_LIST_SIGNS):
        return False
    if after[:1].isdigit() and _BEFORE_NUMBER.fullmatch(name):
        return False
    return not _ABBREVIATION.fullmatch(name)
