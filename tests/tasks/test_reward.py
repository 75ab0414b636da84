"""Rewards: what earns one, and what becomes of a function of a user's own that is broken."""

import asyncio
import math
import os
import sys
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest
import torch

from chatsmith.data.problems import Problem, Reply
from chatsmith.runtime.errors import UserError
from chatsmith.tasks.reward import Judge, honest_answer, load_reward, marked_answer, right_answer, sound_form
from chatsmith.tasks.rules import Number
from chatsmith.text.chat import Message, Part

SUM = Problem("sum/1", "sums", (Message.of("user", "What is 3 plus 4?"),), "7", Number(7, given=(3, 4)))


def calling(expression: str, output: str, text: str) -> Reply:
    return Reply(text, (Part("python", expression), Part("output", output), Part("text", text)))


def test_a_right_answer_is_one_that_the_rule_accepts_and_that_ends():
    assert right_answer(SUM, Reply("3 plus 4 is 7.")) == 1
    assert right_answer(SUM, Reply("3 plus 4 is 8.")) == 0
    assert right_answer(SUM, Reply("3 plus 4 is 7", is_finished=False)) == 0


def test_good_form_needs_an_end_some_text_and_calls_that_worked():
    assert sound_form(SUM, Reply("anything")) == 1
    assert sound_form(SUM, calling("3+4", "7", "It is 7.")) == 1
    assert sound_form(SUM, calling("3+", "error: not an expression", "It is 7.")) == 0
    assert sound_form(SUM, Reply("It is 7.", (Part("python", "3+4"), Part("text", "It is 7.")))) == 0
    assert sound_form(SUM, Reply(" ")) == 0
    assert sound_form(SUM, Reply("It is", is_finished=False)) == 0


@pytest.mark.parametrize(
    ("text", "earned"),
    [
        ("3 + 4 = 7\n#### 7", 1),
        ("#### 7", 1),
        ("#### 7\nSo it is 7.", 0),
        ("#### 6\n#### 7", 0),
        ("#### 7 #### 8", 0),
        ("It is 7.", 0),
        ("", 0),
    ],
)
def test_a_marked_answer_stands_once_and_last(text, earned):
    assert marked_answer(SUM, Reply(text)) == earned


ROW = Problem(
    "row/1", "row", (Message.of("user", 'Count the word "pea" in "pea jar pea".'),), "2", Number(2, given=())
)


@pytest.mark.parametrize(
    ("expression", "earned"),
    [
        ('"pea jar pea".count("pea")', 1),
        ('"pea pea".count("pea")', 0),  # copied wrong, and counted to the right number
        ('"pea jar pea jar".count("pea")', 0),
        ("1+1", 1),
    ],
)
def test_a_right_answer_from_a_wrong_copy_is_not_paid_for_though_it_is_right(expression, earned):
    reply = calling(expression, "2", 'The word "pea" appears 2 times in the row.')
    assert honest_answer(ROW, reply) == earned
    verdict = Judge(honest_answer, right=right_answer)(ROW, reply)
    assert (verdict.reward, verdict.is_right) == (earned, True)
    assert honest_answer(ROW, calling('"pea jar pea".count("pea")', "2", "It is 3.")) == 0


def test_form_is_added_with_its_weight_and_never_makes_a_wrong_answer_right():
    judge = Judge(form_weight=0.25)
    assert judge(SUM, Reply("7.")).reward == 1.25
    wrong = judge(SUM, Reply("8."))
    assert (wrong.reward, wrong.is_right) == (0.25, False)


@pytest.mark.parametrize(
    ("function", "failure"),
    [
        (lambda problem, reply: 1 / 0, "ZeroDivisionError"),
        (lambda problem, reply: "much", "'much', not a finite number"),
        (lambda problem, reply: math.nan, "nan, not a finite number"),
        (lambda problem: 1.0, "TypeError"),
    ],
)
def test_a_function_that_fails_gives_no_reward_and_a_reason(function, failure):
    verdict = Judge(function)(SUM, Reply("7."))
    assert verdict.reward is None and not verdict.is_right and failure in verdict.failure


class Unspeakable(Exception):
    def __str__(self) -> str:
        raise ValueError("no words")


def raising(error: BaseException):
    def function(problem: Problem, reply: Reply) -> float:
        raise error

    return function


@pytest.mark.parametrize(
    ("function", "failure"),
    [
        (lambda problem, reply: sys.exit(), "SystemExit"),
        (lambda problem, reply: sys.exit(0), "SystemExit: 0"),
        (lambda problem, reply: exit("bye"), "SystemExit: bye"),
        (lambda problem, reply: os._exit(0), "SystemExit: 0"),
        (raising(GeneratorExit()), "GeneratorExit"),
        (raising(asyncio.CancelledError()), "CancelledError"),
        (raising(BaseExceptionGroup("several", [SystemExit(0)])), "BaseExceptionGroup: several"),
        (raising(Unspeakable()), "Unspeakable"),
        (raising(ValueError("one\ntwo")), "ValueError: one two"),
        (raising(ValueError("x" * 100_000)), "ValueError: xxx"),
    ],
)
def test_row_12_any_way_a_users_function_can_end_is_caught_and_shown(function, failure):
    verdict = Judge(function)(SUM, Reply("7."))
    assert verdict.reward is None and not verdict.is_right and verdict.failure.startswith(failure)
    assert "\n" not in verdict.failure and len(verdict.failure) < 400


