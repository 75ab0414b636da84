"""What is learned: documents for pretraining and conversations for fine-tuning, and the kindergarten, which has both.

Documents are stories, passages, facts, lessons in questions and answers, and spelling pages. Statements cover every
fact and word of the world; questions are those of training only. Conversations have one to three exchanges, with or
without a system message and greetings. How many there are of each kind is set in `texts.toml`.
"""

import hashlib
import random
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from itertools import chain
from typing import TypeVar

from chatsmith.data.problems import Problem
from chatsmith.runtime.errors import UserError
from chatsmith.text.chat import Conversation, Message
from chatsmith.worlds.kindergarten.exam import MAKERS, exam_problems
from chatsmith.worlds.kindergarten.questions import Question, exchange, spelled
from chatsmith.worlds.kindergarten.small_talk import draw_greeting, draw_parting
from chatsmith.worlds.kindergarten.stories import ask_about, draw_story, requested, story_question
from chatsmith.worlds.kindergarten.world import (
    Relation,
    a,
    all_facts,
    capitalize,
    data,
    number_word,
    plural,
    relations,
    sentence,
    spelling_words,
    topics,
    weights,
    words,
)

Content = TypeVar("Content", str, Conversation)
# One text in so many may only be used for validation, whose share of what is generated is set by the caller.
_VALIDATION_EVERY = 16


class Kindergarten:
    """A small world in plain English that a small model can learn in minutes. Everything is generated when asked for.

    Item number i of a split depends on the seed, the split and i alone, not on how many are made. No text of training
    is ever one of validation: which of the two a text may appear in is decided by a hash of it.
    """

    name = "kindergarten"

    def __init__(
        self, seed: int = 1, documents: int = 40_000, conversations: int = 40_000, validation: int = 500
    ) -> None:
        """`documents` and `conversations` count those of training; of validation there are `validation` each.

        The seed chooses the texts; the exam is the same for all seeds. Raises UserError for counts below one.
        """
        counts = {"documents": documents, "conversations": conversations, "validation": validation}
        for name, count in counts.items():
            if count < 1:
                raise UserError(f"kindergarten: {name} must be at least 1, not {count}")
        self.seed = seed
        self.num_documents = documents
        self.num_conversations = conversations
        self.num_validation = validation

    def documents(self, split: str) -> Iterator[str]:
        """Texts for pretraining; `split` is "train" or "validation"."""
        return self._texts(split, "document", self.num_documents, draw_document, str)

    def conversations(self, split: str) -> Iterator[Conversation]:
        """Conversations for fine-tuning; `split` is "train" or "validation"."""
        return self._texts(split, "conversation", self.num_conversations, draw_conversation, _transcript)

    def problems(self, split: str) -> Iterator[Problem]:
        """The items of the "exam", or those of "development" to tune on."""
        if split not in ("development", "exam"):
            raise UserError(f'kindergarten has no problems "{split}"; there are "development" and "exam"')
        return exam_problems(split)

    def _texts(
        self,
        split: str,
        kind: str,
        for_training: int,
        draw: Callable[[random.Random], Content],
        as_text: Callable[[Content], str],
    ) -> Iterator[Content]:
        """The texts of a split: those that a draw gives, without those that belong to the other one."""
        if split not in ("train", "validation"):
            raise UserError(f'kindergarten has no texts "{split}"; there are "train" and "validation"')
        for index in range(for_training if split == "train" else self.num_validation):
            rng = random.Random(f"{self.seed} {split} {kind} {index}")
            text = draw(rng)
            while _is_for_validation(as_text(text)) != (split == "validation"):
                text = draw(rng)
            yield text


def _is_for_validation(text: str) -> bool:
    digest = hashlib.blake2b(text.encode(), digest_size=4).digest()
    return int.from_bytes(digest, "big") % _VALIDATION_EVERY == 0


def _transcript(messages: Conversation) -> str:
    """A conversation as one text, for hashing, without system messages: another one makes no new conversation."""
    return "\n".join(f"{message.role}: {message.text}" for message in messages if message.role != "system")


