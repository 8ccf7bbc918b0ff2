"""A calculator: exact arithmetic on numbers of bounded size."""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Mapping
from fractions import Fraction
from typing import Any

from envs.tools import ToolError
from rl.tool_calls import declaration
from rl.types import Task

MAX_CHARS = 500
MAX_DIGITS = 1000
"""Of the numerator or denominator of any value on the way."""

_BINARY: dict[type[ast.operator], Callable[[Fraction, Fraction], Fraction]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: lambda a, b: Fraction(a // b),
    ast.Mod: operator.mod,
}


class Calculator:
    """Evaluates ``+ - * / // % **`` and parentheses exactly. Whole results come as integers, others as decimals."""

    declaration = declaration(
        "calculator",
        "Evaluates an arithmetic expression.",
        {"type": "object", "properties": {"expression": {"type": "string"}}, "required": ["expression"]},
    )

    async def open(self, task: Task) -> None:
        pass

    async def call(self, arguments: Mapping[str, Any]) -> str:
        value = evaluate(arguments["expression"])
        if value.denominator == 1:
            return str(value.numerator)
        try:
            return f"{float(value):.12g}"
        except OverflowError as error:
            raise ToolError("the value is too large for a decimal") from error

    async def close(self) -> None:
        pass


def evaluate(expression: str) -> Fraction:
    """The value of an arithmetic expression. Raises ``ToolError`` for anything else, and for values out of bounds."""
    if len(expression) > MAX_CHARS:
        raise ToolError(f"an expression may have {MAX_CHARS} characters, got {len(expression)}")
    try:
        return _value(ast.parse(expression.strip(), mode="eval").body)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise ToolError(f"not an arithmetic expression: {expression}") from error
    except ZeroDivisionError as error:
        raise ToolError("division by zero") from error


def _value(node: ast.expr) -> Fraction:
    match node:
        case ast.Constant(value=int() | float() as number) if not isinstance(number, bool):
            value = Fraction(str(number))
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            value = -_value(operand)
        case ast.UnaryOp(op=ast.UAdd(), operand=operand):
            value = _value(operand)
        case ast.BinOp(left=left, op=ast.Pow(), right=right):
            value = _power(_value(left), _value(right))
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _BINARY:
            value = _BINARY[type(op)](_value(left), _value(right))
        case _:
            raise ToolError("only numbers, + - * / // % ** and parentheses are allowed")
    if max(abs(value.numerator), value.denominator) >= 10**MAX_DIGITS:
        raise ToolError(f"a value has more than {MAX_DIGITS} digits")
    return value


def _power(base: Fraction, exponent: Fraction) -> Fraction:
    if exponent.denominator != 1:
        raise ToolError("exponents must be whole numbers")
    digits = len(str(max(abs(base.numerator), base.denominator)))
    if digits * abs(exponent.numerator) > MAX_DIGITS:
        raise ToolError(f"a value has more than {MAX_DIGITS} digits")
    return base**exponent.numerator
