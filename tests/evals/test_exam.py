"""The exam: replies are decided by their own problem's rule, every problem counts, and batching changes nothing."""

from collections.abc import Callable
from typing import Any

import pytest

from chatsmith.data.problems import Problem
from chatsmith.engine.engine import Engine
from chatsmith.engine.request import Completion, Request
from chatsmith.evals.exam import choose_problems, exam_score, grade, run_exam
from chatsmith.evals.statistics import wilson_interval
from chatsmith.model.gpt import GPT
from chatsmith.runtime.console import Reporter
from chatsmith.tasks.rules import Names, Number
from chatsmith.text.chat import Message, Part, render_prompt
from chatsmith.text.tokenizer import Tokenizer

OnFinish = Callable[[int, Completion], None]


def problem(number: int, section: str, question: str, rule: Names | Number, answer: str) -> Problem:
    return Problem(f"exam/{section}/{number}", section, (Message.of("user", question),), answer, rule)


PROBLEMS = [
    problem(0, "sums", "What is one and two?", Number(3), "3"),
    problem(1, "pets", "What is a cat?", Names(("animal",)), "an animal"),
    problem(2, "sums", "What is two and two?", Number(4), "4"),
]


class ScriptedEngine:
    """Gives prepared replies, for what cannot be had from a model at will: right answers, calls, errors."""

    def __init__(self, *replies: tuple[Part, ...] | str) -> None:
        self.asked: list[Request] = []
        self._replies = replies

    def generate(self, requests: list[Request], on_finish: OnFinish) -> list[Completion]:
        self.asked += requests
        completions = []
        for index, (request, reply) in enumerate(zip(requests, self._replies, strict=True)):
            failed = isinstance(reply, str)
            completion = Completion(
                prompt_ids=request.prompt_ids,
                ids=(),
                sampled=(),
                parts=() if isinstance(reply, str) else reply,
                finish_reason="error" if failed else "stop",
                error=reply if isinstance(reply, str) else None,
            )
            completions.append(completion)
            on_finish(index, completion)
        return completions


def said(text: str) -> tuple[Part, ...]:
    return (Part("text", text),)


def test_each_reply_is_decided_by_the_rule_of_its_own_problem(
    tokenizer: Tokenizer, reporter: Reporter
) -> None:
    engine: Any = ScriptedEngine(said("It is 3."), said("A plant."), said("It is 3."))
    result = run_exam(engine, PROBLEMS, tokenizer, reporter=reporter)
    assert [reply["correct"] for reply in result] == [True, False, False]
    low, high = wilson_interval(1, 2)
    whole = wilson_interval(1, 3)
    assert exam_score(result, 1.234) == {
        "overall": 1 / 3,
        "n": 3,
        "low": whole[0],
        "high": whole[1],
        "chance": 0.0,
        "seconds": 1.23,
        "sections": {
            "sums": {"accuracy": 0.5, "n": 2, "low": low, "high": high},
            "pets": {"accuracy": 0.0, "n": 1, "low": 0.0, "high": wilson_interval(0, 1)[1]},
        },
    }


def test_what_the_calculator_said_is_no_answer(tokenizer: Tokenizer, reporter: Reporter) -> None:
    call = (Part("python", "1+2"), Part("output", "3"))
    engine: Any = ScriptedEngine(call, (*call, Part("text", "3")))
    result = run_exam(engine, [PROBLEMS[0]] * 2, tokenizer, reporter=reporter)
    assert [reply["correct"] for reply in result] == [False, True]
    assert result[1]["reply"] == [
        {"type": "python", "text": "1+2"},
        {"type": "output", "text": "3"},
        {"type": "text", "text": "3"},
    ]


def test_asking_is_greedy_and_with_the_prompt_as_the_chat_renders_it(
    tokenizer: Tokenizer, reporter: Reporter
) -> None:
    engine: Any = ScriptedEngine(*[said("3")] * 3)
    run_exam(engine, PROBLEMS, tokenizer, reporter=reporter)
    assert [request.sampling.temperature for request in engine.asked] == [0, 0, 0]
    assert list(engine.asked[1].prompt_ids) == render_prompt(PROBLEMS[1].messages, tokenizer)


