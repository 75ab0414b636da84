"""What a task is: something to read, something to imitate, and problems whose answers a program can check.

A rule decides whether a reply answers a problem. Rules are strict: a reply that names every candidate, echoes
the question or rambles past the answer does not pass. They are plain data, so a set of problems can be written
down and hashed. Nothing here knows about models or engines.
"""

import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from chatsmith.text.chat import Conversation, Part, conversation_to_json

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


class Rule(Protocol):
    """Decides whether a reply is right."""

    def accepts(self, reply: str) -> bool:
        """True if `reply` (the text parts of an assistant message) is a right answer."""
        ...


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


@dataclass(frozen=True)
class Problem:
    """A prompt, and the rule that says which replies answer it."""

    id: str
    """Unique within its task, e.g. "exam/facts/17"."""
    section: str
    """The part of the exam it counts for."""
    messages: Conversation
    """The prompt: it ends with a user message."""
    answer: str
    """A right answer, to be shown to people."""
    rule: Rule
    """What decides."""

    def check(self, reply: str) -> bool:
        """True if `reply` answers the problem. Pass the text parts alone, without tool calls and outputs."""
        return self.rule.accepts(reply)


@dataclass(frozen=True)
class Reply:
    """What a model answered."""

    text: str
    """The text alone, without calls of the calculator and their results."""
    parts: tuple[Part, ...] = ()
    """All of it, in order."""
    is_finished: bool = True
    """Did it end by itself? False where it was cut at the longest length allowed."""


@dataclass(frozen=True)
class Verdict:
    """What one reply is worth."""

    reward: float | None
    """None where the reward function failed: nothing is learned from such a reply."""
    is_right: bool
    failure: str = ""
    """Why the function failed."""


RewardFunction = Callable[[Problem, Reply], Verdict]
"""What reinforcement learning asks about every reply."""


class Task(Protocol):
    """Something to learn and to be examined in. All three are generated or read lazily."""

    @property
    def name(self) -> str:
        """What it is called in tables and file names."""
        ...

    def documents(self, split: str) -> Iterator[str]:
        """Texts for pretraining; `split` is "train" or "validation"."""
        ...

    def conversations(self, split: str) -> Iterator[Conversation]:
        """Conversations for fine-tuning; `split` is "train" or "validation"."""
        ...

    def problems(self, split: str) -> Iterator[Problem]:
        """Problems with checkable answers; `split` is "development" (to tune on) or "exam"."""
        ...


def problem_to_json(problem: Problem) -> dict[str, Any]:
    """`problem` as plain strings, numbers, lists and dicts, rule included: what an exam's fingerprint covers."""
    return {
        "id": problem.id,
        "section": problem.section,
        **conversation_to_json(problem.messages),
        "answer": problem.answer,
        "rule": type(problem.rule).__name__,
        **asdict(problem.rule),  # pyright: ignore[reportArgumentType]  every rule here is a dataclass
    }


def _names_any(text: str, phrases: Iterable[str]) -> bool:
    words = f" {normalise(text)} "
    return any(f" {normalise(phrase)} " in words for phrase in phrases)
