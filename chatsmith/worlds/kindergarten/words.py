"""The words that are spelled, counted and shouted, and phrases made of words."""

import random
from functools import cache

from chatsmith.worlds.kindergarten import vocabulary as v
from chatsmith.worlds.kindergarten.english import a, plural
from chatsmith.worlds.kindergarten.keys import Split, deal

_EXAM_SHARE = 0.2
_DEVELOPMENT_SHARE = 0.1


@cache
def spelling_words() -> tuple[str, ...]:
    """The words a speller of this world knows, sorted: about two hundred."""
    known = {*v.OBJECTS, *v.FRUITS, *v.VEGETABLES, *v.DRINKS, *v.SNACKS, *v.PETS, *v.WILD_ANIMALS}
    known |= {*v.COLOURS, *v.SEASONS, *v.TOOLS, *v.CLOTHES, *v.FARM_ANIMALS, *v.PLACES}
    return tuple(sorted(word for word in known if 3 <= len(word) <= 8))


def words_of(split: Split, purpose: str) -> tuple[str, ...]:
    """The words that training, development or the exam may ask about, for one purpose ("spelling", ...)."""
    return _words_of(split, purpose)


def spelled(word: str) -> str:
    """The letters of a word with hyphens: "c-a-t"."""
    return "-".join(word)


def phrase(rng: random.Random) -> str:
    """Three to six words without capital or full stop: a short sentence or a row of words."""
    shape = rng.randrange(5)
    if shape == 0:
        return " ".join(rng.sample(_all_words(), rng.randint(3, 5)))
    noun = rng.choice(_nouns())
    verb, adverb = rng.choice(v.VERBS), rng.choice(v.ADVERBS)
    look = rng.choice(v.COLOURS + v.LOOKS)
    if shape == 1:
        return f"the {look} {noun} is {rng.choice(tuple(v.WHERE.values()))}"
    if shape == 2:
        return f"{' and '.join(rng.sample(v.NAMES, 2))} {verb} {adverb}"
    if shape == 3:
        return f"{rng.choice(v.NAMES)} has {a(f'{look} {noun}')}"
    return f"we {verb} {adverb} {rng.choice(tuple(v.PLACES.values()))}"


def row(rng: random.Random) -> str:
    """Three to six words that begin with any word: what comes first cannot be guessed."""
    if rng.random() < 0.5:
        return " ".join(rng.sample(_all_words(), rng.randint(3, 5)))
    things = plural(rng.choice(_nouns()))
    return f"{rng.choice(v.COLOURS + v.LOOKS)} {things} are {rng.choice(tuple(v.WHERE.values()))}"


@cache
def _words_of(split: Split, purpose: str) -> tuple[str, ...]:
    dealt = deal(list(spelling_words()), salt=purpose, exam=_EXAM_SHARE, development=_DEVELOPMENT_SHARE)
    return tuple(word for word, its_split in dealt.items() if its_split == split)


@cache
def _nouns() -> tuple[str, ...]:
    return v.OBJECTS + v.TREATS + v.PETS + v.WILD_ANIMALS


@cache
def _all_words() -> tuple[str, ...]:
    return (*_nouns(), *v.COLOURS, *v.LOOKS, *v.PLACES, *v.SEASONS)
