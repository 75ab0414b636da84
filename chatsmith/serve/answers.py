"""A plain answer as JSON, written so that no other request waits for it.

The encoder of the standard library holds the interpreter until it is done, in a thread, too. Text is quick, but
log-probabilities are many: 7,500 tokens with twenty alternatives each took 0.2 seconds. So they are written in slices,
and between two of them the event loop has its turn.
"""

import asyncio
import json
from collections.abc import Iterator
from typing import Any

SLICE = 256
"""Tokens whose log-probabilities are written at once: a few milliseconds."""

_encoder = json.JSONEncoder(separators=(",", ":"))


async def encoded(answer: dict[str, Any]) -> bytes:
    """The bytes of an answer with `choices`."""
    pieces: list[str] = []
    for piece in _pieces(answer):
        pieces.append(piece)
        await asyncio.sleep(0)
    return "".join(pieces).encode()


def _pieces(answer: dict[str, Any]) -> Iterator[str]:
    rest = {name: value for name, value in answer.items() if name != "choices"}
    yield _encoder.encode(rest)[:-1] + ',"choices":['
    for place, choice in enumerate(answer["choices"]):
        yield "," if place else ""
        yield from _choice(choice)
    yield "]}"


def _choice(choice: dict[str, Any]) -> Iterator[str]:
    if choice["logprobs"] is None:
        yield _encoder.encode(choice)
        return
    yield _encoder.encode({name: value for name, value in choice.items() if name != "logprobs"})[:-1]
    for place, (name, entries) in enumerate(choice["logprobs"].items()):
        yield ("," if place else ',"logprobs":{') + f'"{name}":'
        yield from _entries(entries)
    yield "}}"


def _entries(entries: list[Any] | None) -> Iterator[str]:
    if not entries:
        yield _encoder.encode(entries)
        return
    for start in range(0, len(entries), SLICE):
        yield ("," if start else "[") + _encoder.encode(entries[start : start + SLICE])[1:-1]
    yield "]"
