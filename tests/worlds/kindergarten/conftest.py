"""A sample of the training texts, generated once for all tests."""

import pytest

from chatsmith.text.chat import Conversation
from chatsmith.worlds.kindergarten import Kindergarten
from chatsmith.worlds.kindergarten.texts import Text


@pytest.fixture(scope="session")
def conversations() -> list[Text[Conversation]]:
    return list(Kindergarten(seed=3, conversations=8000).keyed_conversations("train"))


@pytest.fixture(scope="session")
def documents() -> list[Text[str]]:
    return list(Kindergarten(seed=3, documents=4000).keyed_documents("train"))
