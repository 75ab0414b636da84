"""One question with its answer: the piece that documents, conversations and the exams are all made of."""

import random
from collections.abc import Callable
from dataclasses import dataclass

from chatsmith.data.problems import Problem, Rule
from chatsmith.text.chat import Conversation, Message, Part
from chatsmith.worlds.kindergarten.keys import Key, Split


@dataclass(frozen=True)
class Question:
    """A question, its model reply, and the rule that checks any other reply."""

    key: Key
    """What is asked, and in which wording; the splits are disjoint in these."""
    prompt: str
    """What the user writes."""
    reply: tuple[Part, ...]
    """What the assistant should write, calculator calls included."""
    answer: str
    """The answer in short, to be shown."""
    rule: Rule
    """Which replies pass."""
    before: Conversation = ()
    """What was said before: nothing, a system message, or whole turns ending with the assistant."""

    @property
    def messages(self) -> Conversation:
        """The prompt: what was said before, and the question."""
        return (*self.before, Message.of("user", self.prompt))

    @property
    def reply_text(self) -> str:
        """The reply without its calculator calls."""
        return "".join(part.text for part in self.reply if part.kind == "text")

    def turns(self) -> Conversation:
        """The question and its reply as messages, with what was said before."""
        return (*self.messages, Message("assistant", self.reply))

    def as_problem(self, identity: str) -> Problem:
        """The question as an exam item."""
        return Problem(identity, self.key.section, self.messages, self.answer, self.rule)


QuestionMaker = Callable[[random.Random, Split], Question]
"""Draws a question that belongs to the given split."""


def text_reply(text: str) -> tuple[Part, ...]:
    """A reply of plain text."""
    return (Part("text", text),)


def calculator_reply(expression: str, output: str, text: str) -> tuple[Part, ...]:
    """A reply that first asks the calculator."""
    return (Part("python", expression), Part("output", output), Part("text", text))