def _said(rng: random.Random, name: str) -> str:
    """One of the templates called `name`."""
    return rng.choice(data("texts")["templates"][name])


# ---- Documents


def draw_document(rng: random.Random) -> str:
    """A document of any kind, by its weights."""
    return _DOCUMENT_MAKERS[rng.choices(*weights("texts", "documents"))[0]](rng)


def _story(rng: random.Random) -> str:
    story = draw_story(rng, "train")
    return story.text if rng.random() < 0.5 else f"{story.text}\n\n{draw_story(rng, 'train').text}"


def _story_questions(rng: random.Random) -> str:
    story = draw_story(rng, "train")
    different = list(story.different_asks().values())
    asks = rng.sample(different, min(len(different), rng.randint(2, 3)))
    told = _dialogue([ask_about(story, ask, rng) for ask in asks], rng)
    return f"{story.text}\n\n{told}"


def _topic(rng: random.Random) -> str:
    return "\n\n".join(_about(topic, rng) for topic in rng.sample(tuple(topics()), rng.randint(1, 3)))


def _about(topic: str, rng: random.Random) -> str:
    forms = {"xs": plural(topic), "ax": a(topic)}
    told = [_passage(topic, rng)]
    if rng.random() < 0.5:
        told.insert(0, _said(rng, "topic_openings").format_map(forms))
    if rng.random() < 0.3:
        told.append(_said(rng, "topic_closings").format_map(forms))
    return " ".join(told)


def _passage(topic: str, rng: random.Random) -> str:
    """What is known about a noun, as a paragraph without opening; after the noun it may say "it"."""
    told, subject, known = [], "", topics()[topic]
    for fact in rng.sample(known, min(len(known), rng.randint(3, 6))):
        own = fact.relation.own_statements
        if not own or rng.random() < 0.2:
            template, subject = rng.choice(fact.relation.statements), ""
        else:
            template = own[0] if rng.random() < 0.5 else rng.choice(own)
            subject = "it" if subject and rng.random() < 0.5 else rng.choice((a(topic), f"the {topic}"))
        told.append(sentence(fact.say(template, subject)))
    return " ".join(told)


def _collection(rng: random.Random) -> str:
    known = rng.choice(_relations_by_size()).facts
    chosen = rng.sample(known, min(len(known), rng.randint(5, 12)))
    if rng.random() < 0.5:  # the same wording throughout, as in a table
        template = rng.choice(chosen[0].relation.statements)
        told = [sentence(fact.say(template)) for fact in chosen]
    else:
        told = [sentence(fact.state(rng)) for fact in chosen]
    return rng.choice((" ", " ", "\n")).join(told)


