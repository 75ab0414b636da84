"""The world: every fact is stated in the documents, every word is spelled, every story's answers are in it."""

import random
import re

import pytest

from chatsmith.worlds.kindergarten.questions import spelled
from chatsmith.worlds.kindergarten.stories import ask_about, draw_story
from chatsmith.worlds.kindergarten.world import (
    a,
    all_facts,
    deal,
    listed,
    noun_of,
    plural,
    relations,
    sentence,
    spelling_words,
    split_of,
    table,
    words,
    words_of,
)


def test_every_fact_is_stated_in_the_documents_in_the_words_of_its_reply(documents):
    """The exam's facts are learned from statements alone, so each must be there, and often."""
    text = " ".join(document.content for document in documents).casefold()
    for fact in all_facts():
        assert text.count(fact.reply.casefold().rstrip(".")) >= 3, fact.reply


def test_every_word_is_spelled_in_the_documents(documents):
    text = " ".join(document.content for document in documents)
    for word in spelling_words():
        assert f"The word {word} is spelled {spelled(word)['spelled']}." in text


def test_every_relation_has_facts_for_training_development_and_exam():
    for relation in relations():
        assert {fact.split for fact in relation.facts} == {"train", "development", "exam"}, relation.name


def test_opposites_are_held_out_as_pairs():
    opposite = next(relation for relation in relations() if relation.mutual)
    splits = {fact.entity: fact.split for fact in opposite.facts}
    assert all(splits[entity] == splits[value] for entity, value in opposite.known.items())


def test_some_facts_hold():
    known = {(fact.relation.name, fact.entity): fact.value for fact in all_facts()}
    assert known["animal sound", "cow"] == "moo"
    assert known["capital", "France"] == "Paris"
    assert known["day after", "Sunday"] == "Monday" and known["day before", "Monday"] == "Sunday"
    assert known["month before", "January"] == "December"
    assert known["opposite", "hot"] == "cold" and known["opposite", "cold"] == "hot"


@pytest.mark.parametrize("split", ["train", "development", "exam"])
def test_the_answer_to_every_question_on_a_story_is_told_in_it(split):
    rng = random.Random(7)
    for _ in range(300):
        story = draw_story(rng, split)
        assert story.asks
        for ask in story.asks:
            question = ask_about(story, ask, rng)
            assert re.search(rf"\b{question.answer}\b", story.text), (story.text, question)
            *subject, answer = question.key.entities
            assert answer == question.answer
            assert split_of("story", *subject) == split, (story.text, question)


def test_the_last_place_and_the_last_owner_are_the_answers():
    rng = random.Random(8)
    moved = 0
    for _ in range(1500):
        story = draw_story(rng, "train")
        for question in (ask_about(story, ask, rng) for ask in story.asks):
            if question.key.relation in ("where is a thing", "who has"):
                sentences = re.split(r"(?<=\.) ", story.text)
                told = [told for told in sentences if f"the {question.key.entities[1]}" in told]
                assert question.answer in told[-1], story.text
                moved += question.key.relation == "where is a thing" and len(told) > 1
    assert moved > 50


def test_places_things_and_names_do_not_overlap():
    assert not {noun_of(where) for where in words("where")} & set(words("objects"))
    assert len(set(words("names"))) == len(words("names")) == 40


def test_splits_of_words_are_disjoint_and_cover_all():
    splits = [set(words_of(split, "spelling")) for split in ("train", "development", "exam")]
    assert set.union(*splits) == set(spelling_words())
    assert sum(map(len, splits)) == len(spelling_words())


def test_dealing_gives_each_split_its_share():
    dealt = deal([str(number) for number in range(100)], salt="x", exam=0.2, development=0.1)
    counts = [list(dealt.values()).count(split) for split in ("exam", "development", "train")]
    assert counts == [20, 10, 70]


def test_little_grammar():
    assert [a("cow"), a("owl"), a("umbrella")] == ["a cow", "an owl", "an umbrella"]
    assert [plural(noun) for noun in ("box", "cherry", "day", "mouse", "fire engine")] == [
        *("boxes", "cherries", "days", "mice", "fire engines"),
    ]
    assert listed(["red"]) == "red" and listed(["red", "blue", "green"]) == "red, blue and green"
    assert sentence("it is red") == "It is red." and sentence("is it?") == "Is it?"


def test_a_table_refuses_an_entity_given_twice():
    assert table("cow: moo, dog: woof\n cat: meow") == {"cow": "moo", "dog": "woof", "cat": "meow"}
    with pytest.raises(AssertionError):
        table("cow: moo, cow: woof")
