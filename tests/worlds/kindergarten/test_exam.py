"""The exam: frozen, right, strict, and disjoint from training."""

from collections import Counter, defaultdict

import pytest

from chatsmith.tasks.rules import Names, normalise
from chatsmith.text.chat import check_conversation
from chatsmith.worlds.kindergarten.exam import (
    EXAM_FINGERPRINT,
    EXAM_VERSION,
    SECTIONS,
    NearestQuestion,
    exam_problems,
    exam_questions,
    fingerprint,
)

SPLITS = ("development", "exam")


def test_the_exam_is_frozen():
    assert EXAM_VERSION == 1
    assert fingerprint() == EXAM_FINGERPRINT, "the exam changed: raise EXAM_VERSION, and measure anew"


@pytest.mark.parametrize("split", SPLITS)
def test_every_section_has_at_least_a_hundred_different_items(split):
    problems = list(exam_problems(split))
    counts = Counter(problem.section for problem in problems)
    assert set(counts) == set(SECTIONS) and min(counts.values()) >= 100
    assert len({problem.id for problem in problems}) == len(problems)
    assert len({problem.messages for problem in problems}) == len(problems)


@pytest.mark.parametrize("split", SPLITS)
def test_the_model_reply_passes_and_neither_nothing_nor_an_echo_does(split):
    for identity, question in exam_questions(split):
        problem = question.as_problem(identity)
        check_conversation(problem.messages)
        assert problem.check(question.reply_text), f"{identity}: {question.reply_text} should pass"
        assert not problem.check(""), identity
        assert not problem.check(question.prompt), f"{identity}: an echo passes"
        assert not problem.check("I do not know."), identity


@pytest.mark.parametrize("split", SPLITS)
def test_a_reply_that_lists_all_candidates_never_passes(split):
    for identity, question in exam_questions(split):
        everything = [right for other in _of_relation(split, question.key.relation) for right in other]
        if isinstance(question.rule, Names):
            everything += question.rule.candidates
        assert not question.rule.accepts(" ".join(dict.fromkeys(everything))), identity


def test_no_question_of_the_exams_is_asked_in_training(conversations, documents):
    """By section, relation and entities: in no wording at all, which is more than the wordings differing."""
    asked = {key[:3] for text in (*conversations, *documents) for key in text.keys}
    assert {key[0] for key in asked} >= set(SECTIONS)
    development, exam = ({question.key[:3] for _, question in exam_questions(split)} for split in SPLITS)
    assert not exam & asked
    assert not development & asked
    assert not exam & development


def test_no_prompt_of_the_exams_is_said_in_training(conversations, documents):
    said = {message.text for each in conversations for message in each.content if message.role == "user"}
    texts = "\n".join(document.content for document in documents) + "\n"
    for split in SPLITS:
        for identity, question in exam_questions(split):
            if question.key.section != "stories" and not question.before:
                assert question.prompt not in said, identity
                assert f"{question.prompt}\n" not in texts, identity


def test_the_nearest_training_question_answers_at_most_a_third(conversations):
    messages = [conversation.content for conversation in conversations]
    for split in SPLITS:
        scores = _baseline_scores(messages, list(exam_problems(split)))
        assert scores["overall"] <= 0.35, scores
        assert max(scores.values()) <= 0.45, scores


def test_the_baseline_finds_a_question_it_has_seen(conversations):
    nearest = NearestQuestion(each.content for each in conversations)
    for conversation in conversations[:200]:
        if len(conversation.content) == 2 and conversation.kind != "telling":
            prompt, reply = conversation.content
            assert normalise(nearest.answer((prompt,))) == normalise(reply.text)


def _of_relation(split, relation):
    return [(question.answer,) for _, question in exam_questions(split) if question.key.relation == relation]


def _baseline_scores(conversations, problems):
    """The share of `problems` that the nearest question answers, by section and "overall"."""
    nearest = NearestQuestion(conversations)
    passed = defaultdict(list)
    for problem in problems:
        passed[problem.section].append(problem.check(nearest.answer(problem.messages)))
    passed["overall"] = [result for results in passed.values() for result in results]
    return {section: sum(results) / len(results) for section, results in passed.items()}
