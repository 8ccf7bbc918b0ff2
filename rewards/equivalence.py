"""When are two written answers the same? Notation is made uniform here; math-verify (sympy) compares what it means.

The steps: what no data set asks for is refused unread; numbers, percentages and units are compared exactly, as
fractions; the rest is brought to LaTeX and parsed. Rounded decimals never equal exact values.
"""

from __future__ import annotations

import functools
import logging
import re
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

LONGEST = 500
"""Characters beyond which an answer counts as wrong unread."""
DEEPEST = 24
"""Levels of brackets beyond which an answer counts as wrong unread."""


def equivalent(gold: str, answer: str) -> bool:
    """Whether two answers, plain or LaTeX, mean the same.

    Units, currency and per cent signs may be left out on one side; where both have them they must agree. Not bounded
    in time for every input: run it where it can be killed.
    """
    if len(answer) > LONGEST or _depth(answer) > DEEPEST or _explodes(answer):
        return False
    wanted, said = Quantity.read(gold), Quantity.read(answer)
    if not said.text:
        return False
    if wanted.unit and said.unit and wanted.unit != said.unit:
        return False
    if wanted.base and said.base and wanted.base != said.base:
        return False
    if wanted.percent != said.percent:
        with_sign, plain = (wanted, said) if wanted.percent else (said, wanted)
        return _same(with_sign.text, plain.text) or _same(rf"\frac{{{with_sign.text}}}{{100}}", plain.text)
    return _same(wanted.text, said.text)


def _depth(text: str) -> int:
    depth = deepest = 0
    for character in text:
        depth += {"{": 1, "(": 1, "[": 1, "}": -1, ")": -1, "]": -1}.get(character, 0)
        deepest = max(deepest, depth)
    return deepest


_POWER = re.compile(r"\^|\*\*")
_TOWER = re.compile(r"\d\s*[})]?\s*(?:\^|\*\*)\s*[{(]?\s*\d+\s*[})]?\s*(?:\^|\*\*)")
_HUGE = re.compile(r"\d\s*[})]?\s*(?:\^|\*\*)\s*[{(]?\s*-?\d{4,}|\d{4,}\s*[})]?\s*!|!\s*!|binom\D*\d{6,}")


def _explodes(text: str) -> bool:
    """Powers of powers and factorials that no one asks for and no one can compute."""
    return len(_POWER.findall(text)) > 12 or bool(_TOWER.search(text)) or bool(_HUGE.search(text))


@dataclass(frozen=True)
class Quantity:
    """An answer without its wrapping: the value's text, and what was said about it."""

    text: str
    unit: str = ""
    percent: bool = False
    base: str = ""

    @classmethod
    def read(cls, raw: str) -> Quantity:
        text = _unwrap(raw)
        unit = ""
        currency = re.match(r"^(-?)\s*(\$|€|£|¥|\\\$|\\pounds|\\euro)\s*(?=[-\d.\\(])", text)
        if currency:
            unit = _CURRENCY[currency.group(2)]
            text = currency.group(1) + text[currency.end() :]
        text = text.replace("\\$", "").replace("$", "").strip()
        percent = re.search(r"\s*(?:\\?%|\b(?:percent|per cent)\b)$", text)
        if percent:
            return cls(_tidy(text[: percent.start()]), percent=True)
        based = re.match(r"^([0-9A-Za-z]+)_\{?(\d{1,2})\}?$", text)
        if based:
            return cls(based.group(1), base=based.group(2))
        text, found = _split_unit(text)
        return cls(_tidy(text), unit=unit or found)


_CURRENCY = {
    "$": "dollar",
    "\\$": "dollar",
    "€": "euro",
    "\\euro": "euro",
    "£": "pound",
    "\\pounds": "pound",
    "¥": "yen",
}
_SPACE = r"(?:(?<!\\)\\[,;:! ]|~|\\q?quad\b)"


