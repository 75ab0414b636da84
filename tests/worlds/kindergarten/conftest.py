"""A sample of the training texts, generated once for all tests, with what they were made of."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple
from unittest.mock import patch

import pytest

from chatsmith.worlds.kindergarten import Kindergarten, questions, texts
from chatsmith.worlds.kindergarten.questions import Key


class Text(NamedTuple):
    """A document or a conversation, its kind, and the keys of the questions that were drawn for it."""

    kind: str
    content: Any
    keys: tuple[Key, ...]


def recorded(made: Iterator[Any]) -> list[Text]:
    """The texts, with all that was drawn meanwhile: no question is made without a key."""
    kinds: list[str] = []
    keys: list[Key] = []

    def key(*parts: Any) -> Key:
        keys.append(Key(*parts))
        return keys[-1]

    def noted(kind: str, make: Callable[..., Any]) -> Callable[..., Any]:
        return lambda rng: kinds.append(kind) or make(rng)

    draw_talk = texts._draw_talk
    makers = {kind: noted(kind, make) for kind, make in texts._DOCUMENT_MAKERS.items()}
    found = []
    with (
        patch.object(questions, "Key", key),
        patch.dict(texts._DOCUMENT_MAKERS, makers),
        patch.object(texts, "_draw_talk", lambda rng, kind: kinds.append(kind) or draw_talk(rng, kind)),
    ):
        for content in made:
            found.append(Text(kinds[-1], content, tuple(keys)))
            keys.clear()
    return found


@pytest.fixture(scope="session")
def conversations() -> list[Text]:
    return recorded(Kindergarten(seed=3, conversations=8000).conversations("train"))


@pytest.fixture(scope="session")
def documents() -> list[Text]:
    return recorded(Kindergarten(seed=3, documents=4000).documents("train"))
