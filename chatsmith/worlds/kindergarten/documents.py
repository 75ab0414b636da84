"""The documents for pretraining: stories, passages, facts, lessons in questions and answers, spelling pages.

Statements cover every fact and word of the world. Questions are those of training only.
"""

import random
from collections.abc import Callable
from typing import NamedTuple

from chatsmith.worlds.kindergarten import facts
from chatsmith.worlds.kindergarten.arithmetic import draw_arithmetic_question
from chatsmith.worlds.kindergarten.counting import draw_counting_question
from chatsmith.worlds.kindergarten.english import a, capitalise, number_word, plural, sentence
from chatsmith.worlds.kindergarten.instructions import draw_instruction
from chatsmith.worlds.kindergarten.keys import Key
from chatsmith.worlds.kindergarten.mixture import DOCUMENT_WEIGHTS, LESSON_WEIGHTS
from chatsmith.worlds.kindergarten.plots import draw_story
from chatsmith.worlds.kindergarten.question import Question, QuestionMaker
from chatsmith.worlds.kindergarten.relation import Fact
from chatsmith.worlds.kindergarten.spelling import draw_spelling_question, spelling_statement
from chatsmith.worlds.kindergarten.stories import ask_about
from chatsmith.worlds.kindergarten.table import lines
from chatsmith.worlds.kindergarten.vocabulary import NAMES


class Document(NamedTuple):
    """A text, its kind, and the keys of the questions it asks."""

    kind: str
    text: str
    keys: tuple[Key, ...]


_QUESTION_MAKERS: dict[str, QuestionMaker] = {
    "facts": facts.draw_fact_question,
    "arithmetic": draw_arithmetic_question,
    "counting": draw_counting_question,
    "spelling": draw_spelling_question,
    "instructions": draw_instruction,
}
_TOPIC_OPENINGS = lines("""
    Let us talk about {xs}.
    This is a page about {xs}.
    Here is what we know about {xs}.
    Today we read about {xs}.
    There is much to say about {xs}.
    Do you know {xs}? Here is more about them.
""")
_TOPIC_CLOSINGS = lines("""
    That is what we know about {xs}.
    Now you know more about {xs}.
    So much for {xs}.
    It is good to know about {xs}.
    Remember this when you see {ax}.
""")
_TELLINGS = lines("""
    {name} says that {fact}.
    {name} knows that {fact}.
    {name} told {friend} that {fact}.
    Everyone knows that {fact}.
    In the book we read that {fact}.
    Remember that {fact}.
    It is true that {fact}.
    "{Fact}," said {name}.
    We learned that {fact}.
""")
_QUESTION_MARKS = (("Question: ", "Answer: "), ("Q: ", "A: "), ("Child: ", "Teacher: "), ("", ""))


def draw_document(rng: random.Random) -> Document:
    """A document of any kind, by the weights of `mixture`."""
    kind = rng.choices(_KINDS, _WEIGHTS)[0]
    return _MAKERS[kind](rng)


def passage(about: str, rng: random.Random, known: tuple[Fact, ...]) -> str:
    """What `known` holds about one noun, as a paragraph without opening; after the noun it may say "it"."""
    told, subject = [], ""
    for fact in rng.sample(known, min(len(known), rng.randint(3, 6))):
        own = [statement for statement in fact.relation.statements if statement.startswith("{s} ")]
        if not own or rng.random() < 0.2:
            template, subject = rng.choice(fact.relation.statements), ""
        else:
            template = own[0] if rng.random() < 0.5 else rng.choice(own)
            subject = "it" if subject and rng.random() < 0.5 else rng.choice((a(about), f"the {about}"))
        told.append(sentence(fact.say(template, subject)))
    return " ".join(told)


def _story(rng: random.Random) -> Document:
    story = draw_story(rng, "train")
    if rng.random() < 0.5:
        return Document("story", story.text, ())
    return Document("story", f"{story.text}\n\n{draw_story(rng, 'train').text}", ())


def _story_questions(rng: random.Random) -> Document:
    story = draw_story(rng, "train")
    asks = rng.sample(story.different_asks, min(len(story.different_asks), rng.randint(2, 3)))
    questions = [ask_about(story, ask, rng, layout="document") for ask in asks]
    return Document("story questions", f"{story.text}\n\n{_dialogue(questions, rng)}", _keys(questions))


