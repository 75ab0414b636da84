"""The calculator a model may call: small Python expressions, worked out by walking a syntax tree.

`calculate("37 + 58")` gives `"95"`. Allowed are numbers, strings, `+ - * / // % **`, comparisons (chains and
`in` too), parentheses, the functions round, abs, min, max and len, and the string methods count, upper,
lower and replace. Everything else is refused by name. Nothing is ever handed to `eval`; there are no signals
and no state, so any thread may call it. Every step of the work is bounded (length and depth of the
expression, length of strings, size of numbers and exponents), and a deadline stands behind those bounds.

It does not know variables, assignments, units or fractions, and it keeps nothing between calls.
"""

import ast
import operator
import re
import time
from collections.abc import Callable
from decimal import Decimal
from typing import Any

MAX_LENGTH = 256
"""Longest expression, in characters."""

MAX_DEPTH = 24
"""Deepest nesting of operations."""

MAX_STRING = 1_000
"""Longest string that may appear on the way, in characters."""

MAX_EXPONENT = 256
"""Largest exponent, either sign."""

MAX_MAGNITUDE = 10**40
"""No number on the way may reach this, either sign."""

MAX_DECIMALS = 12
"""Most decimals that `round` may be asked for."""

SECONDS = 0.25
"""The deadline behind the other limits, which normally keep the work below a millisecond: of the thread's own time, so
that a busy machine changes no answer."""

# What ast.parse may see. Its tokenizer prints a SyntaxWarning for a number that runs into a keyword, as in 3and, which
# models write; such warnings can only be silenced for all threads of a process. So a number must end where a word
# ends, and no letter may stand before a quote: an f-string hides expressions.
_WRITTEN = re.compile(
    r"""(?: \s
          | (?: 0[xXoObB][0-9a-fA-F_]+
              | (?: [0-9][0-9_]*\.?[0-9_]* | \.[0-9][0-9_]* )(?: [eE][+-]?[0-9_]+ )?[jJ]? )(?![\w.])
          | in\b | [^\W\d]\w*+(?!['"])
          | '[^'\n]+' | ''(?!') | "[^"\n]+" | ""(?!")
          | [^\w\s'"]
        )*+""",
    re.VERBOSE,
)

Value = int | float | str | bool


class CalculatorError(ValueError):
    """An expression that the calculator refuses; the message is the reason, in a few plain words."""


