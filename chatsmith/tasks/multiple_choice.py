"""ARC and MMLU: questions with lettered choices, and how they are put to a chat model.

ARC are science questions from school exams, an easy and a hard set (Clark et al. 2018, 1803.05457; the text is CC BY-SA
4.0). MMLU are questions of 57 subjects, from school to the professions (Hendrycks et al. 2020, 2009.03300); its larger
`auxiliary_train` is for learning (`tasks.sources`). The model is asked for a letter, and the likeliest of the letters
counts, whatever else it would rather say. So a question is a prompt and a number of letters, not a rule for replies.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from chatsmith.runtime.errors import UserError
from chatsmith.tasks.benchmark_files import read_items, task_file
from chatsmith.text.chat import Conversation, Message

LETTERS = "ABCDEFGHIJ"

Level = Literal["easy", "challenge"]


@dataclass(frozen=True)
class LetterQuestion:
    """A question, its choices, and which is right."""

    id: str
    question: str
    choices: tuple[str, ...]
    gold: int
    """Index of the right choice."""
    wording: str = "own"
    """Or nanochat, to the letter (render_mc in its tasks/common.py), so that scores compare."""

    def __post_init__(self) -> None:
        assert 2 <= len(self.choices) <= len(LETTERS), f"{self.id}: {len(self.choices)} choices"
        assert 0 <= self.gold < len(self.choices), f"{self.id}: no choice {self.gold}"

    @property
    def letters(self) -> str:
        """One letter for each choice."""
        return LETTERS[: len(self.choices)]

    @property
    def messages(self) -> Conversation:
        """The prompt. The letter stands last in its line, where it binds to the choice just read."""
        is_own = self.wording == "own"
        choices = zip(self.choices, self.letters, strict=True)
        lines = "".join(f"- {text} ({key})\n" if is_own else f"- {text}={key}\n" for text, key in choices)
        asked = f"{self.question}\n{lines}Answer with one letter."
        if not is_own:
            asked = f"Multiple Choice question: {self.question}\n{lines}"
            asked += "\nRespond only with the letter of the correct answer."
        return (Message.of("user", asked),)

    @property
    def solved(self) -> Conversation:
        """The prompt and the right reply: a conversation to train on, for questions of a training split."""
        return (*self.messages, Message.of("assistant", self.letters[self.gold]))


def chance(questions: Sequence[LetterQuestion]) -> float:
    """The accuracy of guessing; 0 for no questions."""
    return sum(1 / len(question.choices) for question in questions) / max(1, len(questions))


def arc_questions(level: Level, split: str, folder: Path) -> list[LetterQuestion]:
    """The questions of a split: "train", "development" or "test". `folder` is that of the benchmarks."""
    path = task_file(f"arc_{level}", split)
    questions = []
    for item in read_items(folder, path, ("id", "question", "choices", "answerKey")):
        try:
            texts, labels = item["choices"]["text"], item["choices"]["label"]
            gold = labels.index(item["answerKey"])
        except (KeyError, TypeError, ValueError, AttributeError):
            raise UserError(
                f"{path}: question {item['id']} has no choices, or a key that is none of them"
            ) from None
        name = f"arc_{level}/{split}/{item['id']}"
        questions.append(LetterQuestion(name, item["question"], tuple(texts), gold))
    return questions


def mmlu_questions(split: str, folder: Path) -> list[LetterQuestion]:
    """The questions of a split: "train", "development" or "test". `folder` is that of the benchmarks."""
    path = task_file("mmlu", split)
    items = read_items(folder, path, ("subject", "question", "choices", "answer"))
    return list(mmlu_items(items, split, path))


def mmlu_items(items: Iterable[Mapping[str, Any]], split: str, path: str) -> Iterator[LetterQuestion]:
    """Rows with `question`, `choices`, `answer` and perhaps `subject` as questions; `path` is where they are from.

    Raises UserError for an answer that is no choice.
    """
    for number, item in enumerate(items, start=1):
        choices, gold = item["choices"], item["answer"]
        if not isinstance(choices, list) or not isinstance(gold, int) or not 0 <= gold < len(choices):
            raise UserError(f"{path}, line {number}: the answer must be the index of a choice")
        yield LetterQuestion(
            f"mmlu/{split}/{item['subject']}/{number}", item["question"], tuple(choices), gold
        )
