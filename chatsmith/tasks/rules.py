"""The rules by which replies are checked: a name, an exact reply, a number, a list.

They are strict: a reply that names every candidate, echoes the question or rambles past the answer does not pass.
They are plain data and satisfy `data.problems.Rule`.
"""

import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass

NUMBER_WORDS = (
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"),
    *("eleven", "twelve"),
)
_WORD = re.compile(r"\w+(?:['-]\w+)*")
_NUMBER = re.compile(r"\d+(?:\.\d+)?")
_NUMBER_WORD = re.compile(rf"\b({'|'.join(NUMBER_WORDS)})\b")


def normalise(text: str, *, keep_case: bool = False) -> str:
    """The words of `text`, separated by single spaces: no punctuation, lower case unless `keep_case`.

    Hyphens and apostrophes inside a word stay, so "C-A-T." becomes "c-a-t".
    """
    text = unicodedata.normalize("NFKC", text).replace("’", "'")
    return " ".join(_WORD.findall(text if keep_case else text.casefold()))


@dataclass(frozen=True)
class Names:
    """The reply is short, names one of `accepted` as whole words, and no other candidate of its own choosing."""

    accepted: tuple[str, ...]
    """Right answers, any of which will do."""
    candidates: tuple[str, ...] = ()
    """What else a reply might name; right answers may be among them."""
    question: str = ""
    """What is asked: a reply may repeat the candidates in it."""
    longest: int = 15
    """Words in a reply, at most: a sentence. A whole story told again would hold every answer."""

    def accepts(self, reply: str) -> bool:
        """True if a right answer stands in the reply, and no other candidate that the question does not name."""
        if len(normalise(reply).split()) > self.longest or not _names_any(reply, self.accepted):
            return False
        excused = " | ".join((self.question, *self.accepted))
        return all(_names_any(excused, (other,)) for other in self.candidates if _names_any(reply, (other,)))


@dataclass(frozen=True)
class Exactly:
    """The reply is one of `accepted`, give or take punctuation, and letter case unless that is the point."""

    accepted: tuple[str, ...]
    """Right replies, whole."""
    keep_case: bool = False
    """True where upper and lower case matter."""

    def accepts(self, reply: str) -> bool:
        """True if the normalised reply equals a normalised accepted one."""
        found = normalise(reply, keep_case=self.keep_case)
        return any(found == normalise(right, keep_case=self.keep_case) for right in self.accepted)


@dataclass(frozen=True)
class Number:
    """The last number in the reply is `value`; every other one stands in the question, `given`."""

    value: int
    """The right answer."""
    given: tuple[int, ...] = ()
    """Numbers of the question, which the reply may repeat before it answers."""

    def accepts(self, reply: str) -> bool:
        """True if the reply ends on the right number and names no number of its own beside it.

        An answer that the question already names must be the only number of the reply: otherwise an echo of
        the question would pass.
        """
        digits = _NUMBER_WORD.sub(lambda match: str(NUMBER_WORDS.index(match[1])), reply.casefold())
        found = [float(number) for number in _NUMBER.findall(digits)]
        if not found or found[-1] != self.value:
            return False
        return set(found[:-1]) <= (set() if self.value in self.given else {*self.given, self.value})


@dataclass(frozen=True)
class Listing:
    """The reply consists of `count` different ones of `members`, and nothing else but "and"."""

    count: int
    """How many are asked for."""
    members: tuple[str, ...]
    """What may be listed; single words."""

    def accepts(self, reply: str) -> bool:
        """True if the reply lists exactly `count` different members and no other words."""
        listed = [word for word in normalise(reply).split() if word != "and"]
        return len(listed) == len(set(listed)) == self.count and set(listed) <= set(self.members)


def _names_any(text: str, phrases: Iterable[str]) -> bool:
    words = f" {normalise(text)} "
    return any(f" {normalise(phrase)} " in words for phrase in phrases)
