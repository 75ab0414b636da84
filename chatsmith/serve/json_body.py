"""The body of a request, as JSON and nothing else.

Python's parser is generous: it takes NaN and Infinity, reads 1e400 as infinity, lets half of a surrogate pair pass
as a character, and keeps the last of two equal keys. Each of these would surface later as a crash or as something the
client did not mean, so each is refused here.
"""

import json
import math
from typing import Any, NoReturn

from chatsmith.serve.errors import ApiError, invalid


def parse_object(body: bytes) -> dict[str, Any]:
    """The JSON object in `body`. Raises ApiError (400) that says what is wrong with it."""
    if not body.strip():
        raise _bad("the request has no body; send a JSON object")
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError as error:
        raise _bad(f"the body is not UTF-8 (byte {error.start})") from error
    try:
        value = json.loads(
            text, parse_constant=_refuse_constant, parse_float=_finite, object_pairs_hook=_unambiguous
        )
    except ApiError:
        raise
    except RecursionError as error:
        raise too_deep() from error
    except ValueError as error:
        raise _bad(f"the body is not valid JSON: {error}") from error
    if not isinstance(value, dict):
        raise _bad("the body must be a JSON object")
    if "\\u" in text:  # only an escape can smuggle half a character past the UTF-8 decoder
        _refuse_lone_surrogates(value)
    return value


def too_deep() -> ApiError:
    """The body is JSON, but no program wants to go that far down."""
    return _bad("the body is nested too deeply")


def _bad(message: str) -> ApiError:
    return invalid(message, code="invalid_json")


def _refuse_constant(name: str) -> NoReturn:
    raise _bad(f"{name} is not a JSON number")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise _bad(f"the number {text[:40]} is too large")
    return number


def _unambiguous(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))
        raise _bad(f"the key {twice[:40]!r} appears twice in one object")
    return result


def _refuse_lone_surrogates(value: dict[str, Any]) -> None:
    try:
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError as error:
        raise _bad("a text holds half of a surrogate pair, which is no character") from error
