"""ARC, MMLU, HumanEval and spelling: how questions are put, which replies pass, and that splits share nothing."""

import json
import re
from itertools import islice
from pathlib import Path

import pytest

from chatsmith.runtime.errors import UserError
from chatsmith.tasks import spelling
from chatsmith.tasks.benchmark_files import is_held_out
from chatsmith.tasks.humaneval import PassesTests, humaneval_problems, reply_code
from chatsmith.tasks.multiple_choice import LetterQuestion, arc_questions, chance, mmlu_questions
from chatsmith.tasks.rules import Number
from chatsmith.text.chat import check_conversation
from chatsmith.tools.calculator import calculate
from chatsmith.tools.sandbox import require_sandbox
from chatsmith.worlds.kindergarten.world import spelling_words

PROMPT = "import math\n\ndef half(n):\n    return n / 2\n\ndef root(n):\n    '''The root of n.'''\n"
TEST = "def check(f):\n    assert f(16) == 4 and half(2) == 1\n"


def test_a_question_is_put_with_its_letters():
    question = LetterQuestion("q", "Which?", ("this", "that", "neither"), 1)
    assert (
        question.messages[0].text == "Which?\n- this (A)\n- that (B)\n- neither (C)\nAnswer with one letter."
    )
    assert question.solved[1].text == "B"
    assert chance([question, LetterQuestion("r", "?", ("a", "b"), 0)]) == pytest.approx((1 / 3 + 1 / 2) / 2)


def test_holding_out_depends_on_the_text_alone():
    held = [is_held_out(f"question {n}", 16) for n in range(4000)]
    assert 180 < sum(held) < 320
    assert held == [is_held_out(f"question {n}", 16) for n in range(4000)]


def test_an_item_without_its_answer_is_an_error_that_names_it(tmp_path: Path):
    (tmp_path / "arc").mkdir()
    item = {
        "id": "q7",
        "question": "?",
        "choices": {"text": ["a", "b"], "label": ["A", "B"]},
        "answerKey": "E",
    }
    (tmp_path / "arc" / "easy-test.jsonl").write_text(json.dumps(item))
    with pytest.raises(UserError, match="q7"):
        arc_questions("easy", "test", tmp_path)
    (tmp_path / "mmlu").mkdir()
    (tmp_path / "mmlu" / "test.jsonl").write_text(
        '{"subject": "x", "question": "?", "choices": ["a", "b"], "answer": 2}'
    )
    with pytest.raises(UserError, match="line 1"):
        mmlu_questions("test", tmp_path)


@pytest.mark.parametrize(
    ("reply", "passes"),
    [
        ("    return math.sqrt(n)\n", True),
        ("```python\ndef root(n):\n    return math.sqrt(n)\n```", True),
        ("Here it is:\n```\nfrom math import sqrt\ndef root(n):\n    return sqrt(n)\n```\nand so on", True),
        ("```python\ndef root(n):\n    return math.sqrt(n)", True),
        ("    return n / 2\n", False),
        ("I do not know.", False),
        ("def root(n):\n    import os\n    os._exit(0)\n", False),
        ("", False),
    ],
)
def test_a_program_passes_if_its_tests_do(reply: str, passes: bool):
    require_sandbox()
    assert PassesTests(PROMPT, "root", TEST).accepts(reply) is passes


def test_helpers_before_the_function_are_kept_when_the_reply_repeats_only_the_function():
    program = PassesTests(PROMPT, "root", TEST).program("def root(n):\n    return 2 * half(n)\n")
    assert program.count("def half") == 1 and program.count("def root") == 1
    assert program.endswith("check(root)\n")
    assert reply_code("a ```x``` b") == "a ```x``` b", "code within a line is no block"


@pytest.fixture
def words(tmp_path: Path) -> Path:
    (tmp_path / "words").mkdir()
    listed = [f"{a}{b}{c}{d}" for a in "bcdfgmpt" for b in "aeiou" for c in "aeioulmn" for d in "bdgnprst"]
    (tmp_path / "words" / "words_alpha.txt").write_text(
        "\n".join([*listed, *spelling_words(), "Paris", "x-ray"])
    )
    return tmp_path


