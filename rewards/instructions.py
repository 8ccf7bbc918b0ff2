"""Instruction following, hybrid (K2 §3.2.1): code decides what code can, a judge the rest; false claims earn nothing.

The checks are IFEval's 25 kinds in lm-evaluation-harness's copy. A constraint that they know never goes to a judge.
"""

from __future__ import annotations

import functools
import importlib.util
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rewards.base import reward
from rl.errors import ToolMissingError
from rl.types import Question, Rollout, Score, Task

CREDITS = ("all", "share")

JUDGE_PROMPT = """\
A user asked:
{prompt}

An assistant replied:
{reply}

Does the reply satisfy this requirement: {requirement}
Answer yes or no."""


@reward(range=(0, 1), fields=("constraints",))
def instructions(task: Task, rollout: Rollout, *, credit: str = "all", loose: bool = False) -> Score:
    """Whether the reply keeps to the task's constraints.

    Args:
        task: ``fields["constraints"]`` lists IFEval ids ("punctuation:no_comma"), ``fields["arguments"]`` one mapping
            for each, and ``fields["nuanced"]`` may list requirements in words, which go to the judge.
        rollout: its last message is judged.
        credit: ``all`` scores 1 if every constraint is met and else 0; ``share`` scores the share that is met.
        loose: also accept a reply without its first line, its last line, or its asterisks, as IFEval's loose measure.

    With ``all``, the judge is only asked if all checks passed. A reply that claims to keep a constraint which it breaks
    is flagged (``parts["false_claim"]``) and scores 0, which no unflagged failure can fall below.

    """
    if credit not in CREDITS:
        raise ValueError(f"credit must be one of {', '.join(CREDITS)}, got {credit!r}")
    ids = [str(name) for name in task.fields["constraints"]]
    arguments = list(task.fields.get("arguments") or [{}] * len(ids))
    nuanced = [str(text) for text in task.fields.get("nuanced", ())]
    prompt = str(task.messages[-1]["content"])
    met = [
        follows(name, values, prompt, rollout.completion, loose=loose)
        for name, values in zip(ids, arguments, strict=True)
    ]
    claimed = falsely_claimed(rollout.completion, [name for name, ok in zip(ids, met, strict=True) if not ok])
    parts = {"constraints_met": sum(met) / len(met) if met else 1.0, "false_claim": float(claimed)}
    if claimed or (credit == "all" and not all(met)):
        return Score(value=0.0, parts=parts)
    count = len(met) + len(nuanced) if credit == "share" else max(1, len(nuanced))
    value = sum(met) / count if credit == "share" else float(not nuanced)
    questions = tuple(
        Question(
            name=f"nuanced/{number}",
            task=_question(task, number, text, prompt, rollout.completion),
            weight=1 / count,
        )
        for number, text in enumerate(nuanced)
    )
    return Score(value=value, parts=parts, questions=questions)


def _question(task: Task, number: int, requirement: str, prompt: str, reply: str) -> Task:
    text = JUDGE_PROMPT.format(prompt=prompt, reply=reply, requirement=requirement)
    return Task(id=f"{task.id}/nuanced/{number}", kind="judge", messages=({"role": "user", "content": text},))


def follows(name: str, arguments: Mapping[str, Any], prompt: str, reply: str, *, loose: bool = False) -> bool:
    """IFEval's verdict on one constraint. Raises ``ValueError`` for an unknown one."""
    checks = ifeval_checks()
    if name not in checks:
        raise ValueError(f"constraints must be known to IFEval, got {name!r}; known are {', '.join(sorted(checks))}")
    check = checks[name](name)
    check.build_description(**{key: value for key, value in arguments.items() if value})
    if name == "keywords:letter_frequency" and arguments.get("letter"):
        # The package takes a random letter instead of one outside a to z; IFEval itself counts any character.
        check._letter = str(arguments["letter"]).lower()
    if "prompt" in (check.get_instruction_args() or {}):
        check.build_description(prompt=prompt)
    versions = _loosened(reply) if loose else [reply]
    return any(bool(text.strip() and check.check_following(text)) for text in versions)


def _loosened(reply: str) -> list[str]:
    lines = reply.split("\n")
    cut = [reply, *("\n".join(part).strip() for part in (lines[1:], lines[:-1], lines[1:-1]))]
    return [*cut, *(text.replace("*", "") for text in cut)]


