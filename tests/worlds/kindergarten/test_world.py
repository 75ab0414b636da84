"""The world: every fact is stated in the documents, every word is spelled, every story's answers are in it."""

import random
import re

import pytest

from chatsmith.worlds.kindergarten import facts, vocabulary
from chatsmith.worlds.kindergarten.english import a, listed, plural, sentence
from chatsmith.worlds.kindergarten.keys import deal, split_of
from chatsmith.worlds.kindergarten.plots import draw_story
from chatsmith.worlds.kindergarten.table import table
from chatsmith.worlds.kindergarten.words import spelled, spelling_words, words_of


def test_every_fact_is_stated_in_the_documents_in_the_words_of_its_reply(documents):
    """The exam's facts are learned from statements alone, so each must be there, and often."""
    text = " ".join(document.text for document in documents).casefold()
    for fact in facts.all_facts():
        assert text.count(fact.reply.casefold().rstrip(".")) >= 3, fact.reply


def test_every_word_is_spelled_in_the_documents(documents):
    text = " ".join(document.text for document in documents)
    for word in spelling_words():
        assert f"The word {word} is spelled {spelled(word)}." in text


def test_every_relation_has_facts_for_training_development_and_exam():
    for relation in facts.RELATIONS:
        assert all(facts.facts_in(relation, split) for split in ("train", "development", "exam")), (
            relation.name
        )


def test_opposites_are_held_out_as_pairs():
    opposite = next(relation for relation in facts.RELATIONS if relation.mutual)
    splits = opposite.splits()
    assert all(splits[entity] == splits[value] for entity, value in opposite.facts.items())


def test_some_facts_hold():
    known = {(fact.relation.name, fact.entity): fact.value for fact in facts.all_facts()}
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
            assert re.search(rf"\b{ask.answer}\b", story.text), (story.text, ask)
            assert split_of("story", *ask.subject) == split, (story.text, ask)


def test_the_last_place_and_the_last_owner_are_the_answers():
    rng = random.Random(8)
    moved = 0
    for _ in range(1500):
        story = draw_story(rng, "train")
        for ask in story.asks:
            if ask.relation == "where is a thing":
                told = [told for told in story.told if f"the {ask.subject[1]}" in told]
                assert ask.answer in told[-1], story.text
                moved += len(told) > 1
            if ask.relation == "who has":
                handed = [told for told in story.told if f"the {ask.subject[1]}" in told]
                assert ask.answer in handed[-1], story.text
    assert moved > 50


def test_places_things_and_names_do_not_overlap():
    assert not set(vocabulary.WHERE) & set(vocabulary.OBJECTS)
    assert len(set(vocabulary.NAMES)) == len(vocabulary.NAMES) == 40


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
