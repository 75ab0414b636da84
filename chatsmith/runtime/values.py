"""Values of settings: read from text or TOML into the type a field declares, and back into TOML.

The types are bool, int, float, str, Path, Literal, `X | None` and tuples of these: no others are needed.
"""

import shlex
import types
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from chatsmith.runtime.errors import UserError

_WRONG = object()
_TRUTHS = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
_WORDS = {bool: "true or false", int: "a whole number", float: "a number", str: "a text", Path: "a path"}


def convert(value: Any, hint: Any, where: str, *, is_text: bool = False) -> Any:
    """`value` as the type `hint`; `where` names its place in errors.

    With `is_text`, `value` is text to be read (an environment variable); otherwise it has a TOML type.
    """
    converted = _converted(value, hint, is_text)
    if converted is _WRONG:
        raise UserError(f"{where} must be {describe(hint)}, not {value!r}")
    return converted


def _converted(value: Any, hint: Any, is_text: bool) -> Any:
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return _converted(value, arguments[0], is_text)
    if origin in (Union, types.UnionType):
        if is_text and type(None) in arguments and value.lower() in ("", "none"):
            return None
        options = (_converted(value, option, is_text) for option in arguments if option is not type(None))
        return next((option for option in options if option is not _WRONG), _WRONG)
    if origin is Literal:
        return next((choice for choice in arguments if value == (str(choice) if is_text else choice)), _WRONG)
    if origin is tuple:
        return _converted_tuple(value, arguments, is_text)
    if hint is bool:
        return _TRUTHS.get(value.lower(), _WRONG) if is_text else value if isinstance(value, bool) else _WRONG
    if hint in (int, float) and is_text:
        try:
            return hint(value)
        except ValueError:
            return _WRONG
    if hint in (int, float):
        fits = isinstance(value, int if hint is int else (int, float)) and not isinstance(value, bool)
        return hint(value) if fits else _WRONG
    assert hint in (str, Path), f"a setting cannot have the type {hint}"
    return hint(value) if isinstance(value, str) else _WRONG


def _converted_tuple(value: Any, arguments: tuple[Any, ...], is_text: bool) -> Any:
    items = shlex.split(value) if is_text else value
    if not isinstance(items, list):
        return _WRONG
    is_open = len(arguments) == 2 and arguments[1] is Ellipsis
    hints = [arguments[0]] * len(items) if is_open else list(arguments)
    if len(hints) != len(items):
        return _WRONG
    converted = tuple(_converted(item, hint, is_text) for item, hint in zip(items, hints, strict=True))
    return _WRONG if any(item is _WRONG for item in converted) else converted


def describe(hint: Any) -> str:
    """The type `hint` in words: 'a whole number'."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return describe(arguments[0])
    if origin in (Union, types.UnionType):
        return " or ".join(describe(option) for option in arguments if option is not type(None))
    if origin is Literal:
        return "one of " + ", ".join(str(choice) for choice in arguments)
    if origin is tuple:
        return f"a list, each {describe(arguments[0])}"
    return _WORDS[hint]


def as_toml(value: Any) -> Any:
    """`value` in the types TOML has: lists for tuples, text for paths."""
    if isinstance(value, tuple):
        return [as_toml(item) for item in value]
    return str(value) if isinstance(value, Path) else value