def test_no_split_of_the_words_shares_one_with_another(words: Path):
    asked = {}
    for split in ("development", "test"):
        problems = spelling.spelling_problems(split, words, spelling_words())
        asked[split] = {problem.id.rpartition("/")[2] for problem in problems}
        assert {problem.section for problem in problems} == {"spelling", "counting"}
    taught = {
        re.findall(r"(?:[a-z]-)+[a-z]", talk[1].text)[0].replace("-", "")
        for section in spelling.SECTIONS
        for talk in spelling.spelling_conversations(section, "train", words, spelling_words())
    }
    assert len(taught) > 500 and len(asked["test"]) > 50
    assert not asked["development"] & asked["test"]
    assert not taught & (asked["development"] | asked["test"])
    assert not taught & set(spelling_words()), "the kindergarten's exam asks these"
    with pytest.raises(UserError, match="conversations"):
        spelling.spelling_problems("train", words, spelling_words())


def test_spelling_problems_are_the_same_for_a_longer_list(words: Path):
    before = spelling.spelling_problems("test", words, spelling_words())
    file = words / "words" / "words_alpha.txt"
    file.write_text("\n".join(["zzzz", *reversed(file.read_text().split())]))
    after = {problem.id: problem for problem in spelling.spelling_problems("test", words, spelling_words())}
    assert all(after[problem.id] == problem for problem in before)


def test_what_is_taught_would_pass(words: Path):
    for talk in islice(spelling.spelling_conversations("spelling", "train", words, spelling_words()), 60):
        check_conversation(talk)
        (word,) = (one for one in re.findall(r"[a-z]{4,}", talk[0].text) if "-".join(one) in talk[1].text)
        assert spelling.SpelledOut(word).accepts(talk[1].text)
        assert not spelling.SpelledOut(word + "s").accepts(talk[1].text)
    for talk in islice(spelling.spelling_conversations("counting", "train", words, spelling_words()), 60):
        check_conversation(talk)
        assert [part.kind for part in talk[1].parts] == ["text", "python", "output", "text"]
        counted = calculate(talk[1].parts[1].text)
        assert counted == talk[1].parts[2].text
        assert Number(int(counted)).accepts(talk[1].text), "strokes on the way, no other number"
        assert max((len(strokes) for strokes in re.findall(r"[|]+", talk[1].text)), default=0) == int(counted)
    with pytest.raises(UserError, match="not for training"):
        next(spelling.spelling_conversations("counting", "test", words, spelling_words()))


@pytest.mark.parametrize(
    ("reply", "right"),
    [
        ("c-a-t", True),
        ("C, A, T.", True),
        ("The word cat is spelled c a t.", True),
        ("cat", False),
        ("c-a-t-s", False),
        ("c-t-a", False),
        ("one two three four five six seven eight nine c-a-t", False),
    ],
)
def test_letters_one_by_one_are_a_spelling(reply: str, right: bool):
    assert spelling.SpelledOut("cat").accepts(reply) is right


@pytest.mark.shared_data
def test_the_real_files_are_read_whole(benchmarks: Path):
    sizes = {
        (level, split): len(arc_questions(level, split, benchmarks))
        for level in ("easy", "challenge")
        for split in ("train", "development", "test")
    }
    assert sizes == {
        ("easy", "train"): 2251,
        ("easy", "development"): 570,
        ("easy", "test"): 2376,
        ("challenge", "train"): 1119,
        ("challenge", "development"): 299,
        ("challenge", "test"): 1172,
    }
    assert [len(mmlu_questions(split, benchmarks)) for split in ("train", "development", "test")] == [
        285,
        1531,
        14042,
    ]
    assert len(spelling.spelling_problems("test", benchmarks, spelling_words())) == 400


@pytest.mark.shared_data
@pytest.mark.slow
def test_every_tenth_canonical_solution_of_humaneval_passes(benchmarks: Path):
    """And the same one cut off does not."""
    require_sandbox()
    problems = humaneval_problems("test", benchmarks)
    assert len(problems) == 164
    for problem in problems[::10]:
        assert problem.check(problem.answer), problem.id
        assert not problem.check("    return None\n"), problem.id
