"""All facts of the world, and the questions for them.

Every fact is stated in the documents. Those of the exam and of development are never asked in training, neither
in conversations nor in documents: to answer, a model must join what it read with how others were asked.
"""

import random
from functools import cache

from chatsmith.tasks.rules import NUMBER_WORDS, Names, normalise
from chatsmith.worlds.kindergarten.english import plural
from chatsmith.worlds.kindergarten.facts_of_animals import ANIMAL_RELATIONS, YOUNG
from chatsmith.worlds.kindergarten.facts_of_things import THING_RELATIONS
from chatsmith.worlds.kindergarten.facts_of_time_and_place import TIME_AND_PLACE_RELATIONS
from chatsmith.worlds.kindergarten.keys import Key, Split
from chatsmith.worlds.kindergarten.question import Question, text_reply
from chatsmith.worlds.kindergarten.relation import Fact, Relation

RELATIONS: tuple[Relation, ...] = (*ANIMAL_RELATIONS, *THING_RELATIONS, *TIME_AND_PLACE_RELATIONS)


@cache
def all_facts() -> tuple[Fact, ...]:
    """Every fact of the world, relation by relation."""
    return tuple(fact for relation in RELATIONS for fact in _facts(relation))


def facts_in(relation: Relation, split: Split | None = None) -> tuple[Fact, ...]:
    """The facts of a relation; of one split only, if given."""
    return _facts_in(relation, split)


def facts_about(entity: str) -> tuple[Fact, ...]:
    """What is known about an animal or a thing, in any relation that is about nouns."""
    return _by_entity().get(entity, ())


def topics() -> tuple[str, ...]:
    """The nouns that enough is known about to write a passage."""
    return _topics()


def draw_fact_question(rng: random.Random, split: Split) -> Question:
    """A question for a fact of `split`: each relation in proportion to its facts."""
    return fact_question(rng.choice(_facts_of_split(split)), rng)


def fact_question(fact: Fact, rng: random.Random) -> Question:
    """A question for `fact`, in one of its wordings."""
    number = rng.randrange(len(fact.relation.questions))
    prompt = fact.say(fact.relation.questions[number])
    return Question(
        key=Key("facts", fact.relation.name, (fact.entity,), f"question {number}"),
        prompt=prompt,
        reply=text_reply(fact.reply),
        answer=_bare(fact.value),
        rule=Names(_wordings(fact.value), _candidates(fact.relation), prompt),
    )


@cache
def _candidates(relation: Relation) -> tuple[str, ...]:
    """Every value that a reply might name to a question of this relation, in all its wordings."""
    return tuple({wording: None for value in relation.facts.values() for wording in _wordings(value)})


@cache
def _wordings(value: str) -> tuple[str, ...]:
    """A value as a reply may name it: normalised, without its article, singular or plural, word or digit."""
    bare = normalise(_bare(value))
    if bare == "no":
        return ("no", "zero", "0")
    if bare in NUMBER_WORDS:
        return (bare, str(NUMBER_WORDS.index(bare)))
    return (bare, plural(bare))


def _bare(value: str) -> str:
    for article in ("a ", "an ", "the "):
        value = value.removeprefix(article)
    return value


@cache
def _facts(relation: Relation) -> tuple[Fact, ...]:
    return tuple(Fact(relation, entity, value) for entity, value in relation.facts.items())


@cache
def _facts_in(relation: Relation, split: Split | None) -> tuple[Fact, ...]:
    return tuple(fact for fact in _facts(relation) if split in (None, fact.split))


@cache
def _facts_of_split(split: Split) -> tuple[Fact, ...]:
    return tuple(fact for fact in all_facts() if fact.split == split)


@cache
def _by_entity() -> dict[str, tuple[Fact, ...]]:
    found: dict[str, list[Fact]] = {}
    for relation in RELATIONS:
        if relation is YOUNG or relation.statements[0].startswith("{s} "):
            for fact in _facts(relation):
                found.setdefault(fact.entity, []).append(fact)
    return {entity: tuple(facts) for entity, facts in found.items()}


@cache
def _topics() -> tuple[str, ...]:
    return tuple(entity for entity, facts in _by_entity().items() if len(facts) >= 2)
