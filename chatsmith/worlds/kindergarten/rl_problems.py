"""Problems for reinforcement learning: the checkable skills that a fine-tuned model has not mastered.

They are what fine-tuning asks, made harder than it ever is there (rows of up to ten words to be counted in, texts of
up to five words in capital letters, the largest of three numbers), with a little of what the model can do, so that it
keeps that up. What is right is decided by the problem's rule alone; no reply is shown.

Splits go by the same keys as everything else here: training has the subjects of fine-tuning, development those of
development, and the test those of the exam, which neither fine-tuning nor reinforcement learning ever asks about.
"""

import random
from functools import cache

from chatsmith.data.problems import Problem
from chatsmith.tasks.problem_set import ProblemSet, problems_fingerprint
from chatsmith.worlds.kindergarten.exam import MAKERS
from chatsmith.worlds.kindergarten.questions import Question
from chatsmith.worlds.kindergarten.world import Split, data, weights

_SPLITS: dict[str, Split] = {"development": "development", "test": "exam"}
_COUNTS = {"development": 400, "test": 600}


def rl_problem_set(seed: int) -> ProblemSet:
    """The kindergarten's problems; training draws by the seed, development and test are always the same."""
    development, test = rl_problems("development"), rl_problems("test")
    sample = [rl_problem(seed, index) for index in range(100)]
    fingerprint = problems_fingerprint((*sample, *development, *test))
    return ProblemSet(lambda index: rl_problem(seed, index), development, test, fingerprint)


def rl_problem(seed: int, index: int) -> Problem:
    """The training problem at `index` of the order that the seed decides; its section is its kind."""
    kind, question = _draw(random.Random(f"practice {seed} {index}"), "train")
    return question.as_problem(f"practice/train/{index}", kind)


def rl_question(seed: int, index: int) -> Question:
    """The same with its key."""
    return _draw(random.Random(f"practice {seed} {index}"), "train")[1]


@cache
def rl_problems(split: str) -> tuple[Problem, ...]:
    """The problems of "development" or "test"; no prompt comes twice."""
    rng = random.Random(f"practice {split}")
    problems: dict[str, Problem] = {}
    while len(problems) < _COUNTS[split]:
        kind, question = _draw(rng, _SPLITS[split])
        identity = f"practice/{split}/{len(problems) + 1}"
        problems.setdefault(question.prompt, question.as_problem(identity, kind))
    return tuple(problems.values())


def _draw(rng: random.Random, split: Split) -> tuple[str, Question]:
    """A question with its kind."""
    kind = rng.choices(*weights("texts", "rl"))[0]
    draw_question = MAKERS[data("texts")["rl"][kind]["from"]]
    while True:
        question = draw_question(rng, split)
        if kind in (question.key.relation, question.key.section):
            return kind, question