@cache
def _relations_by_size() -> tuple[Relation, ...]:
    return tuple(relation for relation in relations() for _ in range(-(-len(relation.known) // 5)))


def _facts(rng: random.Random) -> str:
    told = []
    for fact in rng.sample(all_facts(), rng.randint(6, 12)):
        stated = fact.state(rng)
        if rng.random() < 0.35 and ":" not in stated:
            name, friend = rng.sample(words("names"), 2)
            telling = _said(rng, "tellings")
            told.append(telling.format(name=name, friend=friend, fact=stated, Fact=capitalize(stated)))
        else:
            told.append(sentence(stated))
    return " ".join(told)


def _lesson(rng: random.Random) -> str:
    lessons, shares = weights("texts", "lessons")
    main = rng.choices(lessons, shares)[0]
    subjects = [main if rng.random() < 0.8 else rng.choice(lessons) for _ in range(rng.randint(4, 8))]
    return _dialogue([MAKERS[subject](rng, "train") for subject in subjects], rng)


def _dialogue(questions: list[Question], rng: random.Random) -> str:
    """Questions and answers, a line each; a calculation is written out before its answer."""
    ask_mark, answer_mark = _said(rng, "dialogues")
    lines = []
    for question in questions:
        *call, reply = (part.text for part in question.reply)
        computed = f"{' = '.join(call)}\n" if call else ""
        lines.append(f"{ask_mark}{question.prompt}\n{answer_mark}{computed}{reply}")
    return "\n".join(lines)


def _spelling(rng: random.Random) -> str:
    return " ".join(_spelling_statement(rng) for _ in range(rng.randint(6, 14)))


def _spelling_statement(rng: random.Random) -> str:
    """A sentence that tells how some word, of whatever split, is spelled, or begins, or ends."""
    word = rng.choice(spelling_words())
    kind = rng.random()
    templates = data("texts")["templates"]
    if kind < 0.18:
        template = templates["first_letter"]
    elif kind < 0.36:
        template = templates["last_letter"]
    else:
        template = templates["spellings"][0] if rng.random() < 0.5 else _said(rng, "spellings")
    return template.format_map(spelled(word))


def _counting_up(rng: random.Random) -> str:
    start, step, length = rng.randint(0, 90), rng.choice((1, 1, 1, 2, 5, 10)), rng.randint(6, 12)
    row = ", ".join(str(start + step * number) for number in range(length))
    opening = "Let us count." if step == 1 else f"Let us count in steps of {number_word(step)}."
    return f"{opening} {row}."


_DOCUMENT_MAKERS: dict[str, Callable[[random.Random], str]] = {
    "story": _story,
    "story questions": _story_questions,
    "topic": _topic,
    "collection": _collection,
    "facts": _facts,
    "lesson": _lesson,
    "spelling": _spelling,
    "counting up": _counting_up,
}


# ---- Conversations


def draw_conversation(rng: random.Random) -> Conversation:
    """A conversation of any kind, by its weights; a longer one mixes kinds."""
    kind = rng.choices(*weights("texts", "conversations"))[0]
    talks = [_draw_talk(rng, kind)]
    while rng.random() < 0.3 and len(talks) < 3:
        # What a user told in the system message or the first turn, and what a story told, must come first.
        later = rng.choices(*weights("texts", "conversations", ("story", "memory", "telling")))[0]
        talks.append(_draw_talk(rng, later))
    if talks[0][0].role != "system":
        if rng.random() < 0.12:
            talks.insert(0, _asked([draw_greeting(rng)]))
        if rng.random() < 0.25:
            talks.insert(0, (Message.of("system", _said(rng, "system")),))
    if rng.random() < 0.12:
        talks.append(_asked([draw_parting(rng)]))
    return tuple(chain.from_iterable(talks))


def _asked(questions: Sequence[Question]) -> Conversation:
    return tuple(message for question in questions for message in question.turns())


def _draw_talk(rng: random.Random, kind: str) -> Conversation:
    if kind == "story":
        return _story_talk(rng)
    if kind == "telling":
        return _telling(rng)
    draw_question = rng.choice([MAKERS[kind]])  # even a choice of one moves the generator on
    return _asked([draw_question(rng, "train")])


def _story_talk(rng: random.Random) -> Conversation:
    """A story and one to three questions about it."""
    story = draw_story(rng, "train")
    questions = [story_question(story, rng)]
    asked = (questions[0].key.relation, questions[0].reply_text)
    more = [ask for what, ask in story.different_asks().items() if what != asked]
    for ask in rng.sample(more, min(len(more), rng.choice((0, 1, 1, 2)))):
        questions.append(ask_about(story, ask, rng))
    return _asked(questions)


def _telling(rng: random.Random) -> Conversation:
    """The assistant tells a story, what it knows about a topic, or whatever it knows.

    Facts of all splits are told, as they are in the documents; asked are only those of training.
    """
    kind = rng.random()
    if kind < 0.3:
        return requested(draw_story(rng, "train"), rng)
    if kind < 0.6:
        topic = rng.choice(tuple(topics()))
        request = _said(rng, "topic_requests").format(xs=plural(topic))
        return exchange(request, _passage(topic, rng))
    told = [sentence(fact.state(rng)) for fact in rng.sample(all_facts(), rng.randint(3, 6))]
    return exchange(_said(rng, "facts_requests"), " ".join(told))
