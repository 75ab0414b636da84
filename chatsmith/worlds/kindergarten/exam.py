"""The kindergarten exam and the development set: questions that training never asks.

The exam of a version never changes: it does not depend on the seed, the mixture or any tuning, and a test holds
it to its fingerprint. Tune on the development set, which is made alike and shares no key with the exam.
"""

import hashlib
import json
import random
from collections.abc import Iterator
from functools import cache

from chatsmith.data.problems import Problem, problem_to_json
from chatsmith.worlds.kindergarten.arithmetic import draw_arithmetic_question
from chatsmith.worlds.kindergarten.counting import draw_counting_question
from chatsmith.worlds.kindergarten.facts import draw_fact_question
from chatsmith.worlds.kindergarten.instructions import draw_instruction
from chatsmith.worlds.kindergarten.keys import Split
from chatsmith.worlds.kindergarten.memory import draw_memory_question
from chatsmith.worlds.kindergarten.plots import draw_story
from chatsmith.worlds.kindergarten.question import Question, QuestionMaker
from chatsmith.worlds.kindergarten.small_talk import draw_small_talk
from chatsmith.worlds.kindergarten.spelling import draw_spelling_question
from chatsmith.worlds.kindergarten.stories import story_question

EXAM_VERSION = 1
EXAM_FINGERPRINT = "1c29911719e08065dd66255b9b6862a206c1fe69e1e164d5cb6cf38faba52b01"
"""The sha256 of the exam of this version: see `fingerprint`."""
SECTIONS = ("facts", "stories", "arithmetic", "counting", "spelling", "instructions", "conversation")
ITEMS_PER_SECTION = 120


def exam_questions(split: Split) -> tuple[tuple[str, Question], ...]:
    """The questions of the exam or of development with their ids, section by section; no prompt comes twice."""
    assert split != "train", "training has conversations, not an exam"
    return _exam_questions(split)


def exam_problems(split: Split) -> Iterator[Problem]:
    """The items of the exam or of development."""
    for identity, question in exam_questions(split):
        yield question.as_problem(identity)


def fingerprint(split: Split = "exam") -> str:
    """The sha256 of all items, rules included, as canonical JSON."""
    items = [problem_to_json(problem) for problem in exam_problems(split)]
    text = json.dumps(items, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


@cache
def _exam_questions(split: Split) -> tuple[tuple[str, Question], ...]:
    questions = []
    for section, maker in _MAKERS.items():
        rng = random.Random(f"kindergarten {split} {EXAM_VERSION} {section}")
        asked: set = set()
        while len(asked) < ITEMS_PER_SECTION:
            question = maker(rng, split)
            assert question.key.section == section, f"{question.key} is not of the section {section}"
            if question.messages not in asked:
                asked.add(question.messages)
                questions.append((f"{split}/{section}/{len(asked)}", question))
    return tuple(questions)


def _draw_story_question(rng: random.Random, split: Split) -> Question:
    return story_question(draw_story(rng, split), rng)


def _draw_conversation_question(rng: random.Random, split: Split) -> Question:
    return (draw_memory_question if rng.random() < 0.75 else draw_small_talk)(rng, split)


_MAKERS: dict[str, QuestionMaker] = {
    "facts": draw_fact_question,
    "stories": _draw_story_question,
    "arithmetic": draw_arithmetic_question,
    "counting": draw_counting_question,
    "spelling": draw_spelling_question,
    "instructions": draw_instruction,
    "conversation": _draw_conversation_question,
}
assert tuple(_MAKERS) == SECTIONS