def test_a_failed_reply_is_wrong_and_says_why(tokenizer: Tokenizer, reporter: Reporter) -> None:
    engine: Any = ScriptedEngine(said("3"), "the model's logits are not finite numbers", said("4"))
    result = run_exam(engine, PROBLEMS, tokenizer, reporter=reporter)
    assert [reply["correct"] for reply in result] == [True, False, True]
    assert result[1]["finish_reason"] == "the model's logits are not finite numbers"


def test_a_problem_that_does_not_fit_is_wrong_and_the_others_keep_their_replies(
    model: GPT, tokenizer: Tokenizer, reporter: Reporter
) -> None:
    problems = [PROBLEMS[0], problem(9, "sums", "What is one and two? " * 50, Number(3), "3"), PROBLEMS[2]]
    result = run_exam(Engine(model, tokenizer), problems, tokenizer, reporter=reporter)
    alone = run_exam(Engine(model, tokenizer), [PROBLEMS[0], PROBLEMS[2]], tokenizer, reporter=reporter)
    assert [result[0], result[2]] == alone
    assert not result[1]["correct"] and "the model's context" in result[1]["finish_reason"]


def test_a_real_engine_gives_the_same_transcript_whatever_the_batch(
    model: GPT, tokenizer: Tokenizer, reporter: Reporter
) -> None:
    problems = [
        problem(number, f"section {number % 2}", f"What is {number} and a {thing}?", Number(number), "")
        for number, thing in enumerate(["cat", "mat", "hat", "cat and a mat", "what"])
    ]
    results = [
        run_exam(
            Engine(model, tokenizer, max_running=size, kv_tokens=1024),
            problems,
            tokenizer,
            reporter=reporter,
            max_tokens=12,
        )
        for size in (1, 4)
    ]
    assert results[0] == results[1]
    assert [reply["id"] for reply in results[0]] == [one.id for one in problems]
    assert len({str(reply["reply"]) for reply in results[0]}) > 1


def test_a_baseline_is_graded_by_the_same_rules() -> None:
    assert grade(PROBLEMS, ["3", "an animal", "5"])["overall"] == 2 / 3


@pytest.mark.parametrize("most", [None, 3, 10])
def test_all_problems_are_asked_unless_fewer_are_wanted(most: int | None) -> None:
    assert choose_problems(PROBLEMS, most) == PROBLEMS


def test_a_choice_is_the_same_every_time_and_not_simply_the_first_ones() -> None:
    problems = [problem(number, "sums", "?", Number(number), "") for number in range(100)]
    chosen = choose_problems(problems, 20)
    assert chosen == choose_problems(problems, 20)
    assert len({one.id for one in chosen}) == 20
    assert chosen != problems[:20]


def test_no_problems_are_no_crash(tokenizer: Tokenizer, reporter: Reporter) -> None:
    engine: Any = ScriptedEngine()
    found = exam_score(run_exam(engine, [], tokenizer, reporter=reporter), 0.0)
    assert (found["overall"], found["n"], found["sections"]) == (0.0, 0, {})
    assert (found["low"], found["high"]) == (0.0, 1.0), "nothing is known"


def test_several_tries_have_seeds_of_their_own_and_stand_together(
    tokenizer: Tokenizer, reporter: Reporter
) -> None:
    engine: Any = ScriptedEngine(*[said(text) for text in ("3", "no", "an animal", "3", "4", "4")])
    result = run_exam(engine, PROBLEMS, tokenizer, reporter=reporter, tries=2)
    assert [reply["id"] for reply in result] == [one.id for one in PROBLEMS for _ in range(2)]
    assert [reply["correct"] for reply in result] == [True, False, True, False, True, True]
    assert {request.sampling.temperature for request in engine.asked} == {0.8}
    assert [request.sampling.seed for request in engine.asked] == [1, 2] * 3
