"""Spelling words, and counting the letters in them: a model reads tokens, and has to know what they are made of.

The words come from a list (`words/words_alpha.txt`, public domain). A hash of the word says which split it belongs to,
and which questions there are, so both stay the same when the list grows. Counting may be done by the calculator
(`"banana".count("a")`), as the conversations show.
"""

import hashlib
import random
import re
import tomllib
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from chatsmith.data.problems import Problem
from chatsmith.runtime.errors import UserError
from chatsmith.tasks.benchmark_files import find_file, task_file
from chatsmith.tasks.rules import Number
from chatsmith.text.chat import Conversation, Message, Part

NAME = "spelling"

SECTIONS = ("spelling", "counting")
_ASKED = {"spelling": "spell", "counting": "count"}
PROBLEMS_PER_SECTION = 200
_PARTS = 20
_LENGTHS = range(4, 11)
_WORDS = tomllib.loads(Path(__file__).with_name("letters.toml").read_text(encoding="utf-8"))
CONVERSATIONS_VERSION = 1
"""Raised when equal words no longer give equal conversations."""
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
            answer, rule, named = "-".join(word), SpelledOut(word), {"word": word}
            if section == "counting":
                letter = _letter_to_count(word, rng)
                answer, rule = f"{letter} {word.count(letter)}", Number(word.count(letter))
                named["letter"] = letter
            asked = rng.choice(_WORDS["en"][_ASKED[section]]).format(**named)
            identity = f"{NAME}/{split}/{section}/{word}"
            problems.append(Problem(identity, section, (Message.of("user", asked),), answer, rule))
    return problems


def spelling_conversations(
    section: str, split: str, folder: Path, excluded: Collection[str]
) -> Iterator[Conversation]:
    """A conversation for each word of "train" or "development", without those that are `excluded`: to learn spelling
    (`section` "spelling") or counting letters ("counting"). Half are in English, the others in six languages.

    A count goes letter by letter, with strokes rather than numbers, and is checked with the calculator.
    """
    if split == "test":
        raise UserError("the test words of spelling are not for training")
    others = [language for language in _WORDS if language != "en"]
    for word in _words(split, folder, excluded):
        rng = random.Random(f"{section} conversation {word}")
        language = _WORDS["en" if rng.random() < 0.5 else rng.choice(others)]
        letters = "-".join(word)
        if section == "spelling":
            asked = rng.choice(language["spell"]).format(word=word)
            yield (
                Message.of("user", asked),
                Message.of("assistant", language["spelled"].format(word=word, letters=letters)),
            )
            continue
        letter = _letter_to_count(word, rng)
        number = word.count(letter)
        strokes = (
            f"{one} {'|' * word[:place].count(letter)}" if one == letter else one
            for place, one in enumerate(word, 1)
        )
        named = {"word": word, "letter": letter, "letters": letters, "count": number}
        named["steps"] = ", ".join(strokes)
        parts = (
            Part("text", language["steps"].format(**named)),
            Part("python", f'"{word}".count("{letter}")'),
            Part("output", str(number)),
            Part("text", language["once" if number == 1 else "often"].format(**named)),
        )
        yield Message.of("user", rng.choice(language["count"]).format(**named)), Message("assistant", parts)


def _letter_to_count(word: str, rng: random.Random) -> str:
    """Mostly a letter that is there, preferably more than once; sometimes one that is not."""
    repeated = sorted({letter for letter in word if word.count(letter) > 1})
    absent = [letter for letter in "abcdefghijklmnopqrstuvwxyz" if letter not in word]
    choice = rng.random()
    return rng.choice(repeated if repeated and choice < 0.5 else absent if choice > 0.9 else list(word))


def _words(split: str, folder: Path, excluded: Collection[str]) -> list[str]:
    """The words of a split, in the order of their hashes."""
    place = find_file(folder, task_file(NAME, split))
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
