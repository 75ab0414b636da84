"""The exam's section "conversation": what the user said about themselves, and whether the assistant remembers it some
turns later; who the assistant is; and the small courtesies. The words stand in `small_talk.toml`.
"""

import random
from functools import cache
from typing import Any

from chatsmith.data.problems import Rule
from chatsmith.tasks.rules import Names
from chatsmith.text.chat import Conversation, Message
from chatsmith.worlds.kindergarten.questions import Question, ask, exchange
from chatsmith.worlds.kindergarten.world import Split, a, data, draw, plural, split_of, words


def draw_memory_question(rng: random.Random, split: Split) -> Question:
    """The user tells one to three things about themselves, perhaps says something else, and asks for one.

    The key's subject is what is asked for and one other thing that was told: mostly the user's name.
    """
    memory, turns = data("small_talk")["memory"], data("small_talk")["turns"]
    asked = rng.choice(("name", "name", "friend", *memory))
    companion = rng.choice(("friend", "friend", *list(memory)[1:])) if asked == "name" else "name"

    def value(thing: str, person: dict[str, str]) -> str:
        return memory[thing]["answer"].format_map(person)

    person = draw(rng, split, asked, _person, lambda p: (value(asked, p), companion, value(companion, p)))
    others = [thing for thing in memory if thing not in (asked, companion)]
    told = [asked, companion, *rng.sample(others, rng.choice((0, 0, 1, 2)))]
    rng.shuffle(told)
    family = memory[asked]
    number = rng.randrange(len(family["prompts"]))
    if (asked, companion) == ("name", "place"):
        greeting = rng.choice(turns["greetings"])
        system = Message.of("system", rng.choice(turns["system"]).format_map(person))
        before = (system, *exchange(greeting, turns["welcome"].format_map(person)))
    else:
        before = _told_by_user([memory[thing] for thing in told], person, rng)
    if rng.random() < 0.4:
        before = (*before, *exchange(*rng.choice(turns["interludes"])))
    entities = (value(asked, person), companion, value(companion, person))

    def rule(prompt: str, answer: str) -> Rule:
        return Names((answer,), words(family["candidates"]), prompt)

    relation = f"remembered {asked}"
    return ask(
        rng, "conversation", relation, entities, person, rule, family=family, number=number, before=before
    )


def _person(rng: random.Random) -> dict[str, str]:
    """What a user may tell about themselves."""
    name, friend = rng.sample(words("names"), 2)
    person = {"name": name, "friend": friend, "color": rng.choice(words("colors"))}
    person["food"] = plural(rng.choice(words("treats")))
    person["pet"] = rng.choice(words("pets"))
    person["a_pet"] = a(person["pet"])
    person["pet_name"] = rng.choice(words("pet_names"))
    person["place"] = rng.choice(words("landmarks"))
    return person


def _told_by_user(told: list[dict[str, Any]], person: dict[str, str], rng: random.Random) -> Conversation:
    """All in one turn, or a turn each."""
    if rng.random() < 0.6:
        text = " ".join(rng.choice(thing["told"]).format_map(person) for thing in told)
        text = rng.choice(data("small_talk")["turns"]["openings"]) + text
        return exchange(text, rng.choice(told)["acknowledged"].format_map(person))
    turns = (
        exchange(rng.choice(thing["told"]).format_map(person), thing["acknowledged"].format_map(person))
        for thing in told
    )
    return tuple(message for turn in turns for message in turn)


# ---- Small talk: who the assistant is, and the small courtesies; an opening or none, then a wording


def draw_small_talk(rng: random.Random, split: Split) -> Question:
    """Something about the assistant, or a courtesy, after an opening or none."""
    opening, relation, prompt = rng.choice(_openings_and_talks(split))
    candidates = words("names") if relation == "name" else _all_named()
    return _talk(rng, opening, relation, prompt, candidates, prompt)


def draw_greeting(rng: random.Random) -> Question:
    """A bare greeting and its reply; too simple to be examined."""
    said, reply = rng.choice(data("small_talk")["greetings"])
    return ask(rng, "greeting", "greeting", (said,), {}, family={"prompts": [said], "reply": reply}, number=0)


def draw_parting(rng: random.Random) -> Question:
    """A word of thanks or farewell, with no opening before it."""
    relation = rng.choice(("thanks", "goodbye"))
    bare = [each for each in _openings_and_talks("train") if each[:2] == ("", relation)]
    return _talk(rng, *rng.choice(bare))


def _talk(
    rng: random.Random,
    opening: str,
    relation: str,
    prompt: str,
    candidates: tuple[str, ...] = (),
    question: str = "",
) -> Question:
    entry = data("small_talk")["talks"][relation]
    family = {"prompts": [f"{opening} {prompt}".lstrip()], "reply": entry["reply"]}
    rule = Names((entry["named"],), candidates, question)
    entities = (opening, prompt)
    return ask(rng, "conversation", relation, entities, {}, lambda *_: rule, family=family, number=0)


@cache
def _all_named() -> tuple[str, ...]:
    return tuple(entry["named"] for entry in data("small_talk")["talks"].values())


@cache
def _openings_and_talks(split: Split) -> tuple[tuple[str, str, str], ...]:
    """All of `split`: the opening, what the talk is about, and the prompt."""
    return tuple(
        (opening, relation, prompt)
        for relation, entry in data("small_talk")["talks"].items()
        for opening in data("small_talk")["openings"]
        for prompt in entry["prompts"]
        if split_of("talk", opening, prompt) == split
    )
