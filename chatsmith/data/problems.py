"""Problems whose answers a program can check, and what a reply to one is worth.

A rule decides whether a reply answers a problem (see `tasks.rules`). Rules are plain data. Nothing here knows about
models or engines.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from chatsmith.text.chat import Conversation, Part


class Rule(Protocol):
    """Decides whether a reply is right."""

    def accepts(self, reply: str) -> bool:
        """True if `reply` (the text parts of an assistant message) is a right answer."""
        ...


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
    """The text alone, without calls of the calculator and their outputs."""
    parts: tuple[Part, ...] = ()
    """All of it, in order."""
    is_finished: bool = True
    """Did it end by itself? False where it was cut at the longest length allowed."""


Reward = Callable[[Problem, Reply], float]
"""What a reply to a problem is worth, as a finite number."""


@dataclass(frozen=True)
class Verdict:
    """What one reply is worth."""

    reward: float | None
    """None where the reward function failed: such a reply teaches nothing."""
    is_right: bool
    failure: str = ""
    """Why the function failed."""
    score: float | None = None
    """What the reply counts in evaluations, where that is not 1 for right and 0 for wrong: a graded reward."""


RewardFunction = Callable[[Problem, Reply], Verdict]
"""What reinforcement learning asks about every reply: its reward, whether it is right, and whether that is known."""
