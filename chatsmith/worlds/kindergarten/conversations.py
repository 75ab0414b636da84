"""The conversations for fine-tuning: one to three exchanges, with or without a system message and greetings."""

import random
from collections.abc import Callable
from typing import NamedTuple

from chatsmith.text.chat import Conversation, Message
from chatsmith.worlds.kindergarten import facts
from chatsmith.worlds.kindergarten.arithmetic import draw_arithmetic_question
from chatsmith.worlds.kindergarten.counting import draw_counting_question
from chatsmith.worlds.kindergarten.documents import passage
from chatsmith.worlds.kindergarten.english import plural, sentence
from chatsmith.worlds.kindergarten.instructions import draw_instruction
from chatsmith.worlds.kindergarten.keys import Key
from chatsmith.worlds.kindergarten.memory import draw_memory_question
from chatsmith.worlds.kindergarten.mixture import CONVERSATION_WEIGHTS
from chatsmith.worlds.kindergarten.plots import draw_story
from chatsmith.worlds.kindergarten.question import Question
from chatsmith.worlds.kindergarten.small_talk import (
    SYSTEM_MESSAGES,
    draw_greeting,
    draw_parting,
    draw_small_talk,
)
from chatsmith.worlds.kindergarten.spelling import draw_spelling_question
from chatsmith.worlds.kindergarten.stories import ask_about, request_wordings, story_question


class KeyedConversation(NamedTuple):
    """A conversation, its kind, and the keys of the questions it asks."""

    kind: str
    messages: Conversation
    keys: tuple[Key, ...]


class _Talk(NamedTuple):
    """Turns, and the keys of the questions in them."""

    messages: Conversation
    keys: tuple[Key, ...]


def draw_conversation(rng: random.Random) -> KeyedConversation:
    """A conversation of any kind, by the weights of `mixture`; a longer one mixes kinds."""
    kind = rng.choices(_KINDS, _WEIGHTS)[0]
    talks = [_MAKERS[kind](rng)]
    # What a user told in the system message or the first turn, and what a story told, must come first.
    while rng.random() < 0.3 and len(talks) < 3:
        talks.append(_MAKERS[rng.choices(_SHORT_KINDS, _SHORT_WEIGHTS)[0]](rng))
    begins_with_system = talks[0].messages[0].role == "system"
    if not begins_with_system:
        if rng.random() < 0.12:
            talks.insert(0, _talk(draw_greeting(rng)))
        if rng.random() < 0.25:
            talks.insert(0, _Talk((Message.of("system", rng.choice(SYSTEM_MESSAGES)),), ()))
    if rng.random() < 0.12:
        talks.append(_talk(draw_parting(rng)))
    messages = tuple(message for talk in talks for message in talk.messages)
    return KeyedConversation(kind, messages, tuple(key for talk in talks for key in talk.keys))


def _story(rng: random.Random) -> _Talk:
    """A story and one to three questions about it."""
    story = draw_story(rng, "train")
    first = story_question(story, rng)
    messages, keys = first.turns(), [first.key]
    more = [
        ask
        for ask in story.different_asks
        if (ask.relation, ask.reply) != (first.key.relation, first.reply_text)
    ]
    for ask in rng.sample(more, min(len(more), rng.choice((0, 1, 1, 2)))):
        question = ask_about(story, ask, rng, layout="again")
        messages, keys = (*messages, *question.turns()), [*keys, question.key]
    return _Talk(messages, tuple(keys))


def _telling(rng: random.Random) -> _Talk:
    """The assistant tells a story, what it knows about a topic, or whatever it knows.

    Facts of all splits are told, as they are in the documents; asked are only those of training.
    """
    kind = rng.random()
    if kind < 0.3:
        story = draw_story(rng, "train")
        return _Talk(_exchange(rng.choice(request_wordings(story)), story.text), ())
    if kind < 0.6:
        about = rng.choice(_TOPICS)
        wording = rng.choice(
            ("Tell me about {xs}.", "What do you know about {xs}?", "Tell me something about {xs}.")
        )
        told = passage(about, rng, facts.facts_about(about))
        return _Talk(_exchange(wording.format(xs=plural(about)), told), ())
    chosen = rng.sample(facts.all_facts(), rng.randint(3, 6))
    told = " ".join(sentence(fact.state(rng)) for fact in chosen)
    return _Talk(_exchange(rng.choice(_OPEN_REQUESTS), told), ())


def _asking(*makers: Callable[[random.Random], Question]) -> Callable[[random.Random], _Talk]:
    return lambda rng: _talk(rng.choice(makers)(rng))


def _talk(question: Question) -> _Talk:
    return _Talk(question.turns(), (question.key,))


def _exchange(said: str, answered: str) -> Conversation:
    return (Message.of("user", said), Message.of("assistant", answered))


_MAKERS: dict[str, Callable[[random.Random], _Talk]] = {
    "story": _story,
    "facts": _asking(lambda rng: facts.draw_fact_question(rng, "train")),
    "arithmetic": _asking(lambda rng: draw_arithmetic_question(rng, "train")),
    "counting": _asking(lambda rng: draw_counting_question(rng, "train")),
    "spelling": _asking(lambda rng: draw_spelling_question(rng, "train")),
    "instructions": _asking(lambda rng: draw_instruction(rng, "train")),
    "memory": _asking(lambda rng: draw_memory_question(rng, "train")),
    "small talk": _asking(lambda rng: draw_small_talk(rng, "train")),
    "telling": _telling,
}
_KINDS, _WEIGHTS = tuple(CONVERSATION_WEIGHTS), tuple(CONVERSATION_WEIGHTS.values())
# What may follow something else: all that needs nothing said before it.
_SHORT_WEIGHTS_BY_KIND = {
    kind: weight
    for kind, weight in CONVERSATION_WEIGHTS.items()
    if kind not in ("story", "memory", "telling")
}
_SHORT_KINDS, _SHORT_WEIGHTS = tuple(_SHORT_WEIGHTS_BY_KIND), tuple(_SHORT_WEIGHTS_BY_KIND.values())
_TOPICS = tuple(about for about in facts.topics() if len(facts.facts_about(about)) >= 2)
_OPEN_REQUESTS = (
    "Tell me some facts.",
    "Teach me something.",
    "What have you learned?",
    "Tell me what you know.",
)
