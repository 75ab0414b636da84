"""The rules that decide whether a reply is right."""

import pytest

from chatsmith.data.problems import Problem
from chatsmith.tasks.problem_set import problem_to_json
from chatsmith.tasks.rules import Exactly, Listing, Names, Number, normalise
from chatsmith.text.chat import Message

COLOURS = ("red", "blue", "green")


def test_normalising_keeps_words_and_hyphens_and_drops_the_rest():
    assert normalise("  The word “Cat” is spelled C-A-T. ") == "the word cat is spelled c-a-t"
    assert normalise("RED Boat!", keep_case=True) == "RED Boat"


@pytest.mark.parametrize("reply", ["Grass is green.", "GREEN", "It is green, I think."])
def test_a_reply_that_names_the_answer_passes(reply):
    assert Names(("green",), COLOURS).accepts(reply)


@pytest.mark.parametrize(
    "reply", ["", "Grass is red.", "Red, blue and green.", "Not green but blue.", "evergreen", "greens"]
)
def test_a_reply_that_names_another_candidate_or_none_fails(reply):
    assert not Names(("green",), COLOURS).accepts(reply)


def test_a_reply_that_tells_the_whole_story_again_fails():
    assert not Names(("green",), COLOURS).accepts("Mia had a green ball. " + "She put it in the box. " * 3)


def test_what_the_question_names_is_not_held_against_a_reply():
    rule = Names(("June",), ("May", "June", "July"), "Which month comes after May?")
    assert rule.accepts("The month after May is June.")
    assert not rule.accepts("June or July.")
    assert not rule.accepts("Which month comes after May?")


@pytest.mark.parametrize("reply", ["95", "37 plus 58 is 95.", "It is 95.0."])
def test_a_number_at_the_end_passes(reply):
    assert Number(95, given=(37, 58)).accepts(reply)


@pytest.mark.parametrize(
    "reply", ["", "37 58", "95 or 96", "94, 95", "195", "9 5", "95 is 37 plus 58", "-9.5"]
)
def test_a_wrong_extra_or_early_number_fails(reply):
    assert not Number(95, given=(37, 58)).accepts(reply)


def test_number_words_count_as_numbers():
    assert Number(3).accepts("There are three of them.")
    assert not Number(3).accepts("There are two or three of them.")


def test_an_echo_of_the_question_is_no_answer():
    rule = Number(64, given=(35, 64))
    assert rule.accepts("64 is larger.")
    assert not rule.accepts("Which is larger, 35 or 64?")


def test_an_exact_reply_may_differ_in_punctuation_and_in_case_unless_case_is_the_point():
    assert Exactly(("c-a-t",)).accepts("C-a-t.")
    assert not Exactly(("c-a-t",)).accepts("c-a-t-s")
    assert Exactly(("RED BOAT",), keep_case=True).accepts('"RED BOAT".')
    assert not Exactly(("RED BOAT",), keep_case=True).accepts("red boat")


@pytest.mark.parametrize(
    ("reply", "right"),
    [
        ("Red and blue.", True),
        ("blue, green", True),
        ("Red.", False),
        ("Red and red.", False),
        ("Red, blue and green.", False),
        ("Red and cow.", False),
    ],
)
def test_a_list_has_the_right_number_of_different_members_and_nothing_else(reply, right):
    assert Listing(2, COLOURS).accepts(reply) is right


def test_a_problem_as_json_tells_prompt_and_rule():
    problem = Problem("exam/facts/1", "facts", (Message.of("user", "Hi?"),), "x", Names(("x",), ("y",)))
    assert problem.check("x") and not problem.check("x y")
    assert problem_to_json(problem) == {
        "id": "exam/facts/1",
        "section": "facts",
        "messages": [{"role": "user", "content": "Hi?"}],
        "answer": "x",
        "rule": "Names",
        "accepted": ("x",),
        "candidates": ("y",),
        "question": "",
        "longest": 15,
    }
