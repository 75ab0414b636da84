"""Problems for reinforcement learning: the checkable skills that a fine-tuned model has not mastered.

They are what fine-tuning asks, made harder than it ever is there (rows of up to ten words to be counted in, texts of
up to five words in capital letters, the largest of three numbers), with a little of what the model can do, so that it
keeps that up. What is right is decided by the problem's rule alone; no reply is shown.

Splits go by the same keys as everything else here: practice has the subjects of training, development those of
development, and the test those of the exam, which neither fine-tuning nor practice ever asks about.
"""

import random
from functools import cache

from chatsmith.data.problems import Problem
from chatsmith.tasks.rules import Number
from chatsmith.worlds.kindergarten.arithmetic import draw_arithmetic_question
from chatsmith.worlds.kindergarten.counting import ROW_TEMPLATES, draw_counting_question
from chatsmith.worlds.kindergarten.instructions import capitals, draw_instruction
from chatsmith.worlds.kindergarten.keys import Key, Split, draw
from chatsmith.worlds.kindergarten.question import Question, QuestionMaker, calculator_reply
from chatsmith.worlds.kindergarten.spelling import draw_spelling_question
from chatsmith.worlds.kindergarten.words import spelling_words

_EXTREME_TEMPLATES = (
    "Which is {word}, {a}, {b} or {c}?",
    "Which number is {word}: {a}, {b} or {c}?",
    "Tell me which is {word}, {a}, {b} or {c}.",
)


def _long_row(rng: random.Random, split: Split) -> Question:
    """Like a question on a row of words, but on a row of five to ten."""
    word, row = draw(rng, split, _word_and_row, lambda drawn: ("long row", *drawn))
    count = row.split().count(word)
    number = rng.randrange(len(ROW_TEMPLATES))
    return Question(
        key=Key("counting", "long row", (word, row), f"long row {number}"),
        prompt=ROW_TEMPLATES[number].format(word=word, row=row),
        reply=calculator_reply(
            f'"{row}".count("{word}")', str(count), f'The word "{word}" appears {count} times in the row.'
        ),
        answer=str(count),
        rule=Number(count),
    )


def _word_and_row(rng: random.Random) -> tuple[str, str]:
    while True:
        word, *others = rng.sample(spelling_words(), 3)
        row = [word] * rng.randint(2, 5) + [rng.choice(others) for _ in range(rng.randint(3, 5))]
        rng.shuffle(row)
        text = " ".join(row)
        if text.count(word) == row.count(word):
            return word, text


def _long_upper(rng: random.Random, split: Split) -> Question:
    """Words in capital letters, of three to five words."""
    text = draw(
        rng, split, lambda r: " ".join(r.sample(spelling_words(), r.randint(3, 5))), lambda d: ("upper", d)
    )
    return capitals(rng, text, "long upper")


def _extreme(rng: random.Random, split: Split) -> Question:
    """The largest or smallest of three numbers."""
    numbers = draw(
        rng, split, lambda r: r.sample(range(2, 100), 3), lambda d: ("extreme", *map(str, sorted(d)))
    )
    word, function = rng.choice((("largest", max), ("smallest", min)))
    answer = function(numbers)
    number = rng.randrange(len(_EXTREME_TEMPLATES))
    first, second, third = numbers
    return Question(
        key=Key("arithmetic", "extreme", tuple(map(str, sorted(numbers))), f"{word} {number}"),
        prompt=_EXTREME_TEMPLATES[number].format(word=word, a=first, b=second, c=third),
        reply=calculator_reply(
            f"{function.__name__}({first},{second},{third})", str(answer), f"{answer} is {word}."
        ),
        answer=str(answer),
        rule=Number(answer, given=tuple(numbers)),
    )


_MAKERS: dict[str, QuestionMaker] = {
    "row": draw_counting_question,
    "long row": _long_row,
    "upper case": draw_instruction,
    "long upper case": _long_upper,
    "extreme": _extreme,
    "again": draw_instruction,
    "repeat": draw_instruction,
    "last word": draw_instruction,
    "story sum": draw_arithmetic_question,
    "spelling": draw_spelling_question,
}
"""Which generator asks the questions of a kind: of a relation, or of a whole section."""

WEIGHTS = {
    "long row": 7,
    "long upper case": 6,
    "extreme": 3,
    "again": 1,
    "row": 1,
    "upper case": 1,
    "repeat": 1,
    "last word": 1,
    "story sum": 1,
    "spelling": 3,
}
"""How often each comes, relatively. All but the first three are mostly mastered, and asked so that they stay so."""

_SPLITS: dict[str, Split] = {"development": "development", "test": "exam"}
_COUNTS = {"development": 400, "test": 600}


def practice_problem(seed: int, place: int) -> Problem:
    """The training problem at `place` of the order that the seed decides; its section is its kind."""
    kind, question = _draw(_source(seed, place), "train")
    return _as_problem(kind, question, f"practice/train/{place}")


def practice_question(seed: int, place: int) -> Question:
    """The same with its key."""
    return _draw(_source(seed, place), "train")[1]


def practice_problems(split: str) -> tuple[Problem, ...]:
    """The problems of "development" or "test"; no prompt comes twice."""
    return _practice_problems(split)


@cache
def _practice_problems(split: str) -> tuple[Problem, ...]:
    rng = random.Random(f"practice {split}")
    problems: dict[str, Problem] = {}
    while len(problems) < _COUNTS[split]:
        kind, question = _draw(rng, _SPLITS[split])
        identity = f"practice/{split}/{len(problems) + 1}"
        problems.setdefault(question.prompt, _as_problem(kind, question, identity))
    return tuple(problems.values())


def _source(seed: int, place: int) -> random.Random:
    return random.Random(f"practice {seed} {place}")


def _draw(rng: random.Random, split: Split) -> tuple[str, Question]:
    """A question with its kind."""
    kind = rng.choices(tuple(WEIGHTS), tuple(WEIGHTS.values()))[0]
    while True:
        question = _MAKERS[kind](rng, split)
        if kind in (question.key.relation, question.key.section):
            return kind, question


def _as_problem(kind: str, question: Question, identity: str) -> Problem:
    return Problem(identity, kind, question.messages, question.answer, question.rule)
