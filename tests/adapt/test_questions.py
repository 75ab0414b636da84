"""Questions from structure: every answer stands in its passage, and no training pair gives an exam answer away."""

import random

import pytest

from chatsmith.adapt.passages import Passage
from chatsmith.adapt.questions import (
    EXAM_FORMS,
    LEAK_WORDS,
    REVERSED_FORMS,
    TRAINING_FORMS,
    Question,
    exam_questions,
    is_right,
    sequences,
    training_pairs,
    without_leaks,
)

pytest.importorskip("bm25s")

GUIDE = """The flux valve is a small gate between the two tanks of the engine. Turn it slowly.

It is an error to open both. This is the end.

- `ratio`: how much water is mixed into the oil
- Note: nothing to learn here, really

def open_valve(valve, slowly=True):
    pass
"""
PASSAGES = [
    Passage("guide.md", "2.1 The engine", GUIDE),
    Passage("notes/tank.md", "Tanks", "Tanks hold water for many weeks. A tank is a large vessel of steel."),
]


def test_facts_become_pairs_and_examination_questions() -> None:
    pairs = training_pairs(PASSAGES)
    assert {(one.question, one.answer) for one in pairs if one.question.startswith("What is ")} == {
        ("What is flux valve?", "The flux valve is a small gate between the two tanks of the engine."),
        ("What is tank?", "A tank is a large vessel of steel."),
        ("What is the signature of open_valve?", "def open_valve(valve, slowly=True)"),
    }
    assert ("Explain ratio.", "how much water is mixed into the oil") in {
        (one.question, one.answer) for one in pairs
    }
    backward = {one.question: one.answer for one in pairs if len(one.answer) < 15}
    assert backward["Which name is described as “how much water is mixed into the oil”?"] == "ratio"
    assert backward["Where can I read about Tanks?"] == "notes/tank.md"
    assert not [one for one in pairs if "Note" in one.question or "It" in one.question.split()]
    exam = {one.question: one.answer for one in exam_questions(PASSAGES, pairs, 50, ["guide.md", "tank.md"])}
    assert exam["Go on in a few words: flux valve is"] == "a small gate"
    assert exam["Name the first argument of open_valve."] == "valve"
    assert exam["Which term do these words belong to: how much water is mixed into …"] == "ratio"
    assert exam["Which file has a part called “Tanks”?"] == "notes/tank.md"
    assert exam["How does the part on “Tanks” begin?"] == "Tanks hold water for"
    assert any(question.startswith("Which word is missing") for question in exam)


def test_a_heading_of_several_files_leads_to_none_of_them() -> None:
    passages = [
        Passage(f"{name}.md", heading, f"{heading} of the {name} is described here, in full.")
        for name in ("cat", "dog")
        for heading in ("Options", f"The {name}")
    ]
    asked = {one.question: one.answer for one in training_pairs(passages)}
    assert asked["Tell me about Options (dog.md)."] == "Options of the dog is described here, in full."
    assert asked["Where can I read about The dog?"] == "dog.md"
    assert not [one for one in asked if "Options" in one and asked[one].endswith(".md")]


def test_a_question_with_two_answers_is_neither_trained_nor_asked() -> None:
    same, other = "how much water is mixed into the oil", "the place where the tanks are filled"
    page = "\n".join((f"- `ratio`: {same}", f"- `share`: {same}", f"- `inlet`: {other}"))
    passages = [
        Passage("a.md", "", page),
        *(Passage(f"{name}.md", "", f"They then bring the {name} to it.") for name in ("cable", "wheel")),
    ]
    pairs = training_pairs(passages)
    assert {one.answer for one in pairs if one.question == f"Give the name: {other}"} == {"inlet"}
    assert {one.answer for one in pairs if one.question == "Explain share."} == {same}
    assert not [one for one in pairs if same in one.question]
    exam = {one.question: one.answer for one in exam_questions(passages, [], 50, ["a.md", "cable.md"])}
    assert exam["Which term do these words belong to: the place where the tanks are …"] == "inlet"
    assert not [one for one in exam if "how much water" in one and "term" in one]
    assert "Which word is missing: then bring the ____ to it." not in exam
    questions = [Question("Who is it?", answer, "a.md", "") for answer in ("Ada", "Ada", "Bo")]
    assert without_leaks(questions[:2], []) == questions[:1] and without_leaks(questions, []) == []


def test_no_form_of_the_examination_is_trained() -> None:
    trained = {
        form.split("{")[0]
        for kind in (TRAINING_FORMS, REVERSED_FORMS)
        for forms in kind.values()
        for form in forms
    }
    assert not trained & {form.split("{")[0] for form in EXAM_FORMS.values()}


def test_answers_stand_in_their_passages_and_nothing_leaks_whatever_the_text() -> None:
    draw = random.Random(1)
    vocabulary = [
        "tank",
        "valve",
        "is a",
        "The",
        "of",
        "water.",
        "- oil:",
        "\n\n",
        "\n",
        "def f(x, y)",
        "ß`*",
        "(",
        "mixes slowly",
    ]
    for number in range(60):
        passages = [
            Passage(
                f"{at % 3}.md",
                draw.choice(["", "Tanks", "Oil › Use?"]),
                " ".join(draw.choices(vocabulary, k=80)),
            )
            for at in range(6)
        ]
        pairs = training_pairs(passages)
        texts: dict[str, str] = {}
        for one in passages:
            texts[one.name] = f"{texts.get(one.name, '')}\n{one.text}"
        for pair in pairs:
            text = f"{pair.passage} {texts[pair.passage]}"
            assert " ".join(pair.answer.split()) in " ".join(text.split())
        exam = exam_questions(passages, pairs, 20, ["a", "b"])
        assert len(exam) <= 20 and exam == exam_questions(passages, pairs, 20, ["a", "b"]), number
        learned = sequences([text for one in pairs for text in (one.question, one.answer)], LEAK_WORDS)
        for one in exam:
            assert not sequences([one.question, f"{one.question} {one.answer}"], LEAK_WORDS) & learned


def test_a_pair_that_gives_an_answer_away_takes_the_question_out() -> None:
    told = "one two three four five six seven eight nine"
    asked = Question(f"Which word is missing: {told} ____", "ten", "a.md", "gap")
    assert without_leaks([asked, asked], []) == [asked]
    assert without_leaks([asked], [Question("What?", f"Zero {told}!", "a.md", "definition")]) == []
    assert without_leaks([asked], [Question("What?", "one two three", "a.md", "definition")]) == [asked]
    assert without_leaks([asked], [Question(asked.question, "x", "a.md", "gap")]) == []


def test_an_answer_counts_where_its_words_stand_in_a_row() -> None:
    assert is_right("It is a Small  gate, I think.", "a small gate")
    assert not is_right("a smaller gate", "a small gate")
    assert not is_right("many " * 50 + "gate", "gate")  # whoever says everything is not right
