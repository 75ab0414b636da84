"""Sums, differences, products and quotients, plain and as little stories; the calculator does the computing.

What has to be learned is to turn words into an expression and to copy the result. A key's subject is the two
numbers and the operation, so the exam computes with pairs that training never does.
"""

import random
from dataclasses import dataclass

from chatsmith.tasks.rules import Number
from chatsmith.worlds.kindergarten.english import plural
from chatsmith.worlds.kindergarten.keys import Key, Split, draw
from chatsmith.worlds.kindergarten.question import Question, calculator_reply
from chatsmith.worlds.kindergarten.vocabulary import NAMES, OBJECTS, TREATS, her_or_him, she_or_he

_OPERATIONS = ("+", "-", "*", "//")
_WEIGHTS = (4, 4, 2, 1)
_SPOKEN = {"+": "plus", "-": "minus", "*": "times", "//": "divided by"}

_PLAIN_TEMPLATES = {
    "+": (
        "What is {a} plus {b}?",
        "What is {a} + {b}?",
        "How much is {a} plus {b}?",
        "Please add {a} and {b}.",
        "Can you add {a} and {b}?",
        "What do you get if you add {b} to {a}?",
        "Tell me the sum of {a} and {b}.",
        "{a} + {b} = ?",
    ),
    "-": (
        "What is {a} minus {b}?",
        "What is {a} - {b}?",
        "How much is {a} minus {b}?",
        "Please take {b} away from {a}.",
        "Can you subtract {b} from {a}?",
        "What is left if you take {b} from {a}?",
        "{a} - {b} = ?",
    ),
    "*": (
        "What is {a} times {b}?",
        "What is {a} * {b}?",
        "How much is {a} times {b}?",
        "Please multiply {a} by {b}.",
        "Can you multiply {a} by {b}?",
        "{a} * {b} = ?",
    ),
    "//": (
        "What is {a} divided by {b}?",
        "How much is {a} divided by {b}?",
        "Please divide {a} by {b}.",
        "Can you divide {a} by {b}?",
    ),
}

# Each with its reply: {c} is the result, {thing} a plural noun, {she} and {her} fit {name}.
_STORY_TEMPLATES = {
    "+": (
        (
            "{name} has {a} {thing}. {friend} gives {her} {b} more. How many {thing} does {name} have now?",
            "{name} now has {c} {thing}.",
        ),
        (
            "There are {a} {thing} on the table. {name} puts {b} more on it. How many {thing} are on the table?",
            "There are {c} {thing} on the table.",
        ),
        (
            "{name} finds {a} {thing} and {friend} finds {b}. How many {thing} do they have together?",
            "Together they have {c} {thing}.",
        ),
    ),
    "-": (
        (
            "{name} has {a} {thing}. {She} gives {b} of them to {friend}. How many {thing} are left?",
            "{name} has {c} {thing} left.",
        ),
        (
            "There are {a} {thing} in a box. {name} takes out {b}. How many {thing} are still in the box?",
            "There are {c} {thing} in the box.",
        ),
        (
            "{name} had {a} {thing} and lost {b}. How many {thing} does {name} have now?",
            "{name} now has {c} {thing}.",
        ),
    ),
    "*": (
        (
            "{name} has {a} boxes with {b} {thing} in each. How many {thing} are there?",
            "There are {c} {thing}.",
        ),
    ),
    "//": (
        (
            "{name} shares {a} {thing} equally among {b} friends. How many {thing} does each friend get?",
            "Each friend gets {c} {thing}.",
        ),
    ),
}