def _unwrap(text: str) -> str:
    """Without maths delimiters, text commands, sizing and the final full stop; digit groups joined."""
    text = text.strip().replace("\u2212", "-").replace("\u2013", "-")
    outer = re.fullmatch(r"\\\((.*)\\\)|\\\[(.*)\\\]|\$\$?(.*[^\\])\$\$?", text, flags=re.DOTALL)
    if outer:
        text = next(part for part in outer.groups() if part is not None)
    text = re.sub(r"\\boxed\s*\{(.*)\}$", r"\1", text.strip())
    text = re.sub(r"\\(?:left|right|displaystyle|textstyle|big|Big|bigg)(?![A-Za-z])", "", text)
    text = text.replace("\\dfrac", "\\frac").replace("\\tfrac", "\\frac")
    text = re.sub(rf"(?<=\d)(?:{_SPACE}|\{{,\}}|,)(?=\d{{3}}(?!\d))", "", text) if _grouped(text) else text
    text = re.sub(r"\\(?:text|mathrm|textbf|mathbf|textit|mbox|operatorname|rm)\s*\{([^{}]*)\}", r" \1 ", text)
    text = re.sub(_SPACE, " ", text)
    text = re.sub(r"\s+(?=\^)", "", text)
    text = re.sub(r"\b([ap])\.\s?m\.?", r"\1m", text, flags=re.IGNORECASE)
    return re.sub(r"\s+", " ", text).strip().rstrip(".").strip()


def _grouped(text: str) -> bool:
    """Whether commas and thin spaces in the text can only separate thousands: one number, not a list of them."""
    number = rf"[-+]?[$€£]?\\?\$?\d{{1,3}}(?:(?:{_SPACE}|\{{,\}}|,)\d{{3}})+(?!\d)"
    return re.fullmatch(rf"{number}(?:\.\d+)?[^,\d()\[\]]*(?:\{{[^{{}}]*\}}[^,()\[\]]*)?", text.strip()) is not None


_UNIT_NAMES = {
    "mm": "millimeter millimetre", "cm": "centimeter centimetre", "m": "meter metre", "km": "kilometer kilometre",
    "in": "inch inche", "ft": "foot feet", "yd": "yard", "mi": "mile", "mg": "milligram", "g": "gram gm",
    "kg": "kilogram kilo", "lb": "pound lbs", "oz": "ounce", "ml": "milliliter millilitre", "l": "liter litre",
    "s": "sec second", "min": "minute mins", "h": "hour hr hrs", "day": "", "week": "", "month": "", "year": "yr yrs",
    "mph": "", "degree": "deg", "radian": "rad", "dollar": "usd buck", "cent": "", "euro": "eur", "unit": "",
    "n": "newton", "j": "joule", "w": "watt", "v": "volt", "hz": "hertz", "pa": "pascal", "mol": "mole", "k": "kelvin",
}  # fmt: skip
_UNITS = {name: unit for unit, names in _UNIT_NAMES.items() for name in [unit, *names.split()]}
_SHORT_UNITS = {"n", "j", "w", "v", "k", "l"}
"""Letters that are variables more often than units: only upper case counts, and only after a space."""
_NOT_UNITS = {
    "pi", "sqrt", "sin", "cos", "tan", "cot", "sec", "csc", "log", "ln", "exp", "inf", "infinity", "theta", "alpha",
    "beta", "gamma", "and", "or", "mod", "for", "if", "all", "real", "numbers", "solution", "am", "pm", "to", "lambda",
}  # fmt: skip
_TRAILING = re.compile(
    r"^(?P<value>.*(?:[\d)}!]|\\pi))(?P<gap>\s*)(?P<unit>(?:\\?\^\s*\{?\s*\\circ\s*\}?|°|\\circ|\\degree)(?:\s*[CF])?"
    r"|[A-Za-z][A-Za-z]*(?:\s+[A-Za-z]+)*(?:\s*(?:\^\s*\{?-?\d\}?|[²³]))?"
    r"(?:\s*/\s*(?:[A-Za-z]+)(?:\s*(?:\^\s*\{?-?\d\}?|[²³]))?)?)$"
)


def _split_unit(text: str) -> tuple[str, str]:
    """(value, unit) of a number with a unit behind it; the unit is empty if the tail is none."""
    found = _TRAILING.match(text)
    if found is None or re.search(r"[A-Za-z]", re.sub(r"\\[A-Za-z]+", "", found["value"])):
        return text, ""
    tail = found["unit"]
    if re.match(r"\^|\\|°", tail):
        scale = tail[-1] if tail[-1] in "CF" else ""
        return (text, "") if re.search(r"sin|cos|tan|cot", text) else (found["value"], "degree" + scale)
    words = re.findall(r"[A-Za-z]+", tail)
    known = [_unit_name(word, bool(found["gap"])) for word in words]
    if not all(known):
        return text, ""
    powers = "".join(re.findall(r"[-\d²³/]", tail)).translate(str.maketrans("²³", "23"))
    return found["value"], " ".join(name for name in known if name) + powers


