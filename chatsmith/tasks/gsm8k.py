"""GSM8K: school problems in words whose answer is a number (Cobbe et al. 2021, 2110.14168).

A solution ends with a line `#### 72`; a reply is right if the first such mark in it names the right number, however it
is written (`final_number` has the rule). What the published solutions write as `<<48/2=24>>` becomes a call of the
calculator, with the calculator's own answer: a model learns to call what it will have at hand.

It reads a folder with `gsm8k/train.jsonl` and `gsm8k/test.jsonl`, and downloads nothing.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

from chatsmith.data.problems import Problem
from chatsmith.runtime.errors import UserError
from chatsmith.tasks.benchmark_files import is_held_out, read_items, task_file
from chatsmith.text.chat import Conversation, Message, Part
from chatsmith.tools.calculator import CalculatorError, calculate

NAME = "gsm8k"

_HELD_OUT_ONE_IN = 16

# What may stand before the number without changing it: Markdown, HTML and LaTeX, and currencies.
_MARKUP = r"[\s*_`~=:]|</?[a-z]+>|\\[(\[]|\\(?:boxed|text|textbf|mathbf)\{"
_CODES = "USD|EUR|GBP|JPY|INR|CNY|CAD|AUD|CHF"
_CURRENCY = rf"\\?[$¢£¥\u20a0-\u20cf]|(?:US|CA|AU|NZ|HK|[AC])\$|\b(?:{_CODES}|Rs\.?)(?=[\s\d])"
_ANSWER = re.compile(
    rf"(?:{_MARKUP}|{_CURRENCY})*+(?P<sign>[-+\u2212\u2013\uff0d])?(?:{_CURRENCY}|\s(?=[$£€]))*+"
    r"(?P<number>[1-9]\d{0,2}(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?|\.\d+)",
)
# Where the answer ends: with its line, its sentence, or the next mark.
_END = re.compile(r"\n|(?<!Rs)[.!?;](?=\s)|####")
# What would make another number of it: 3k, 2 thousand.
_MULTIPLE = re.compile(r"(?:k|K|M|B|bn)\b|\W*(?i:hundred|thousand|million|billion|trillion|dozen|lakh|crore)")
_CALL = re.compile(r"<<([^<>]*)=([^<>=]*)>>")


@dataclass(frozen=True)
class FinalNumber:
    """The reply's first `#### n` names the number `value`."""

    value: str
    """The right answer, e.g. "72" or "0.5"."""

    def accepts(self, reply: str) -> bool:
        """True if the first mark `####` of the reply stands before the right number.

        Only the first counts, so a reply cannot try several.
        """
        given = final_number(reply)
        return given is not None and given == Decimal(self.value)


def final_number(text: str) -> Decimal | None:
    """The number after the first `####` of `text`; None if there is no mark, or not one clear number after the first.

    Markup, a sign and a currency may stand before the number; after it units, punctuation and words. Thousands are
    separated by commas, decimals by a point. What could be read as two numbers is refused: a second number in the same
    sentence, `1/2`, `1e3`, `1 000`, `1,5`, `2 thousand`.
    """
    _, mark, given = text.partition("####")
    given = _END.split(given.lstrip(), maxsplit=1)[0]
    match = _ANSWER.match(given) if mark else None
    if match is None:
        return None
    rest = given[match.end() :]
    if any(character.isnumeric() for character in rest) or _MULTIPLE.match(rest):
        return None
    number = Decimal(match["number"].replace(",", ""))
    return number if match["sign"] in (None, "+") else -number


def gsm8k_problems(split: str, folder: Path) -> list[Problem]:
    """The problems of a split: "train", "development" or "test". `folder` is that of the benchmarks.

    Their ids are "gsm8k/<split>/<line number from 1>". Raises UserError if the file is not there.
    """
    return [
        Problem(
            id=f"{NAME}/{split}/{number}",
            section=NAME,
            messages=(Message.of("user", item["question"]),),
            answer=item["answer"].rpartition("####")[2].strip(),
            rule=FinalNumber(_final_answer(item)),
        )
        for number, item in _items(split, folder)
    ]


def gsm8k_conversations(split: str, folder: Path) -> Iterator[Conversation]:
    """The problems of "train" or "development" with their published solutions, to learn from."""
    if split == "test":
        raise UserError("the test problems of GSM8K are not for training")
    for _, item in _items(split, folder):
        solution = Message("assistant", solution_parts(item["answer"]))
        yield (Message.of("user", item["question"]), solution)


def solution_parts(solution: str) -> tuple[Part, ...]:
    """A published solution as parts of a message: `<<48/2=24>>` becomes a call of the calculator and its output.

    A call that the calculator would answer differently (none is known) is left out, and the text stays.
    """
    parts: list[Part] = []
    end = 0
    for match in _CALL.finditer(solution):
        parts.append(Part("text", solution[end : match.start()]))
        end = match.end()
        expression, annotated = match[1].strip(), match[2]
        try:
            output = calculate(expression)
        except CalculatorError:
            continue
        if _same_number(output, annotated):
            parts += [Part("python", expression), Part("output", output)]
    parts.append(Part("text", solution[end:]))
    return tuple(part for part in parts if part.text)


def _items(split: str, folder: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    items = read_items(folder, task_file(NAME, split), ("question", "answer"))
    for number, item in enumerate(items, start=1):
        is_development = split != "test" and is_held_out(item["question"], _HELD_OUT_ONE_IN)
        if is_development == (split == "development"):
            yield number, item


def _final_answer(item: dict[str, Any]) -> str:
    number = final_number(item["answer"])
    if number is None:
        raise UserError(f"a GSM8K solution has no `#### number`: {item['question'][:60]!r}")
    return f"{number:f}"


def _same_number(one: str, other: str) -> bool:
    try:
        difference = abs(float(one) - float(other.replace(",", "")))
    except ValueError:
        return False
    return difference <= 1e-6 * max(1.0, abs(float(one)))
