"""The problems for reinforcement learning: the three parts never meet, nor do training and the exam."""

import random

from chatsmith.worlds.kindergarten.exam import draw_rl_question, exam_questions, rl_problem_set
from chatsmith.worlds.kindergarten.world import data


def first_prompts(problems, count: int) -> list[str]:
    return [problems.train(index).messages[-1].text for index in range(count)]


def test_the_order_is_the_same_for_a_seed_and_covers_every_skill():
    problems = rl_problem_set(1)
    assert first_prompts(problems, 50) == first_prompts(rl_problem_set(1), 50)
    assert first_prompts(problems, 50) != first_prompts(rl_problem_set(2), 50)
    assert rl_problem_set(1).fingerprint == problems.fingerprint != rl_problem_set(2).fingerprint
    assert {problem.section for problem in problems.test} == set(data("texts")["rl"])
    assert len(problems.test) >= 500
    assert all(problem.check(problem.answer) for problem in (*problems.development, *problems.test))


def test_what_training_asks_is_asked_neither_for_choosing_nor_in_the_test_nor_in_the_exam():
    """By what a question is about, not by its wording."""
    drawn = [draw_rl_question(random.Random(f"practice 1 {index}"), "train")[1] for index in range(3000)]
    asked = {question.key[:3] for question in drawn}
    problems = rl_problem_set(1)
    held_out = [{problem.messages for problem in part} for part in (problems.development, problems.test)]
    assert not held_out[0] & held_out[1]
    trained = {problems.train(index).messages for index in range(3000)}
    assert trained == {question.messages for question in drawn}
    assert not trained & (held_out[0] | held_out[1])
    for split in ("exam", "development"):
        assert not asked & {question.key[:3] for _, question in exam_questions(split)}


def test_development_never_meets_the_exam():
    exam = {question.messages for _, question in exam_questions("exam")}
    assert not exam & {problem.messages for problem in rl_problem_set(1).development}