def _unit_name(word: str, apart: bool) -> str:
    lower = word.casefold()
    singular = lower[:-1] if lower.endswith("s") and len(lower) > 2 else lower
    if singular in _SHORT_UNITS:
        return singular if apart and (word.isupper() or lower == "l") else ""
    if lower in _UNITS or singular in _UNITS:
        return _UNITS.get(lower) or _UNITS[singular]
    return singular if len(lower) >= 3 and lower not in _NOT_UNITS else ""


_SYNONYMS = {
    "all real numbers": "\\mathbb{R}", "all reals": "\\mathbb{R}", "the real numbers": "\\mathbb{R}",
    "real numbers": "\\mathbb{R}", "r": "\\mathbb{R}", "empty set": "\\emptyset", "the empty set": "\\emptyset",
    "\\varnothing": "\\emptyset", "\\{\\}": "\\emptyset", "∅": "\\emptyset", "ℝ": "\\mathbb{R}",
}  # fmt: skip
_SYMBOLS = {
    "π": "\\pi ", "×": "\\times ", "·": "\\cdot ", "⋅": "\\cdot ", "∞": "\\infty ", "≤": "\\le ", "≥": "\\ge ",
    "≠": "\\neq ", "∪": "\\cup ", "∩": "\\cap ", "±": "\\pm ", "θ": "\\theta ", "²": "^2", "³": "^3", "÷": "/",
}  # fmt: skip
_NAMES = (
    "arcsin", "arccos", "arctan", "sin", "cos", "tan", "cot", "csc", "sec", "log", "ln", "exp",
    "alpha", "beta", "gamma", "theta", "lambda", "pi",
)  # fmt: skip


def _tidy(text: str) -> str:
    """A value in uniform LaTeX."""
    text = re.sub(r"^(?:an?|the)\s+(?=[A-Za-z]{2})", "", text.strip(), flags=re.IGNORECASE)
    if text.casefold() in _SYNONYMS:
        return _SYNONYMS[text.casefold()]
    for symbol, latex in _SYMBOLS.items():
        text = text.replace(symbol, latex)
    text = re.sub(r"√\s*(\d+|\([^()]*\)|[a-z])", r"\\sqrt{\1}", text)
    text = re.sub(r"(?<!\\)\bsqrt\s*(\d+)", r"\\sqrt{\1}", _braced(text, "sqrt"))
    text = re.sub(rf"(?<![\\A-Za-z])({'|'.join(_NAMES)})(?![A-Za-z])", r"\\\1 ", text)
    text = re.sub(r"(?<![\\A-Za-z])(?:infinity|infty|inf|oo)(?![A-Za-z])", r"\\infty ", text)
    text = re.sub(r"(?<=[\])])\s*[Uu]\s*(?=[\[(])", r" \\cup ", text)
    text = text.replace("**", "^").replace("<=", "\\le ").replace(">=", "\\ge ").replace("!=", "\\neq ")
    text = re.sub(r"\^\s*\(([^()]*)\)", r"^{\1}", text).replace("*", "\\cdot ")
    text = re.sub(r"(\d)[eE]([-+]?\d{1,3})(?![\w.])", r"\1 \\times 10^{\2}", text)
    text = re.sub(r"10\^(-?\d+)", r"10^{\1}", text)
    text = re.sub(r"(\d+)\s*(?:\^\s*\{?\s*\\circ\s*\}?|°)", r"\\frac{\1\\pi}{180}", text)
    text = re.sub(r"(\d*)\.(\d*)\\overline\s*\{(\d+)\}", _repeating, text)
    text = re.sub(r"^\[\s*(\[[^\[\]]*\](?:\s*,\s*\[[^\[\]]*\])*)\s*\]$", _matrix, text)
    return re.sub(r"\s+", " ", text).strip()


def _braced(text: str, name: str) -> str:
    r"""``sqrt(…)`` with balanced brackets as ``\sqrt{…}``."""
    start = 0
    while (found := re.compile(rf"(?<![A-Za-z\\]){name}\s*\(").search(text, start)) is not None:
        depth, end = 1, found.end()
        while end < len(text) and depth:
            depth += {"(": 1, ")": -1}.get(text[end], 0)
            end += 1
        if depth:
            return text
        text = f"{text[: found.start()]}\\{name}{{{text[found.end() : end - 1]}}}{text[end:]}"
        start = found.start() + len(name) + 2
    return text