def calculate(expression: str) -> str:
    """The value of `expression` as plain text: `95`, `0.5`, `True`, `APPLE`.

    Raises CalculatorError when the expression is not one the calculator knows, breaks a limit, or has no
    value (a division by zero).
    """
    if len(expression) > MAX_LENGTH:
        raise CalculatorError(f"longer than {MAX_LENGTH} characters")
    # Escape sequences could smuggle in control characters, and Python warns about unknown ones on stderr.
    if "\\" in expression or "\0" in expression:
        raise CalculatorError("backslashes are not allowed")
    if not _WRITTEN.fullmatch(expression):
        raise CalculatorError("not an expression")
    try:
        tree = ast.parse(expression.strip(), mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise CalculatorError("not an expression") from error
    deadline = time.thread_time() + SECONDS
    try:
        return _plain(_value(tree.body, MAX_DEPTH, deadline))
    except ZeroDivisionError as error:
        raise CalculatorError("division by zero") from error
    except OverflowError as error:
        raise CalculatorError("a number is too large") from error


def calculator_tool(expression: str) -> str:
    """`calculate` as an engine's tool hook: it never raises, a refusal becomes the text `error: reason`."""
    try:
        return calculate(expression)
    except CalculatorError as error:
        return f"error: {error}"


def _value(node: ast.expr, depth: int, deadline: float) -> Value:
    if depth == 0:
        raise CalculatorError(f"nested deeper than {MAX_DEPTH}")
    if time.thread_time() > deadline:
        raise CalculatorError("took too long")

    def values(*children: ast.expr) -> list[Value]:
        return [_value(child, depth - 1, deadline) for child in children]

    match node:
        case ast.Constant(value=value) if type(value) in (int, float, str):
            return _within_limits(value)
        case ast.UnaryOp(op=sign, operand=operand) if type(sign) in _ARITHMETIC:
            return _within_limits(_ARITHMETIC[type(sign)](*map(_number, values(operand))))
        case ast.BinOp(left=left, op=operation, right=right) if type(operation) in _ARITHMETIC:
            numbers = [_number(value) for child in (left, right) for value in values(child)]
            return _within_limits(_ARITHMETIC[type(operation)](*numbers))
        case ast.Compare(left=left, ops=comparisons, comparators=others):
            return _compare(values(left, *others), comparisons)
        case ast.Call(func=ast.Name(id=name), args=arguments, keywords=[]):
            return _call("function", name, values(*arguments))
        case ast.Call(func=ast.Attribute(value=owner, attr=name), args=arguments, keywords=[]):
            return _call("method", name, values(owner, *arguments))
    raise CalculatorError(f"{type(node).__name__} is not something the calculator knows")


def _number(value: Value) -> int | float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise CalculatorError("this operation needs numbers")
    return value


def _text(value: Value) -> str:
    if not isinstance(value, str):
        raise CalculatorError("this operation needs text in quotes")
    return value


def _within_limits(value: object) -> Value:
    if isinstance(value, bool):
        return value
    if isinstance(value, str):
        if len(value) > MAX_STRING:
            raise CalculatorError(f"text longer than {MAX_STRING} characters")
        return value
    if not isinstance(value, int | float):  # a negative number to a fractional power is complex
        raise CalculatorError("the result is not a real number")
    if value != value or abs(value) >= MAX_MAGNITUDE:
        raise CalculatorError("a number is too large")
    return value


def _power(base: int | float, exponent: int | float) -> object:
    if abs(exponent) > MAX_EXPONENT:
        raise CalculatorError(f"an exponent larger than {MAX_EXPONENT}")
    # Both are bounded, so even the largest power is a few thousand digits: microseconds, then refused.
    return base**exponent


def _round(value: Value, decimals: Value | None = None) -> int | float:
    if decimals is not None and (type(decimals) is not int or abs(decimals) > MAX_DECIMALS):
        raise CalculatorError(f"round takes a whole number of decimals up to {MAX_DECIMALS}")
    return round(_number(value), decimals)


_ARITHMETIC: dict[type[ast.AST], Callable[..., object]] = {
    ast.UAdd: operator.pos,
    ast.USub: operator.neg,
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: _power,
}

_COMPARISONS: dict[type[ast.cmpop], Callable[[Any, Any], bool]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.In: lambda part, whole: _text(part) in _text(whole),
    ast.NotIn: lambda part, whole: _text(part) not in _text(whole),
}

# By name: the fewest and the most arguments (of a method, its text included), and what takes them.
_CALLS: dict[str, tuple[int, int, Callable[..., object]]] = {
    "function abs": (1, 1, lambda value: abs(_number(value))),
    "function round": (1, 2, _round),
    "function min": (2, MAX_LENGTH, lambda *values: min(map(_number, values))),
    "function max": (2, MAX_LENGTH, lambda *values: max(map(_number, values))),
    "function len": (1, 1, lambda value: len(_text(value))),
    "method count": (2, 2, lambda text, part: _text(text).count(_text(part))),
    "method upper": (1, 1, lambda text: _text(text).upper()),
    "method lower": (1, 1, lambda text: _text(text).lower()),
    "method replace": (3, 3, lambda text, old, new: _text(text).replace(_text(old), _text(new))),
}


def _compare(values: list[Value], comparisons: list[ast.cmpop]) -> bool:
    for left, comparison, right in zip(values, comparisons, values[1:], strict=False):
        if type(comparison) not in _COMPARISONS:
            raise CalculatorError(f"{type(comparison).__name__} is not something the calculator knows")
        try:
            if not _COMPARISONS[type(comparison)](left, right):
                return False
        except TypeError as error:
            raise CalculatorError("text and numbers cannot be ordered") from error
    return True


def _call(kind: str, name: str, arguments: list[Value]) -> Value:
    called = f"{kind} {name[:20]}"
    if called not in _CALLS:
        raise CalculatorError(f"the {called} is not known")
    fewest, most, work = _CALLS[called]
    if not fewest <= len(arguments) <= most:
        raise CalculatorError(f"wrong number of arguments for {name}")
    return _within_limits(work(*arguments))


def _plain(value: Value) -> str:
    """Whole floats without a point, others to 12 significant digits without trailing zeros."""
    if not isinstance(value, float):
        return str(value)
    if value.is_integer() and abs(value) < 1e15:
        return str(int(value))
    # 12 digits hide the binary residue of 0.1 + 0.2; very small numbers stay in scientific notation.
    rounded = f"{value:.12g}"
    return rounded if abs(value) < 1e-9 else f"{Decimal(rounded):f}"
