"""A sample of the training texts, generated once for all tests."""

import pytest

from chatsmith.worlds.kindergarten import Kindergarten
from chatsmith.worlds.kindergarten.texts import Document, KeyedConversation


@pytest.fixture(scope="session")
def conversations() -> list[KeyedConversation]:
    return list(Kindergarten(seed=3, conversations=8000).keyed_conversations("train"))


@pytest.fixture(scope="session")
def documents() -> list[Document]:
    return list(Kindergarten(seed=3, documents=4000).keyed_documents("train"))
