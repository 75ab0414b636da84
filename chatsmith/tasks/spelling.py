"""Spelling words, and counting the letters in them: a model reads tokens, and has to know what they are made of.

The words come from a list (`words/words_alpha.txt`, public domain). A hash of the word says which split it belongs to,
and which questions there are, so both stay the same when the list grows. Counting may be done by the calculator
(`"banana".count("a")`), as the conversations show.
"""

import hashlib
import random
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from chatsmith.data.problems import Problem
from chatsmith.runtime.errors import UserError
from chatsmith.tasks.benchmark_files import file_of_split, find_file
from chatsmith.tasks.rules import Number
from chatsmith.text.chat import Conversation, Message, Part

NAME = "spelling"
PATH = "words/words_alpha.txt"
FILES = {
    "train": PATH,  # 18 of 20 words, chosen by a hash of the word
    "development": PATH,  # 1 of 20 words: 200 to spell and 200 to count in
    "test": PATH,  # the same
}

SECTIONS = ("spelling", "counting")
PROBLEMS_PER_SECTION = 200
_PARTS = 20
_LENGTHS = range(4, 11)
_SPELL = (
    "How do you spell {word}?",
    "Spell the word {word}, letter by letter.",
    "How is the word {word} spelled?",
)
_COUNT = (
    "How many times does the letter {letter} occur in the word {word}?",
    "How many {letter}'s are there in {word}?",
    "Count the letter {letter} in {word}.",
)
_LETTER = re.compile(r"[^\W\d_]+")


@dataclass(frozen=True)
class SpelledOut:
    """The reply gives the letters of `word` one by one, in order, and says little else."""

    word: str
    other_words: int = 8
    """Words of more than one letter that may stand beside them."""

    def accepts(self, reply: str) -> bool:
        """True if the letters that stand alone are those of the word."""
        words = _LETTER.findall(reply.casefold())
        letters = [word for word in words if len(word) == 1]
        return "".join(letters) == self.word and len(words) - len(letters) <= self.other_words


def spelling_problems(split: str, folder: Path, excluded: Collection[str]) -> list[Problem]:
    """The problems of "development" or "test"; 400 with the whole list.

    `folder` is that of the benchmarks; `excluded` are words that another exam asks for, which may not be taught here.
    """
    if split == "train":
        raise UserError("spelling has conversations to train on, not problems")
    words = _words(split, folder, excluded)
    problems = []
    for section, chosen in zip(SECTIONS, (words[::2], words[1::2]), strict=True):
        for word in chosen[:PROBLEMS_PER_SECTION]:
            rng = random.Random(f"{NAME} {section} {word}")
            make = _spelling_problem if section == "spelling" else _counting_problem
            problems.append(make(f"{NAME}/{split}/{section}/{word}", word, rng))
    return problems


def spelling_conversations(
    folder: Path, count: int, excluded: Collection[str], seed: int = 1
) -> Iterator[Conversation]:
    """`count` conversations with words of "train", to learn from, without those that are `excluded`."""
    words = _words("train", folder, excluded)
    rng = random.Random(seed)
    for _ in range(count):
        word = rng.choice(words)
        problem = (_spelling_problem if rng.random() < 0.5 else _counting_problem)("", word, rng)
        parts = (Part("text", f"The word {word} is spelled {'-'.join(word)}."),)
        if problem.section == "counting":
            letter = problem.answer.partition(" ")[0]
            parts = (
                Part("text", f"{word} is spelled {'-'.join(word)}. "),
                Part("python", f'"{word}".count("{letter}")'),
                Part("output", str(word.count(letter))),
                Part("text", f"The letter {letter} occurs {_times(word.count(letter))}."),
            )
        yield (*problem.messages, Message("assistant", parts))


def _spelling_problem(identity: str, word: str, rng: random.Random) -> Problem:
    asked = rng.choice(_SPELL).format(word=word)
    return Problem(identity, "spelling", (Message.of("user", asked),), "-".join(word), SpelledOut(word))


def _counting_problem(identity: str, word: str, rng: random.Random) -> Problem:
    # Mostly a letter that is there, preferably more than once; sometimes one that is not.
    repeated = sorted({letter for letter in word if word.count(letter) > 1})
    absent = [letter for letter in "abcdefghijklmnopqrstuvwxyz" if letter not in word]
    choice = rng.random()
    letter = rng.choice(repeated if repeated and choice < 0.5 else absent if choice > 0.9 else list(word))
    asked = rng.choice(_COUNT).format(word=word, letter=letter)
    count = word.count(letter)
    return Problem(identity, "counting", (Message.of("user", asked),), f"{letter} {count}", Number(count))


def _times(count: int) -> str:
    return "1 time" if count == 1 else f"{count} times"


def _words(split: str, folder: Path, excluded: Collection[str]) -> list[str]:
    """The words of a split, in the order of their hashes."""
    place = find_file(folder, file_of_split(NAME, FILES, split))
    try:
        listed = place.read_text(encoding="ascii").split()
    except UnicodeDecodeError:
        raise UserError(f"{place} is not a list of English words, one a line") from None
    hashed = []
    for word in set(listed).difference(excluded):
        if len(word) in _LENGTHS and word.isalpha() and word.islower():
            number = int.from_bytes(hashlib.blake2b(word.encode(), digest_size=8).digest(), "big")
            part = {0: "test", 1: "development"}.get(number % _PARTS, "train")
            if part == split:
                hashed.append((number, word))
    return [word for _, word in sorted(hashed)]
