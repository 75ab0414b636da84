"""What the user said about themselves, and whether the assistant remembers it some turns later."""

import random
from collections.abc import Sequence
from typing import NamedTuple

from chatsmith.tasks.rules import Names
from chatsmith.text.chat import Conversation, Message
from chatsmith.worlds.kindergarten import vocabulary as v
from chatsmith.worlds.kindergarten.english import a, plural
from chatsmith.worlds.kindergarten.keys import Key, Split, draw
from chatsmith.worlds.kindergarten.question import Question, text_reply


class Person(NamedTuple):
    """What a user may tell about themselves."""

    name: str
    colour: str
    food: str
    pet: str
    pet_name: str
    place: str
    friend: str


class Remembered(NamedTuple):
    """One thing to remember: how it is told, acknowledged, asked for and answered. {…} are fields of Person."""

    relation: str
    told: tuple[str, ...]
    acknowledged: str
    asked: tuple[str, ...]
    reply: str


_NAME = Remembered(
    "name",
    ("My name is {name}.", "I am {name}.", "I am called {name}.", "People call me {name}."),
    "Nice to meet you, {name}.",
    ("What is my name?", "What am I called?", "Do you know my name?", "Tell me my name.", "Who am I?"),
    "Your name is {name}.",
)
_COLOUR = Remembered(
    "colour",
    (
        "My favourite colour is {colour}.",
        "The colour I like best is {colour}.",
        "I love the colour {colour}.",
    ),
    "What a nice colour {colour} is.",
    ("What is my favourite colour?", "Which colour do I like best?", "Tell me my favourite colour."),
    "Your favourite colour is {colour}.",
)
_FOOD = Remembered(
    "food",
    ("I like to eat {food}.", "My favourite food is {food}.", "I love {food}."),
    "I have heard that {food} taste good.",
    ("What do I like to eat?", "What is my favourite food?", "Which food do I love?"),
    "You like to eat {food}.",
)
_PET = Remembered(
    "pet",
    ("I have {a_pet} called {pet_name}.", "My {pet} is called {pet_name}.", "{pet_name} is my {pet}."),
    "Say hello to {pet_name} from me.",
    ("What is the name of my {pet}?", "What is my {pet} called?", "Tell me the name of my {pet}."),
    "Your {pet} is called {pet_name}.",
)
_PLACE = Remembered(
    "place",
    ("I live near the {place}.", "My house is near the {place}.", "My home is close to the {place}."),
    "It must be nice to live near the {place}.",
    ("Where do I live?", "Where is my house?", "Tell me where I live."),
    "You live near the {place}.",
)
_FRIEND = Remembered(
    "friend",
    ("My best friend is {friend}.", "{friend} is my best friend.", "I have a friend called {friend}."),
    "{friend} must be a good friend.",
    ("Who is my friend?", "What is the name of my friend?", "What is my friend called?"),
    "Your friend is called {friend}.",
)
_THINGS = (_NAME, _COLOUR, _FOOD, _PET, _PLACE, _FRIEND)
_SYSTEM_TOLD = (
    "The user is called {name} and lives near the {place}.",
    "You are talking to {name}, who lives near the {place}.",
)

# Something said in between, so that what is asked for does not stand in the last line.
_INTERLUDES = (
    *(("That is nice.", "Yes, it is."), ("It is a fine day.", "Yes, it is a lovely day.")),
    *(
        ("It is raining here.", "Then it is good to be inside."),
        ("I have a little time.", "Then let us talk."),
    ),
    *(("The sun is shining.", "That is good to hear."), ("Can you help me?", "Yes, I will try to help you.")),
)


def draw_memory_question(rng: random.Random, split: Split) -> Question:
    """The user tells one to three things about themselves, perhaps says something else, and asks for one.

    The key's subject is what is asked for and one other thing that was told: mostly the user's name.
    """
    asked = rng.choice((_NAME, _NAME, _FRIEND, *_THINGS))
    companion = _NAME if asked is not _NAME else rng.choice((_FRIEND, _FRIEND, *_THINGS[1:]))
    person = draw(rng, split, _person, lambda drawn: _subject(asked, companion, drawn))
    by_system = asked is _NAME and companion is _PLACE
    others = [thing for thing in _THINGS if thing is not asked and thing is not companion]
    told = [asked, companion, *rng.sample(others, rng.choice((0, 0, 1, 2)))]
    rng.shuffle(told)
    number = rng.randrange(len(asked.asked))
    before = _told_by_system(person, rng) if by_system else _told_by_user(told, person, rng)
    if rng.random() < 0.4:
        said, answered = rng.choice(_INTERLUDES)
        before = (*before, Message.of("user", said), Message.of("assistant", answered))
    prompt, value = _fill(asked.asked[number], person), _value(asked, person)
    return Question(
        key=Key(
            section="conversation",
            relation=f"remembered {asked.relation}",
            entities=_subject(asked, companion, person)[1:],
            template=f"remembered {number}",
        ),
        prompt=prompt,
        reply=text_reply(_fill(asked.reply, person)),
        answer=value,
        rule=Names((value,), _others(asked), prompt),
        before=before,
    )


def _told_by_user(told: Sequence[Remembered], person: Person, rng: random.Random) -> Conversation:
    """All in one turn, or a turn each."""
    if rng.random() < 0.6:
        text = " ".join(_fill(rng.choice(thing.told), person) for thing in told)
        text = rng.choice(("Hello. ", "Hi. ", "", "", "")) + text
        return (
            Message.of("user", text),
            Message.of("assistant", _fill(rng.choice(told).acknowledged, person)),
        )
    turns = (
        (
            Message.of("user", _fill(rng.choice(t.told), person)),
            Message.of("assistant", _fill(t.acknowledged, person)),
        )
        for t in told
    )
    return tuple(message for turn in turns for message in turn)


def _told_by_system(person: Person, rng: random.Random) -> Conversation:
    greeting = rng.choice(("Hello.", "Hi.", "Good morning."))
    return (
        Message.of("system", _fill(rng.choice(_SYSTEM_TOLD), person)),
        Message.of("user", greeting),
        Message.of("assistant", _fill("Hello, {name}. How can I help you?", person)),
    )


def _person(rng: random.Random) -> Person:
    name, friend = rng.sample(v.NAMES, 2)
    return Person(
        name=name,
        friend=friend,
        colour=rng.choice(v.COLOURS),
        food=plural(rng.choice(v.TREATS)),
        pet=rng.choice(v.PETS),
        pet_name=rng.choice(v.PET_NAMES),
        place=rng.choice(v.LANDMARKS),
    )


def _fill(template: str, person: Person) -> str:
    return template.format(**person._asdict(), a_pet=a(person.pet))


def _value(asked: Remembered, person: Person) -> str:
    return person.pet_name if asked is _PET else getattr(person, asked.relation)


def _subject(asked: Remembered, companion: Remembered, person: Person) -> tuple[str, ...]:
    return (asked.relation, _value(asked, person), companion.relation, _value(companion, person))


def _others(asked: Remembered) -> tuple[str, ...]:
    if asked is _FOOD:
        return tuple(plural(food) for food in v.TREATS)
    others = {
        "name": v.NAMES,
        "friend": v.NAMES,
        "colour": v.COLOURS,
        "pet": v.PET_NAMES,
        "place": v.LANDMARKS,
    }
    return others[asked.relation]
