"""Spelling, and first and last letters.

A model reads a word as one token and cannot see its letters: it has to be told. So every word is spelled out in
the documents (`spelling_statement`), and the words of the exam and of development are never asked for.
"""

import random

from chatsmith.tasks.rules import Exactly
from chatsmith.worlds.kindergarten.keys import Key, Split
from chatsmith.worlds.kindergarten.question import Question, text_reply
from chatsmith.worlds.kindergarten.table import lines
from chatsmith.worlds.kindergarten.words import spelled, spelling_words, words_of

_SPELLING_TEMPLATES = lines("""
    How do you spell {word}?
    How is the word {word} spelled?
    Please spell {word}.
    Can you spell the word {word}?
    Spell the word {word}, letter by letter.
""")
_FIRST_TEMPLATES = lines("""
    What is the first letter of {word}?
    Which letter does the word {word} begin with?
    With which letter does {word} begin?
    Tell me the first letter of the word {word}.
""")
_LAST_TEMPLATES = lines("""
    What is the last letter of {word}?
    Which letter does the word {word} end with?
    With which letter does {word} end?
    Tell me the last letter of the word {word}.
""")
_SPELLING_STATEMENTS = lines("""
    The word {word} is spelled {spelled}.
    We spell {word} like this: {spelled}.
    The letters {spelled} make the word {word}.
    The letters of {word} are {spelled}.
    If you write {spelled}, you have written {word}.
""")


def draw_spelling_question(rng: random.Random, split: Split) -> Question:
    """How a word is spelled, or how it begins or ends."""
    kind = rng.random()
    if kind < 0.6:
        word = rng.choice(words_of(split, "spelling"))
        right = (f"The word {word} is spelled {spelled(word)}.", f"{word} is spelled {spelled(word)}")
        return _question("spelling", word, _SPELLING_TEMPLATES, spelled(word), right, rng)
    if kind < 0.8:
        word = rng.choice(words_of(split, "first letter"))
        right = (f"The word {word} begins with {word[0]}.", f"{word} begins with {word[0]}")
        return _question("first letter", word, _FIRST_TEMPLATES, word[0], right, rng)
    word = rng.choice(words_of(split, "last letter"))
    right = (f"The word {word} ends with {word[-1]}.", f"{word} ends with {word[-1]}")
    return _question("last letter", word, _LAST_TEMPLATES, word[-1], right, rng)


def spelling_statement(rng: random.Random) -> str:
    """A sentence that tells how some word, of whatever split, is spelled, or begins, or ends."""
    word = rng.choice(spelling_words())
    kind = rng.random()
    if kind < 0.18:
        return f"The word {word} begins with {word[0]}."
    if kind < 0.36:
        return f"The word {word} ends with {word[-1]}."
    template = _SPELLING_STATEMENTS[0] if rng.random() < 0.5 else rng.choice(_SPELLING_STATEMENTS)
    return template.format(word=word, spelled=spelled(word))


def _question(
    relation: str,
    word: str,
    templates: tuple[str, ...],
    answer: str,
    right: tuple[str, ...],
    rng: random.Random,
) -> Question:
    number = rng.randrange(len(templates))
    return Question(
        key=Key("spelling", relation, (word,), f"{relation} {number}"),
        prompt=templates[number].format(word=word),
        reply=text_reply(right[0]),
        answer=answer,
        rule=Exactly((answer, *right)),
    )
