"""Counting letters in words, letters of words, and words in a row; the calculator does the counting.

The exam asks for combinations of word and letter (or of words) that training never asks for.
"""

import random

from chatsmith.tasks.rules import Number
from chatsmith.worlds.kindergarten.keys import Key, Split, draw
from chatsmith.worlds.kindergarten.question import Question, calculator_reply
from chatsmith.worlds.kindergarten.table import lines
from chatsmith.worlds.kindergarten.words import spelling_words

_LETTER_TEMPLATES = lines("""
    How many times is the letter "{letter}" in "{word}"?
    How often does the letter "{letter}" appear in the word "{word}"?
    Count the letter "{letter}" in "{word}".
    How many times do you see "{letter}" in the word "{word}"?
    Can you count the letter "{letter}" in the word "{word}"?
""")
_LENGTH_TEMPLATES = lines("""
    How many letters are in "{word}"?
    How many letters does the word "{word}" have?
    Count the letters in "{word}".
    How long is the word "{word}"?
""")
ROW_TEMPLATES = lines("""
    How many times is "{word}" in "{row}"?
    Count the word "{word}" in "{row}".
    How often does "{word}" appear in "{row}"?
""")


def draw_counting_question(rng: random.Random, split: Split) -> Question:
    """A question on the letters of a word or on the words of a row."""
    kind = rng.random()
    if kind < 0.5:
        return _letters(rng, split)
    return _length(rng, split) if kind < 0.75 else _row(rng, split)


def _letters(rng: random.Random, split: Split) -> Question:
    word, letter = draw(rng, split, _word_and_letter, lambda drawn: ("letters", *drawn))
    count = word.count(letter)
    number = rng.randrange(len(_LETTER_TEMPLATES))
    return _question(
        key=Key("counting", "letter", (word, letter), f"letter {number}"),
        prompt=_LETTER_TEMPLATES[number].format(word=word, letter=letter),
        expression=f'"{word}".count("{letter}")',
        count=count,
        reply=f'The letter "{letter}" appears {_times(count)} in "{word}".',
    )


def _word_and_letter(rng: random.Random) -> tuple[str, str]:
    """A word and a letter, mostly one that is in it; repeated letters are sought out."""
    word = rng.choice(spelling_words())
    repeated = [letter for letter in word if word.count(letter) > 1]
    kind = rng.random()
    if kind < 0.12:
        return word, rng.choice([letter for letter in "abcdefghiklmnoprstuvwy" if letter not in word])
    return word, rng.choice(repeated if repeated and kind < 0.7 else list(word))


def _length(rng: random.Random, split: Split) -> Question:
    word = draw(rng, split, lambda r: r.choice(spelling_words()), lambda drawn: ("length", drawn))
    number = rng.randrange(len(_LENGTH_TEMPLATES))
    return _question(
        key=Key("counting", "length", (word,), f"length {number}"),
        prompt=_LENGTH_TEMPLATES[number].format(word=word),
        expression=f'len("{word}")',
        count=len(word),
        reply=f'The word "{word}" has {len(word)} letters.',
    )


def _row(rng: random.Random, split: Split) -> Question:
    word, row = draw(rng, split, _word_and_row, lambda drawn: ("row", *drawn))
    number = rng.randrange(len(ROW_TEMPLATES))
    count = row.split().count(word)
    return _question(
        key=Key("counting", "row", (word, row), f"row {number}"),
        prompt=ROW_TEMPLATES[number].format(word=word, row=row),
        expression=f'"{row}".count("{word}")',
        count=count,
        reply=f'The word "{word}" appears {_times(count)} in the row.',
    )


def _word_and_row(rng: random.Random) -> tuple[str, str]:
    """A word, and a row of three to seven words of which some are this one; none contains another."""
    while True:
        word, *others = rng.sample(spelling_words(), 3)
        row = [word] * rng.randint(1, 4) + [rng.choice(others) for _ in range(rng.randint(1, 3))]
        rng.shuffle(row)
        text = " ".join(row)
        if text.count(word) == row.count(word):
            return word, text


def _question(*, key: Key, prompt: str, expression: str, count: int, reply: str) -> Question:
    return Question(
        key=key,
        prompt=prompt,
        reply=calculator_reply(expression, str(count), reply),
        answer=str(count),
        rule=Number(count),
    )


def _times(count: int) -> str:
    return f"{count} time" if count == 1 else f"{count} times"