@functools.cache
def ifeval_checks() -> Mapping[str, Callable[[str], Any]]:
    """IFEval's checkers by id. Raises ``ToolMissingError`` if the package or its sentence tables are missing."""
    try:
        import nltk
    except ImportError as error:
        raise ToolMissingError("instruction checks need lm-eval: pip install 'closedloop[ifeval]'") from error
    bundle = importlib.util.find_spec("llama_index.core")
    if bundle is not None and bundle.origin is not None:
        nltk.data.path.append(str(Path(bundle.origin).parent / "_static" / "nltk_cache"))
    try:
        nltk.data.find("tokenizers/punkt_tab")
    except LookupError as error:
        mend = "python -m nltk.downloader punkt_tab"
        raise ToolMissingError(f"instruction checks need NLTK's sentence tables: {mend}") from error
    import langdetect
    from lm_eval.tasks.ifeval.instructions_registry import INSTRUCTION_DICT

    langdetect.DetectorFactory.seed = 0
    found: Mapping[str, Callable[[str], Any]] = INSTRUCTION_DICT
    return found


_CLAIM = re.compile(
    r"\b(?:as|like) (?:you )?(?:requested|instructed|required|asked|specified|stated)|\bper your\b|\bas per\b"
    r"|\b(?:follow(?:s|ed|ing)?|meets?|met|compl(?:y|ies|ied|iant)|satisf(?:y|ies|ied)|adher(?:e|es|ed|ing)|fulfil\w*"
    r"|obey\w*|respect(?:s|ed|ing)?|kept to|keeps? to|abid\w*)\b.{0,40}\b(?:your|the|all|every|each|this|these|that)\b"
    r"|\b(?:this|my|the(?: above)?|your)"
    r" (?:response|answer|reply|text|message|letter|poem|essay|story|output|post|email) (?:\w+ ){0,2}?"
    r"(?:has|have|contains?|uses?|avoids?|is|was|includes?|ends?|starts?|does|consists?|mentions?|stays?)\b"
    r"|\bI(?:'ve| have|'m| am)? (?:\w+ ){0,2}?(?:avoid\w*|use[ds]?|using|wr(?:o|i)t\w+|includ\w+|kept|keep\w*|made sure"
    r"|ensured?|ended|started|mention\w*|limited|followed|wrapped|highlighted|formatted|repeated|not used?)\b"
    r"|\b(?:word|sentence|paragraph|letter|character) count\b|\bwithout (?:using )?(?:any|a single)\b"
    r"|\b(?:exactly|at least|at most|fewer than|less than|more than|over|under|no) \w+ "
    r"(?:words|sentences|paragraphs|commas?|bullets?|sections|placeholders)\b",
    re.IGNORECASE,
)
_EVERYTHING = re.compile(
    r"\b(?:all|every|each|your)\b.{0,30}"
    r"\b(?:requirements?|instructions?|constraints?|conditions?|rules?|requests?|guidelines?)"
    r"|\b(?:as|like) (?:you )?(?:requested|instructed|required|asked|specified)|\bper your\b",
    re.IGNORECASE,
)
_TOPICS = {
    "punctuation": "comma|punctuation", "change_case:capital_word": "capital|upper|caps",
    "change_case:english_capital": "capital|upper|caps", "change_case:english_lower": "lower|capital",
    "keywords": "word|term|keyword|mention|includ|avoid|letter", "language": "language|english|written in|entirely in",
    "length_constraints:number_words": "word|length", "length_constraints:number_sentences": "sentence",
    "length_constraints": "paragraph", "detectable_content:number_placeholders": "placeholder|bracket",
    "detectable_content:postscript": r"p\.? ?s|postscript", "detectable_format:number_bullet": "bullet|point",
    "detectable_format:constrained": "answer|option|choice", "detectable_format:number_high": "highlight|section",
    "detectable_format:multiple": "section", "detectable_format:json": "json", "detectable_format:title": "title",
    "startend:end": "end|finish|final|last", "startend:quotation": "quot", "combination:two": "two|both|response",
    "combination:repeat": "repeat",
}  # fmt: skip


def falsely_claimed(reply: str, broken: Sequence[str]) -> bool:
    """Whether the reply claims to keep one of the constraints that it breaks: the hack-check."""
    if not broken:
        return False
    for sentence in re.split(r"(?<=[.!?:)])\s+|\n+", reply):
        if not _CLAIM.search(sentence):
            continue
        if _EVERYTHING.search(sentence) or any(re.search(_topic(name), sentence, re.IGNORECASE) for name in broken):
            return True
    return False


def _topic(name: str) -> str:
    """The words by which a claim about this constraint is known: those of the longest id prefix that fits."""
    prefixes = [prefix for prefix in _TOPICS if name.startswith(prefix)]
    return _TOPICS[max(prefixes, key=len)] if prefixes else "$^"
