"""Who the model is: conversations made from a persona file, without a network and without another model.

    name = "Ada"
    maker = "the physics club of Lindau"
    manner = "friendly, brief and honest"
    facts = [
        "I have 12 million parameters.",
        { question = "When were you trained?", answer = "In November 2026." },
    ]

What people may ask and how it is answered is put together from the sentences of `identity.toml`, with greetings, system
messages and second turns; what a fact's own question asks is answered with its own answer.
"""

import random
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chatsmith.runtime.atomic import read_toml
from chatsmith.runtime.errors import UserError, did_you_mean
from chatsmith.tasks.benchmark_files import is_held_out
from chatsmith.text.chat import Conversation, Message

VERSION = 1
"""Raised when equal persona files no longer give equal conversations."""
CONVERSATIONS = 1_000
"""Made of one persona, those held out included: as many as the identity set of nanochat's speedrun had."""
_HELD_OUT_ONE_IN = 20
_SENTENCES = tomllib.loads(Path(__file__).with_name("identity.toml").read_text(encoding="utf-8"))


@dataclass(frozen=True)
class Persona:
    """The content of a persona file."""

    name: str
    maker: str
    manner: str = "helpful, honest and brief"
    facts: tuple[str, ...] = ()
    asked_facts: tuple[tuple[str, str], ...] = ()
    """Facts with a question of their own."""


def read_persona(path: Path) -> Persona:
    """Raises UserError, in one line, for a file that is missing, no TOML, or has unknown or wrong keys."""
    content = read_toml(path, "persona file")
    known = ("name", "maker", "manner", "facts")
    for key in content:
        if key not in known:
            raise UserError(f"the persona file {path} has an unknown key {key!r}{did_you_mean(key, known)}")
    facts = content.pop("facts", [])
    for key in ("name", "maker", *content):
        if not isinstance(content.get(key), str) or not content[key].strip():
            raise UserError(f"the persona file {path}: {key} must be a text in quotes")
    if not isinstance(facts, list) or not all(_is_fact(fact) for fact in facts):
        raise UserError(
            f"the persona file {path}: facts must be a list of texts, or of {{ question = …, answer = … }}"
        )
    plain = tuple(fact for fact in facts if isinstance(fact, str))
    asked = tuple((fact["question"], fact["answer"]) for fact in facts if isinstance(fact, dict))
    return Persona(**content, facts=plain, asked_facts=asked)


def _is_fact(fact: Any) -> bool:
    if isinstance(fact, dict) and fact.keys() == {"question", "answer"}:
        return all(isinstance(text, str) and text.strip() for text in fact.values())
    return isinstance(fact, str) and bool(fact.strip())


def identity_conversations(persona: Persona, split: str) -> Iterator[Conversation]:
    """Up to CONVERSATIONS different ones, in an order of no meaning; one in twenty is of "validation"."""
    rng = random.Random(f"identity {persona}")
    seen: set[Conversation] = set()
    for _ in range(20 * CONVERSATIONS):  # a persona of few words may not give as many
        talk = _conversation(persona, rng)
        if len(seen) == CONVERSATIONS:
            return
        is_new = talk not in seen
        seen.add(talk)
        if is_new and is_held_out(repr(talk), _HELD_OUT_ONE_IN) == (split == "validation"):
            yield talk


def _conversation(persona: Persona, rng: random.Random) -> Conversation:
    frame = _SENTENCES["frame"]
    values = {"name": persona.name, "maker": persona.maker, "manner": persona.manner}
    topics = (
        ["name", "maker", "manner"] + ["about"] * bool(persona.facts) + ["asked"] * bool(persona.asked_facts)
    )
    messages: list[Message] = []
    if rng.random() < 0.2:
        messages.append(Message.of("system", rng.choice(frame["system"]).format(**values)))
    for topic in rng.sample(topics, rng.choice((1, 1, 2))):
        if topic == "asked":
            question, answer = rng.choice(persona.asked_facts)
        else:
            question, answer = (rng.choice(_SENTENCES[topic][key]) for key in ("asked", "answered"))
            fact = rng.choice(persona.facts) if persona.facts else ""
            answer = answer.format(**values, fact=fact)
        style = rng.random()
        if style < 0.6:
            question = rng.choice(frame["before"]) + question + rng.choice(frame["after"])
        elif style < 0.75:  # as people type
            question = question.lower().rstrip(" ?.")
        messages += [Message.of("user", question), Message.of("assistant", answer)]
    return tuple(messages)