def test_row_12_ctrl_c_stops_whatever_the_function_does():
    with pytest.raises(KeyboardInterrupt):
        Judge(raising(KeyboardInterrupt()))(SUM, Reply("7."))


def test_row_12_a_function_may_fork_and_its_child_may_leave():
    def forks(problem: Problem, reply: Reply) -> float:
        process = os.fork()
        if process == 0:
            os._exit(3)
        return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])

    assert Judge(forks)(SUM, Reply("7.")).reward == 3
    assert os._exit.__module__ == "posix", "what was put in its place is gone"


@pytest.mark.parametrize(
    "number",
    [
        *(1, True, 1.0, Fraction(1), Decimal("1.0")),
        *(
            np.float32(1),
            np.float64(1),
            np.float16(1),
            np.int64(1),
            np.uint8(1),
            np.bool_(True),
            np.array(1.0),
        ),
        *(torch.tensor(1.0), torch.tensor(1), torch.tensor(True), torch.tensor(1.0, dtype=torch.bfloat16)),
    ],
    ids=lambda number: type(number).__name__,
)
def test_row_12_whatever_is_a_finite_number_is_a_reward(number):
    verdict = Judge(lambda problem, reply: number)(SUM, Reply("7."))
    assert (verdict.reward, verdict.is_right, verdict.failure) == (1.0, True, "")
    assert type(verdict.reward) is float


@pytest.mark.parametrize(
    "value",
    [
        *(
            None,
            "1",
            b"1",
            bytearray(b"1"),
            (1.0,),
            [1.0],
            {},
            1j,
            object(),
            10**400,
            float("inf"),
            float("-inf"),
        ),
        *(Decimal("NaN"), Decimal("sNaN"), Decimal("Infinity"), Decimal("1e999"), Fraction(10**400)),
        *(np.float32("nan"), np.float64("inf"), np.str_("1"), np.array([1.0]), np.array([1.0, 2.0])),
        *(torch.tensor(float("nan")), torch.tensor([1.0]), torch.tensor([1.0, 2.0]), torch.zeros(50, 50)),
    ],
    ids=lambda value: type(value).__name__,
)
def test_row_12_nothing_else_is_a_reward(value):
    verdict = Judge(lambda problem, reply: value)(SUM, Reply("7."))
    assert verdict.reward is None and not verdict.is_right
    assert verdict.failure.endswith("not a finite number") and "\n" not in verdict.failure
    assert len(verdict.failure) < 400


def test_row_12_a_graded_reward_keeps_its_grade():
    for given, right in ((-12.5, False), (0.3, False), (0.999, False), (1.0, True), (7, True)):
        verdict = Judge(lambda problem, reply, given=given: given)(SUM, Reply("7."))
        assert (verdict.reward, verdict.is_right) == (given, right)


@pytest.mark.parametrize(
    "ending", ["import sys; sys.exit(0)", "exit()", "import os; os._exit(0)", "raise SystemExit"]
)
def test_row_12_a_file_that_leaves_when_it_is_read_is_an_error(tmp_path, ending):
    (tmp_path / "mine.py").write_text(f"{ending}\ndef score(problem, reply):\n    return 1.0\n")
    with pytest.raises(UserError, match=r"mine\.py cannot be run \(SystemExit"):
        load_reward(f"{tmp_path}/mine.py:score")


def test_a_function_of_one_s_own_is_found_in_its_file_and_named_by_its_contents(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text("def short(problem, reply):\n    return 1.0 if len(reply.text) < 5 else 0.5\n")
    function, first = load_reward(f"{path}:short")
    assert Judge(function)(SUM, Reply("7.")).is_right
    assert Judge(function)(SUM, Reply("seven")).reward == 0.5
    path.write_text(path.read_text() + "# changed\n")
    assert load_reward(f"{path}:short")[1] != first


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("mine.py", "takes a file and a function"),
        (":score", "takes a file and a function"),
        ("missing.py:score", "there is no file"),
        ("mine.py:scores", "has no function 'scores'"),
        ("mine.py:LIMIT", "has no function 'LIMIT'"),
        ("broken.py:score", "cannot be run (SyntaxError"),
        ("mine.txt:score", "must end in .py"),
    ],
)
def test_a_reward_that_is_not_there_is_named(tmp_path, monkeypatch, place, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text("LIMIT = 3\ndef score(problem, reply):\n    return 1.0\n")
    (tmp_path / "mine.txt").write_text("text")
    (tmp_path / "broken.py").write_text("def score(:")
    with pytest.raises(UserError) as refusal:
        load_reward(place)
    assert message in str(refusal.value)
