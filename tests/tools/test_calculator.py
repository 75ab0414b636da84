"""The calculator: right answers, plain text, and no way to hurt the process that runs it."""

import threading
import time
import warnings

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chatsmith.tools.calculator import (
    MAX_LENGTH,
    CalculatorError,
    calculate,
    calculator_tool,
)


@pytest.mark.parametrize(
    ("expression", "answer"),
    [
        ("37+58", "95"),
        (" 37 + 58 ", "95"),
        ("1/2", "0.5"),
        ("10/2", "5"),
        ("7//2", "3"),
        ("-7 % 3", "2"),
        ("2**10", "1024"),
        ("2**-1", "0.5"),
        ("0.1+0.2", "0.3"),
        ("1/3", "0.333333333333"),
        ("-(3-5)", "2"),
        ("(1+2)*3", "9"),
        ("-0.0", "0"),
        ("10**20", "100000000000000000000"),
        ("1e20", "100000000000000000000"),
        ("0.00001", "0.00001"),
        ("1e-12", "1e-12"),
        ("3 < 5", "True"),
        ("1 < 2 < 2", "False"),
        ("2 == 2.0", "True"),
        ("'a' == \"a\"", "True"),
        ("'p' in 'apple'", "True"),
        ("round(3.14159, 2)", "3.14"),
        ("round(2.6)", "3"),
        ("abs(-4)", "4"),
        ("min(3, 1, 2)", "1"),
        ("max(3, 1, 2)", "3"),
        ("len('banana')", "6"),
        ("'banana'.count('a')", "3"),
        ("'apple'.upper()", "APPLE"),
        ("'APPLE'.lower()", "apple"),
        ("'banana'.replace('a', 'o')", "bonono"),
        ("len('a' 'b'.upper())", "2"),
    ],
)
def test_answers_are_right_and_plain(expression: str, answer: str) -> None:
    assert calculate(expression) == answer


@pytest.mark.parametrize(
    "expression",
    [
        "",
        "2 +",
        "x",
        "1; 2",
        "x = 1",
        "lambda: 1",
        "[1, 2]",
        "(1, 2)",
        "{1: 2}",
        "1 if 2 else 3",
        "1 and 2",
        "not 1",
        "~1",
        "1 << 2",
        "1 is 1",
        "True",
        "None",
        "3j",
        "b'a'",
        "f'{1}'",
        "'a' + 'b'",
        "'a' * 3",
        "'%d' % 3",
        "(1 < 2) + 1",
        "1 < 'a'",
        "__import__('os').system('true')",
        "().__class__",
        "'a'.__class__",
        "'a'.format(1)",
        "'{0}'.format(1)",
        "open('x')",
        "eval('1')",
        "min(1)",
        "abs()",
        "round(1, 2, 3)",
        "round(1, 1000)",
        "round(number=1)",
        "max(*(1, 2))",
        "len(5)",
        "'a'.upper",
        "(1).count(1)",
        "1/0",
        "1 % 0",
        "0 ** -1",
        "(-8) ** 0.5",
        "9 ** 9 ** 9",
        "2 ** 1000",
        "10 ** 40",
        "1e999",
        "1e30 * 1e30",
        "'\\x00'",
        "1\x00",
        "(" * 120 + "1" + ")" * 120 + "+" + "(" * 200,
        "1" * (MAX_LENGTH + 1),
        "-" * 100 + "1",
    ],
)
def test_everything_else_is_refused_with_a_reason(expression: str) -> None:
    with pytest.raises(CalculatorError) as refusal:
        calculate(expression)
    assert str(refusal.value)


def test_growing_text_is_stopped() -> None:
    grown = "'" + "a" * 60 + "'" + ".replace('a', 'aaaaaaaaaa')" * 4
    with pytest.raises(CalculatorError, match="text longer"):
        calculate(grown)


@pytest.mark.parametrize("expression", ["9**256" + "*9**256" * 20, "(9**41)**256", "'a'.count('')"])
def test_the_worst_cases_end_in_time(expression: str) -> None:
    began = time.monotonic()
    calculator_tool(expression)
    assert time.monotonic() - began < 0.2


def test_the_tool_hook_turns_a_refusal_into_text() -> None:
    assert calculator_tool("6*7") == "42"
    assert calculator_tool("1/0") == "error: division by zero"


@pytest.mark.parametrize(
    "expression",
    ["3and", "3and 4", "1.or 2", "0x1for 2", "1in'1'", "f'{3and 4}'", "'''a'b''' < 3and 'c'"],
)
def test_what_pythons_parser_would_warn_about_is_refused_in_silence(expression: str) -> None:
    """Its warnings land on stderr in the middle of an evaluation, and cannot be silenced for one thread alone."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        assert calculator_tool(expression) == "error: not an expression"
    assert said == []


@pytest.mark.parametrize(
    ("expression", "answer"),
    [
        ("len('3and')", "4"),
        ("'a'in'abc'", "True"),
        ("1_000 + .5 + 1.", "1001.5"),
        ('"it\'s".count("s")', "1"),
        ("0xff", "255"),
        ("'a''b'", "ab"),
    ],
)
def test_odd_but_legal_writing_is_understood(expression: str, answer: str) -> None:
    assert calculate(expression) == answer


_PIECES = [*"10e'\"fx_().+#j \n", "3.", "0x", "and", "or", "in", "if", "not"]


@settings(max_examples=300, deadline=None)
@given(st.lists(st.sampled_from(_PIECES), max_size=10).map("".join))
def test_nothing_makes_the_parser_warn(expression: str) -> None:
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        calculator_tool(expression)
    assert said == []


@settings(max_examples=50, deadline=None)
@given(st.text(max_size=40))
def test_no_text_raises_anything_but_a_calculator_error(expression: str) -> None:
    assert isinstance(calculator_tool(expression), str)


@settings(max_examples=50, deadline=None)
@given(st.integers(-(10**9), 10**9), st.integers(-(10**9), 10**9), st.sampled_from("+-*"))
def test_whole_numbers_agree_with_python(left: int, right: int, sign: str) -> None:
    expected = {"+": left + right, "-": left - right, "*": left * right}[sign]
    assert calculate(f"({left}){sign}({right})") == str(expected)


def test_it_works_away_from_the_main_thread() -> None:
    answers: list[str] = []
    threads = [threading.Thread(target=lambda n=n: answers.append(calculate(f"{n}*{n}"))) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(answers, key=int) == [str(n * n) for n in range(8)]