def _topic(rng: random.Random) -> Document:
    paragraphs = [_about(topic, rng) for topic in rng.sample(facts.topics(), rng.randint(1, 3))]
    return Document("topic", "\n\n".join(paragraphs), ())


def _about(topic: str, rng: random.Random) -> str:
    words = {"xs": plural(topic), "ax": a(topic)}
    told = [passage(topic, rng, facts.facts_about(topic))]
    if rng.random() < 0.5:
        told.insert(0, rng.choice(_TOPIC_OPENINGS).format(**words))
    if rng.random() < 0.3:
        told.append(rng.choice(_TOPIC_CLOSINGS).format(**words))
    return " ".join(told)


def _collection(rng: random.Random) -> Document:
    known = facts.facts_in(rng.choice(_RELATIONS_BY_SIZE))
    chosen = rng.sample(known, min(len(known), rng.randint(5, 12)))
    if rng.random() < 0.5:  # the same wording throughout, as in a table
        template = rng.choice(chosen[0].relation.statements)
        told = [sentence(fact.say(template)) for fact in chosen]
    else:
        told = [sentence(fact.state(rng)) for fact in chosen]
    return Document("collection", rng.choice((" ", " ", "\n")).join(told), ())


def _facts(rng: random.Random) -> Document:
    told = []
    for fact in rng.sample(facts.all_facts(), rng.randint(6, 12)):
        stated = fact.state(rng)
        if rng.random() < 0.35 and ":" not in stated:
            name, friend = rng.sample(NAMES, 2)
            telling = rng.choice(_TELLINGS)
            told.append(telling.format(name=name, friend=friend, fact=stated, Fact=capitalise(stated)))
        else:
            told.append(sentence(stated))
    return Document("facts", " ".join(told), ())


def _lesson(rng: random.Random) -> Document:
    about = rng.choices(_LESSONS, _LESSON_WEIGHTS)[0]
    makers = [
        _QUESTION_MAKERS[about if rng.random() < 0.8 else rng.choice(_LESSONS)]
        for _ in range(rng.randint(4, 8))
    ]
    questions = [maker(rng, "train") for maker in makers]
    return Document("lesson", _dialogue(questions, rng), _keys(questions))


def _spelling(rng: random.Random) -> Document:
    return Document("spelling", " ".join(spelling_statement(rng) for _ in range(rng.randint(6, 14))), ())


def _counting_up(rng: random.Random) -> Document:
    start, step, length = rng.randint(0, 90), rng.choice((1, 1, 1, 2, 5, 10)), rng.randint(6, 12)
    row = ", ".join(str(start + step * number) for number in range(length))
    opening = "Let us count." if step == 1 else f"Let us count in steps of {number_word(step)}."
    return Document("counting up", f"{opening} {row}.", ())


def _dialogue(questions: list[Question], rng: random.Random) -> str:
    """Questions and answers, a line each; a calculation is written out before its answer."""
    ask_mark, answer_mark = rng.choice(_QUESTION_MARKS)
    return "\n".join(
        f"{ask_mark}{question.prompt}\n{answer_mark}{_written(question)}" for question in questions
    )


def _written(question: Question) -> str:
    if question.reply[0].kind == "text":
        return question.reply_text
    expression, output, *_ = (part.text for part in question.reply)
    return f"{expression} = {output}\n{question.reply_text}"


def _keys(questions: list[Question]) -> tuple[Key, ...]:
    return tuple(question.key for question in questions)


_MAKERS: dict[str, Callable[[random.Random], Document]] = {
    "story": _story,
    "story questions": _story_questions,
    "topic": _topic,
    "collection": _collection,
    "facts": _facts,
    "lesson": _lesson,
    "spelling": _spelling,
    "counting up": _counting_up,
}
_KINDS, _WEIGHTS = tuple(DOCUMENT_WEIGHTS), tuple(DOCUMENT_WEIGHTS.values())
_LESSONS, _LESSON_WEIGHTS = tuple(LESSON_WEIGHTS), tuple(LESSON_WEIGHTS.values())
_RELATIONS_BY_SIZE = [relation for relation in facts.RELATIONS for _ in range(-(-len(relation.facts) // 5))]
