"""What is asked of the kindergarten: the exam and the development set, questions that training never asks; what look-up
scores in them; and problems for reinforcement learning.

The exam of a version never changes: it does not depend on the seed, the mixture or any tuning, and a test holds
it to its fingerprint. Tune on the development set, which is made alike and shares no key with the exam.
"""

import hashlib
import json
import math
import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from functools import cache

import numpy as np

from chatsmith.data.problems import Problem
from chatsmith.tasks.problem_set import ProblemSet, problem_to_json, problems_fingerprint
from chatsmith.tasks.rules import normalise
from chatsmith.text.chat import Conversation, Message
from chatsmith.worlds.kindergarten import questions
from chatsmith.worlds.kindergarten.small_talk import draw_memory_question, draw_small_talk
from chatsmith.worlds.kindergarten.stories import draw_story, story_question
from chatsmith.worlds.kindergarten.world import Split, data, weights

EXAM_VERSION = 1
EXAM_FINGERPRINT = "1c29911719e08065dd66255b9b6862a206c1fe69e1e164d5cb6cf38faba52b01"
"""The sha256 of the exam of this version: see `fingerprint`."""
ITEMS_PER_SECTION = 120

MAKERS: dict[str, questions.QuestionMaker] = {
    "facts": questions.draw_fact_question,
    "stories": lambda rng, split: story_question(draw_story(rng, split), rng),
    "arithmetic": questions.draw_arithmetic_question,
    "counting": questions.draw_counting_question,
    "spelling": questions.draw_spelling_question,
    "instructions": questions.draw_instruction,
    "conversation": lambda rng, split: MAKERS["memory" if rng.random() < 0.75 else "small talk"](rng, split),
    "memory": draw_memory_question,
    "small talk": draw_small_talk,
    "long row": questions.draw_long_row,
    "long upper case": questions.draw_long_upper,
    "extreme": questions.draw_extreme,
}
"""What draws questions: of the sections of the exam, of parts of them, and of kinds that only reinforcement learning
has."""
SECTIONS = ("facts", "stories", "arithmetic", "counting", "spelling", "instructions", "conversation")


@cache
def exam_questions(split: Split) -> tuple[tuple[str, questions.Question], ...]:
    """The questions of the exam or of development with their ids, section by section; no prompt comes twice."""
    assert split != "train", "training has conversations, not an exam"
    found = []
    for section in SECTIONS:
        rng = random.Random(f"kindergarten {split} {EXAM_VERSION} {section}")
        asked: set[Conversation] = set()
        while len(asked) < ITEMS_PER_SECTION:
            question = MAKERS[section](rng, split)
            assert question.key.section == section, f"{question.key} is not of the section {section}"
            if question.messages not in asked:
                asked.add(question.messages)
                found.append((f"{split}/{section}/{len(asked)}", question))
    return tuple(found)


def exam_problems(split: Split) -> Iterator[Problem]:
    """The items of the exam or of development."""
    for identity, question in exam_questions(split):
        yield question.as_problem(identity)


def fingerprint(split: Split = "exam") -> str:
    """The sha256 of all items, rules included, as canonical JSON."""
    items = [problem_to_json(problem) for problem in exam_problems(split)]
    text = json.dumps(items, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


# ---- Problems for reinforcement learning: the checkable skills that a fine-tuned model has not mastered. They are what
# fine-tuning asks, made harder than it ever is there (rows of up to ten words to be counted in, texts of up to five
# words in capital letters, the largest of three numbers), with a little of what the model can do, so that it keeps
# that up. Training has the subjects of fine-tuning, development those of development, and the test those of the exam,
# which neither fine-tuning nor reinforcement learning ever asks about.

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
    kind, question = draw_rl_question(random.Random(f"practice {seed} {index}"), "train")
    return question.as_problem(f"practice/train/{index}", kind)


@cache
def rl_problems(split: str) -> tuple[Problem, ...]:
    """The problems of "development" or "test"; no prompt comes twice."""
    rng = random.Random(f"practice {split}")
    problems: dict[str, Problem] = {}
    while len(problems) < _COUNTS[split]:
        kind, question = draw_rl_question(rng, _SPLITS[split])
        identity = f"practice/{split}/{len(problems) + 1}"
        problems.setdefault(question.prompt, question.as_problem(identity, kind))
    return tuple(problems.values())


def draw_rl_question(rng: random.Random, split: Split) -> tuple[str, questions.Question]:
    """A question with its kind."""
    kind = rng.choices(*weights("texts", "rl"))[0]
    draw_question = MAKERS[data("texts")["rl"][kind]["from"]]
    while True:
        question = draw_question(rng, split)
        if kind in (question.key.relation, question.key.section):
            return kind, question


# ---- The baseline


class NearestQuestion:
    """Answers with the reply that the nearest training question got: what looking up a similar question scores.

    Nearness is the cosine of TF-IDF vectors over the words of all that was said.
    """

    def __init__(self, conversations: Iterable[Conversation]) -> None:
        """Every assistant turn counts as an answer, twice over: to the question alone, and to all said so far."""
        self._replies: list[str] = []
        documents: list[Counter[str]] = []
        for conversation in conversations:
            for number, message in enumerate(conversation):
                if message.role == "assistant":
                    for text in {_said(conversation[number - 1 : number]), _said(conversation[:number])}:
                        documents.append(Counter(normalise(text).split()))
                        self._replies.append(message.text)
        frequency = Counter(word for words in documents for word in words)
        self._rarity = {word: math.log(len(documents) / count) + 1.0 for word, count in frequency.items()}
        postings: dict[str, tuple[list[int], list[float]]] = defaultdict(lambda: ([], []))
        for number, words in enumerate(documents):
            for word, weight in self._weights(words).items():
                postings[word][0].append(number)
                postings[word][1].append(weight)
        self._postings = {
            word: (np.array(numbers, dtype=np.int32), np.array(weights, dtype=np.float32))
            for word, (numbers, weights) in postings.items()
        }

    def answer(self, prompt: Conversation) -> str:
        """The reply to the question nearest to `prompt`; the first of several equally near."""
        similarity = np.zeros(len(self._replies), dtype=np.float32)
        for word, weight in self._weights(Counter(normalise(_said(prompt)).split())).items():
            if word in self._postings:
                numbers, weights = self._postings[word]
                similarity[numbers] += weight * weights
        return self._replies[int(similarity.argmax())]

    def _weights(self, words: Counter[str]) -> dict[str, float]:
        """The TF-IDF vector of a text, of length 1. Unknown words count as the rarest ones."""
        weights = {word: count * self._rarity.get(word, 12.0) for word, count in words.items()}
        length = math.sqrt(sum(weight * weight for weight in weights.values()))
        return {word: weight / length for word, weight in weights.items()}


def _said(messages: Sequence[Message]) -> str:
    """What was said by system and user, and by the assistant where it tells a story that is asked about."""
    return " ".join(message.text for message in messages)