@dataclass(frozen=True)
class Sum:
    """Two numbers and what is done with them."""

    a: int
    operation: str
    b: int

    @property
    def result(self) -> int:
        """What comes out."""
        results = {"+": self.a + self.b, "-": self.a - self.b, "*": self.a * self.b, "//": self.a // self.b}
        return results[self.operation]

    @property
    def expression(self) -> str:
        """As the calculator reads it."""
        return f"{self.a}{self.operation}{self.b}"

    @property
    def spoken(self) -> str:
        """As one says it: "37 plus 58 is 95"."""
        return f"{self.a} {_SPOKEN[self.operation]} {self.b} is {self.result}"

    @property
    def subject(self) -> tuple[str, ...]:
        """What the splits go by; where the order of the numbers does not matter, neither does it here."""
        numbers = sorted((self.a, self.b)) if self.operation in "+*" else (self.a, self.b)
        return ("arithmetic", self.operation, *map(str, numbers))


def draw_sum(rng: random.Random, split: Split) -> Sum:
    """A sum of `split`. Its result is none of its numbers, so that an echo is never an answer."""
    return draw(rng, split, _any_sum, lambda drawn: drawn.subject)


def draw_arithmetic_question(rng: random.Random, split: Split) -> Question:
    """A plain sum, a sum in a little story, or which of two numbers is larger or smaller."""
    kind = rng.random()
    if kind < 0.12:
        return _comparison(rng, split)
    drawn = draw_sum(rng, split)
    return _story_sum(drawn, rng) if kind < 0.40 else _plain_sum(drawn, rng)


def _any_sum(rng: random.Random) -> Sum:
    while True:
        operation = rng.choices(_OPERATIONS, _WEIGHTS)[0]
        if operation == "*":
            drawn = Sum(rng.randint(2, 20), operation, rng.randint(2, 20))
        elif operation == "//":
            divisor = rng.randint(2, 12)
            drawn = Sum(divisor * rng.randint(2, 20), operation, divisor)
        else:
            drawn = Sum(rng.randint(2, 99), operation, rng.randint(2, 99))
        if drawn.result > 0 and drawn.result not in (drawn.a, drawn.b):
            return drawn


def _plain_sum(drawn: Sum, rng: random.Random) -> Question:
    number = rng.randrange(len(_PLAIN_TEMPLATES[drawn.operation]))
    prompt = _PLAIN_TEMPLATES[drawn.operation][number].format(a=drawn.a, b=drawn.b)
    return _question(drawn, "sum", f"plain {number}", prompt, f"{drawn.spoken}.")


def _story_sum(drawn: Sum, rng: random.Random) -> Question:
    number = rng.randrange(len(_STORY_TEMPLATES[drawn.operation]))
    prompt, reply = _STORY_TEMPLATES[drawn.operation][number]
    name, friend = rng.sample(NAMES, 2)
    words = {
        "a": drawn.a,
        "b": drawn.b,
        "c": drawn.result,
        "thing": plural(rng.choice(OBJECTS + TREATS)),
        "name": name,
        "friend": friend,
        "her": her_or_him(name),
        "She": she_or_he(name).capitalize(),
    }
    return _question(drawn, "story sum", f"story {number}", prompt.format(**words), reply.format(**words))


def _question(drawn: Sum, relation: str, template: str, prompt: str, reply: str) -> Question:
    return Question(
        key=Key("arithmetic", relation, drawn.subject[1:], template),
        prompt=prompt,
        reply=calculator_reply(drawn.expression, str(drawn.result), reply),
        answer=str(drawn.result),
        rule=Number(drawn.result, given=(drawn.a, drawn.b)),
    )


def _comparison(rng: random.Random, split: Split) -> Question:
    first, second = draw(rng, split, lambda r: r.sample(range(2, 100), 2), _compared)
    word, function = rng.choice(
        (("larger", "max"), ("bigger", "max"), ("greater", "max"), ("smaller", "min"), ("less", "min"))
    )
    answer = max(first, second) if function == "max" else min(first, second)
    number, prompt = rng.choice(
        (
            (0, f"Which is {word}, {first} or {second}?"),
            (1, f"Which number is {word}: {first} or {second}?"),
            (2, f"Tell me which is {word}, {first} or {second}."),
        )
    )
    return Question(
        key=Key("arithmetic", "comparison", _compared([first, second])[1:], f"{word} {number}"),
        prompt=prompt,
        reply=calculator_reply(f"{function}({first},{second})", str(answer), f"{answer} is {word}."),
        answer=str(answer),
        rule=Number(answer, given=(first, second)),
    )


def _compared(numbers: list[int]) -> tuple[str, ...]:
    return ("comparison", *map(str, sorted(numbers)))
