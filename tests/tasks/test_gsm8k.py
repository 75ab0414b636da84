"""GSM8K: which replies count as right, how solutions become calls, and that no split shares a problem."""

import json
from decimal import Decimal
from pathlib import Path

import pytest

from chatsmith.runtime.errors import UserError
from chatsmith.tasks.gsm8k import (
    final_number,
    gsm8k_conversations,
    gsm8k_problems,
    solution_parts,
)
from chatsmith.text.chat import Part, check_conversation


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "gsm8k").mkdir()
    for name, count in (("train", 200), ("test", 3)):
        items = [
            {"question": f"{name} {n}: how many?", "answer": f"{n}+1=<<{n}+1={n + 1}>>{n + 1}.\n#### {n + 1}"}
            for n in range(count)
        ]
        (tmp_path / "gsm8k" / f"{name}.jsonl").write_text("".join(json.dumps(item) + "\n" for item in items))
    return tmp_path


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("so 48+24.\n#### 72", "72"),
        ("#### 1,234.50", "1234.5"),
        ("####-3", "-3"),
        ("#### $18", "18"),
        ("#### 5.", "5"),
        ("#### 3\n#### 4", "3"),
        ("the answer is 72", None),
        ("#### none, #### 4", None),
        ("", None),
        ("####\n72", "72"),
    ],
)
def test_the_number_after_the_first_mark_is_the_answer(text: str, number: str | None) -> None:
    assert final_number(text) == (None if number is None else Decimal(number))


@pytest.mark.parametrize(
    ("answer", "number"),
    [
        *((text, "72") for text in ("72", "72.", "72.00", "72 clips", "72, in total", "72%", "72!", "072")),
        *(
            (text, "72")
            for text in ("**72**", "*72*", "__72__", "`72`", "***72*** clips", "<b>72</b>", "**72.**")
        ),
        *(
            (text, "72")
            for text in (r"\boxed{72}", r"$\boxed{72}$", r"\(72\)", "$72$", r"\boxed{72\text{ clips}}")
        ),
        *((text, "72") for text in ("= 72", "=72", ": 72", "+72", "+$72")),
        *(
            (text, "29")
            for text in ("$29", "$29.00", "€29", "£ 29", "29€", "29 €", r"\$29", "US$29", "USD 29", "¥29")
        ),
        *((text, "29") for text in ("29 USD", "Rs. 29", "₹29", "29 dollars", "**$29**", r"\boxed{\$29}")),
        *((text, "-5") for text in ("-5", "−5", "–5", "-$5", "$-5", "−€5", "**-5**", r"\boxed{-5}", "－5")),
        *((text, "1000") for text in ("1,000", "1000", "1,000.00", "$1,000", "**1,000**", "1,000 clips")),
        *((text, "1234567.5") for text in ("1,234,567.5", "1234567.50")),
        *((text, "0.5") for text in ("0.5", ".5", "0.50 miles", "$.50")),
        *(
            (text, "5")
            for text in ("5kg", "5 km", "5m", "5. She has 3 left.", "5; 2 of them red", "5 #### 6")
        ),
    ],
)
def test_row_23_a_number_with_markup_sign_or_currency_is_read(answer: str, number: str) -> None:
    assert final_number(f"So it is.\n#### {answer}\nmore 9") == Decimal(number)


@pytest.mark.parametrize(
    "answer",
    [
        *(
            "1e3",
            "1E3",
            "1/2",
            "1 000",
            "1\u00a0000",
            "1.000,50",
            "1,00",
            "1,5",
            "1,0000",
            "12,34,567",
            "0,125",
        ),
        *(
            "1.2.3",
            "1_000",
            "1'000",
            "10:30",
            "3-4",
            "3–4",
            "3 to 4",
            "3 or 4",
            "3, 4",
            "3x2",
            "2^3",
            "2²",
            "3½",
            "½",
        ),
        *(
            "48+24=72",
            "48 + 24 = 72",
            "72 = 48 + 24",
            "5 dollars and 50 cents",
            r"\frac{1}{2}",
            r"1{,}000",
            "7²",
        ),
        *("2 thousand", "1.5 million", "3k", "3K", "2M", "4bn", "2 dozen", "72万", "5 hundred"),
        *(
            "--5",
            "- 5",
            "(5)",
            "x = 5",
            "about 5",
            "seventy-two",
            "",
            "**",
            "$",
            "nan",
            "inf",
            "#### 5",
        ),
    ],
)
def test_row_23_what_could_mean_two_numbers_or_none_is_refused(answer: str) -> None:
    assert final_number(f"#### {answer}") is None


def test_a_reply_is_right_however_its_number_is_written(folder: Path) -> None:
    problem = gsm8k_problems("test", folder)[1]
    assert problem.answer == "2"
    assert problem.check("One and one.\n#### 2") and problem.check("#### 2.00")
    assert not problem.check("2") and not problem.check("#### 3 #### 2")


def test_annotations_become_calls_of_the_calculator_with_its_own_answers() -> None:
    parts = solution_parts("She paid 3*1.50 = $<<3*1.50=4.50>>4.50 in all.\n#### 4.5")
    assert parts == (
        Part("text", "She paid 3*1.50 = $"),
        Part("python", "3*1.50"),
        Part("output", "4.5"),
        Part("text", "4.50 in all.\n#### 4.5"),
    )


@pytest.mark.parametrize("annotation", ["<<3/4=3/4>>", "<<2+2=5>>", "<<x*2=4>>"])
def test_a_call_that_would_be_answered_differently_is_not_taught(annotation: str) -> None:
    assert {part.kind for part in solution_parts(f"it is {annotation}4.\n#### 4")} == {"text"}


def test_no_split_shares_a_problem_with_another(folder: Path) -> None:
    asked = {
        split: {problem.messages[0].text for problem in gsm8k_problems(split, folder)}
        for split in ("train", "development", "test")
    }
    assert len(asked["train"]) + len(asked["development"]) == 200
    assert asked["development"] and len(asked["test"]) == 3
    assert not asked["train"] & asked["development"]
    assert all(text.startswith("train") for text in asked["development"]), "never tune on test problems"


def test_solutions_are_conversations_to_learn_from_and_the_tests_are_not(folder: Path) -> None:
    conversations = list(gsm8k_conversations("train", folder))
    for conversation in conversations:
        check_conversation(conversation)
    assert [part.kind for part in conversations[0][1].parts] == ["text", "python", "output", "text"]
    with pytest.raises(UserError, match="not for training"):
        list(gsm8k_conversations("test", folder))


def test_what_is_missing_is_said(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is not there: download the benchmarks"):
        gsm8k_problems("test", tmp_path / "nowhere")
    (folder / "gsm8k" / "test.jsonl").write_text('{"question": "How many?"}\n')
    with pytest.raises(UserError, match="line 1: there is no answer"):
        gsm8k_problems("test", folder)
