"""Questions with lettered choices: how ARC and MMLU are put to a model that holds conversations.

The model is asked for a letter, and the likeliest of the letters counts, whatever else it would rather say. So a
question is a prompt and the number of letters, not a rule for replies. It knows nothing of models.
"""

from dataclasses import dataclass

from chatsmith.text.chat import Conversation, Message

LETTERS = "ABCDEFGHIJ"


@dataclass(frozen=True)
class LetterQuestion:
    """A question, its choices, and which is right."""

    id: str
    question: str
    choices: tuple[str, ...]
    gold: int
    """Index of the right choice."""

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
        choices = "\n".join(
            f"- {text} ({letter})" for letter, text in zip(self.letters, self.choices, strict=True)
        )
        return (Message.of("user", f"{self.question}\n{choices}\nAnswer with one letter."),)

    @property
    def solved(self) -> Conversation:
        """The prompt and the right reply, to learn from."""
        return (*self.messages, Message.of("assistant", self.letters[self.gold]))


def chance(questions: list[LetterQuestion]) -> float:
    """The accuracy of guessing; 0 for no questions."""
    return sum(1 / len(question.choices) for question in questions) / max(1, len(questions))