def _repeating(match: re.Match[str]) -> str:
    whole, fixed, cycle = match.groups()
    value = Fraction(int((whole or "0") + fixed + cycle) - int((whole or "0") + fixed))
    value /= (10 ** len(cycle) - 1) * 10 ** len(fixed)
    return rf"\frac{{{value.numerator}}}{{{value.denominator}}}"


def _matrix(match: re.Match[str]) -> str:
    rows = [row.replace(",", " & ") for row in re.findall(r"\[([^\[\]]*)\]", match.group(1))]
    return r"\begin{pmatrix}" + r" \\ ".join(rows) + r"\end{pmatrix}"


def _same(gold: str, answer: str) -> bool:
    left, right = _assigned(gold, answer)
    if left.casefold().replace(" ", "") == right.casefold().replace(" ", ""):
        return True
    first, second = _exact(left), _exact(right)
    if first is not None and second is not None:
        return first == second
    return _verified(left, right)


def _assigned(gold: str, answer: str) -> tuple[str, str]:
    """Both without a leading ``x =`` where only one has it."""
    pattern = r"^[A-Za-z](?:\s*\([A-Za-z]\))?\s*(?:=|\\in(?![A-Za-z])|∈)\s*(?=[^=]+$)"
    has = [re.match(pattern, text) for text in (gold, answer)]
    if has[0] and not has[1] and "=" not in answer:
        return gold[has[0].end() :], answer
    if has[1] and not has[0] and "=" not in gold:
        return gold, answer[has[1].end() :]
    return gold, answer


_DECIMAL = r"[-+]?(?:\d+\.?\d*|\.\d+)"
_SIMPLE = re.compile(
    rf"(?P<sign>[-+]?)\s*(?:(?P<whole>\d+)\s*)?\\frac\s*\{{\s*(?P<top>{_DECIMAL})\s*\}}\s*\{{\s*(?P<bottom>{_DECIMAL})\s*\}}"
)


def _exact(text: str) -> Fraction | None:
    """The value of a plain number, fraction or mixed number."""
    if len(text) > 100:
        return None
    if re.fullmatch(_DECIMAL, text):
        return Fraction(text)
    power = re.fullmatch(rf"({_DECIMAL})\s*\\(?:times|cdot)\s*10\^\{{?([-+]?\d{{1,3}})\}}?", text)
    if power:
        return Fraction(power[1]) * Fraction(10) ** int(power[2])
    ratio = re.fullmatch(rf"({_DECIMAL})\s*/\s*({_DECIMAL})", text)
    if ratio and float(ratio[2]):
        return Fraction(ratio[1]) / Fraction(ratio[2])
    found = _SIMPLE.fullmatch(text)
    if found is None or not float(found["bottom"]):
        return None
    value = Fraction(found["whole"] or 0) + Fraction(found["top"]) / Fraction(found["bottom"])
    return -value if found["sign"] == "-" else value


def _verified(gold: str, answer: str) -> bool:
    from math_verify import verify

    wanted, said = _parse(gold), _parse(answer)
    if not wanted or not said:
        return False
    options: dict[str, Any] = {"timeout_seconds": None, "float_rounding": 12, "allow_set_relation_comp": True}
    return bool(verify(wanted, said, **options) or verify(said, wanted, **options))


@functools.lru_cache(maxsize=4096)
def _parse(text: str) -> list[Any]:
    """What math-verify makes of the text: a sympy object, and the text itself."""
    from math_verify import parse

    logging.getLogger("math_verify").setLevel(logging.CRITICAL)
    return [_meant(x) for x in parse(f"${text}$", parsing_timeout=None)]


def _meant(parsed: Any) -> Any:
    """With ``i`` imaginary, decimals as fractions, and an inequality in one unknown as the set in which it holds."""
    from sympy import And, Basic, Float, I, Or, Rational
    from sympy.core.relational import Relational

    if not isinstance(parsed, Basic):
        return parsed
    parsed = parsed.subs({symbol: I for symbol in parsed.free_symbols if symbol.name == "i"})
    parsed = parsed.xreplace({number: Rational(str(number)) for number in parsed.atoms(Float)}).doit()
    if isinstance(parsed, And | Or | Relational) and len(parsed.free_symbols) == 1 and "=" not in _signs(parsed):
        try:
            return parsed.as_set()
        except (NotImplementedError, ValueError, TypeError):
            return parsed
    return parsed


def _signs(parsed: Any) -> set[str]:
    from sympy.core.relational import Equality, Relational, Unequality

    return {"=" for x in parsed.atoms(Relational) if isinstance(x, Equality | Unequality)}
