"""The texts: deterministic, well-formed, right, and different between training and validation."""

import itertools
import re

import pytest

from chatsmith.runtime.errors import UserError
from chatsmith.text.chat import check_conversation, conversation_to_json
from chatsmith.tools.calculator import calculate
from chatsmith.worlds.kindergarten import Kindergarten
from chatsmith.worlds.kindergarten.world import data


def test_a_text_depends_on_its_number_and_not_on_how_many_are_made():
    few, many = Kindergarten(documents=20, conversations=20), Kindergarten(documents=99, conversations=99)
    assert list(few.documents("train")) == list(itertools.islice(many.documents("train"), 20))
    assert list(few.conversations("train")) == list(itertools.islice(many.conversations("train"), 20))


def test_another_seed_gives_other_texts_and_the_same_exam():
    one, two = Kindergarten(seed=1, documents=50), Kindergarten(seed=2, documents=50)
    assert not set(one.documents("train")) & set(two.documents("train"))
    assert list(one.problems("exam")) == list(two.problems("exam"))


def test_no_validation_text_is_a_training_text(conversations, documents):
    task = Kindergarten(seed=3, validation=300)
    assert not {document.content for document in documents} & set(task.documents("validation"))
    trained_on = {_said(conversation.content) for conversation in conversations}
    assert not trained_on & {_said(messages) for messages in task.conversations("validation")}


def test_all_kinds_are_drawn(conversations, documents):
    assert {document.kind for document in documents} == set(data("texts")["documents"])
    assert {conversation.kind for conversation in conversations} == set(data("texts")["conversations"])


def test_documents_are_sentences_without_gaps_or_stray_marks(documents):
    for document in documents:
        assert document.content == document.content.strip() and document.content.isascii()
        assert not re.search(r"[{}]|  |\.\.|\?\.| [.,]|\ba [aeiou]\w|\ban [^aeiou\W]", document.content), (
            document.content
        )
        assert re.match(r'"?[A-Z0-9]', document.content), document.content


def test_conversations_are_well_formed_and_end_with_the_assistant(conversations):
    for conversation in conversations:
        check_conversation(conversation.content)
        assert conversation.content[-1].role == "assistant"
        assert "{" not in str(conversation_to_json(conversation.content)["messages"][0]["content"])


def test_the_calculator_gives_the_outputs_that_training_shows(conversations):
    calls = {
        (message.parts[0].text, message.parts[1].text)
        for conversation in conversations
        for message in conversation.content
        if message.parts[0].kind == "python"
    }
    assert len(calls) > 500
    for expression, output in calls:
        assert calculate(expression) == output, expression


def test_some_conversations_have_a_system_message_and_some_several_turns(conversations):
    with_system = sum(each.content[0].role == "system" for each in conversations) / len(conversations)
    several = sum(len(each.content) > 3 for each in conversations) / len(conversations)
    assert 0.1 < with_system < 0.5 and 0.2 < several < 0.8


@pytest.mark.parametrize("wrong", [{"documents": 0}, {"conversations": -1}, {"validation": 0}])
def test_impossible_counts_are_refused_in_one_line(wrong):
    with pytest.raises(UserError, match=next(iter(wrong))):
        Kindergarten(**wrong)


def test_unknown_splits_are_refused_by_name():
    with pytest.raises(UserError, match="exam"):
        Kindergarten().problems("train")
    with pytest.raises(UserError, match="validation"):
        next(Kindergarten().documents("test"))


def _said(messages):
    return tuple((message.role, message.text) for message in messages if message.role != "system")
