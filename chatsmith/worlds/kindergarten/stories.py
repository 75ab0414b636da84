"""Stories: who is in them, what was told, and what can be asked about them.

A story's questions are answered by its last state: who has a thing in the end, where it lies in the end. A cast
belongs to a split by what its plot is about, e.g. who has which thing: no such pair of the exam is ever that of
a training story. The plots stand in `plots`.
"""

import random
from dataclasses import dataclass
from functools import cache

from chatsmith.tasks.rules import Names
from chatsmith.text.chat import Conversation, Message
from chatsmith.worlds.kindergarten import vocabulary as v
from chatsmith.worlds.kindergarten.english import a, plural
from chatsmith.worlds.kindergarten.keys import Key
from chatsmith.worlds.kindergarten.question import Question, text_reply


@dataclass(frozen=True)
class Cast:
    """Who and what a story is about."""

    hero: str
    friend: str
    third: str
    thing: str
    """The hero's."""
    colour: str
    other_thing: str
    """The friend's."""
    other_colour: str
    places: tuple[str, str, str]
    """Three different places, with their prepositions."""
    spots: tuple[str, str, str]
    """Three different spots, with their prepositions."""
    pet: str
    """The hero's."""
    pet_name: str
    animal: str
    """One that the hero meets."""
    treats: str
    """Plural; the hero's."""
    other_treats: str
    """Plural; the friend's."""

    @property
    def own(self) -> tuple[str, ...]:
        """The hero with the hero's thing: what the splits go by, like the five below."""
        return (self.hero, self.thing)

    @property
    def theirs(self) -> tuple[str, ...]:
        """The friend with the friend's thing."""
        return (self.friend, self.other_thing)

    @property
    def sight(self) -> tuple[str, ...]:
        """The hero, the animal, and the friend who is elsewhere."""
        return (self.hero, self.animal, self.friend)

    @property
    def own_food(self) -> tuple[str, ...]:
        """The hero with the hero's food, and the place to eat it."""
        return (self.hero, self.treats, noun_of(self.places[0]))

    @property
    def their_food(self) -> tuple[str, ...]:
        """The friend with the friend's food, and the place to eat it."""
        return (self.friend, self.other_treats, noun_of(self.places[0]))

    @property
    def own_pet(self) -> tuple[str, ...]:
        """The hero, the pet and its name."""
        return (self.hero, self.pet, self.pet_name)

    @property
    def a_thing(self) -> str:
        """The hero's thing as it is first told of: "a red ball"."""
        return a(f"{self.colour} {self.thing}")

    @property
    def a_other_thing(self) -> str:
        """The friend's thing as it is first told of."""
        return a(f"{self.other_colour} {self.other_thing}")


@dataclass(frozen=True)
class Ask:
    """What can be asked about a story, and the answer."""

    relation: str
    subject: tuple[str, ...]
    """Who and what it is about; of the story's split."""
    prompts: tuple[str, ...]
    reply: str
    answer: str
    candidates: str
    """The name of what a wrong reply might name instead: "places", "people", ...."""


@dataclass(frozen=True)
class Story:
    """What was told, and what can be asked."""

    plot: str
    told: tuple[str, ...]
    """Its sentences, in order; some hold two."""
    asks: tuple[Ask, ...]
    cast: Cast

    @property
    def text(self) -> str:
        """The story as one paragraph."""
        return " ".join(self.told)

    @property
    def different_asks(self) -> list[Ask]:
        """What can be asked, each once; in `asks` the more important ones come twice."""
        return list({(ask.relation, ask.reply): ask for ask in self.asks}.values())


@cache
def _candidates() -> dict[str, tuple[str, ...]]:
    return {
        "places": tuple(v.WHERE),
        "people": v.NAMES,
        "things": v.OBJECTS,
        "colours": v.COLOURS,
        "animals": (*v.PETS, *v.WILD_ANIMALS),
        "pet names": v.PET_NAMES,
        "treats": (*v.TREATS, *map(plural, v.TREATS)),
    }


def draw_cast(rng: random.Random) -> Cast:
    """People, things and places for one story, of no particular split."""
    hero, friend, third = rng.sample(v.NAMES, 3)
    thing, other_thing = rng.sample(v.OBJECTS, 2)
    colour, other_colour = rng.sample(v.COLOURS, 2)
    treats, other_treats = map(plural, rng.sample(v.TREATS, 2))
    return Cast(
        hero=hero,
        friend=friend,
        third=third,
        thing=thing,
        colour=colour,
        other_thing=other_thing,
        other_colour=other_colour,
        places=_three(v.PLACES, rng),
        spots=_three(v.SPOTS, rng),
        pet=rng.choice(v.PETS),
        pet_name=rng.choice(v.PET_NAMES),
        animal=rng.choice(v.WILD_ANIMALS),
        treats=treats,
        other_treats=other_treats,
    )


def ask_about(
    story: Story, ask: Ask, rng: random.Random, *, layout: str, before: Conversation = ()
) -> Question:
    """The question `ask`, in one of its wordings, as it is put after the story was told in `before`."""
    number = rng.randrange(len(ask.prompts))
    prompt = ask.prompts[number]
    return Question(
        key=Key("stories", ask.relation, (*ask.subject, ask.answer), f"{story.plot}, {layout}, {number}"),
        prompt=prompt,
        reply=text_reply(ask.reply),
        answer=ask.answer,
        rule=Names((ask.answer,), _candidates()[ask.candidates], prompt),
        before=before,
    )


def story_question(story: Story, rng: random.Random) -> Question:
    """A question about `story`, together with the telling of it, in one of four layouts."""
    ask = rng.choice(story.asks)
    layout = rng.choice(("together", "lines", "told", "asked for"))
    if layout in ("together", "lines"):
        bare = ask_about(story, ask, rng, layout=layout)
        gap = " " if layout == "together" else "\n"
        return Question(bare.key, f"{story.text}{gap}{bare.prompt}", bare.reply, bare.answer, bare.rule)
    if layout == "told":
        opening = rng.choice(
            ("Here is a story.", "Read this story.", "Listen to this story.", "I know a story.")
        )
        said, answered = (
            f"{opening} {story.text}",
            rng.choice(("That is a nice story.", "Thank you for the story.")),
        )
    else:
        said, answered = rng.choice(request_wordings(story)), story.text
    return ask_about(
        story, ask, rng, layout=layout, before=(Message.of("user", said), Message.of("assistant", answered))
    )


def request_wordings(story: Story) -> tuple[str, ...]:
    """Ways to ask for a story like this one."""
    hero = story.cast.hero
    return (
        "Tell me a story.",
        "Please tell me a story.",
        f"Tell me a story about {hero}.",
        f"A story about {hero}, please.",
    )


def noun_of(where: str) -> str:
    """The place or spot without its preposition: "kitchen" of "in the kitchen"."""
    return where.split()[-1]


def _three(where: dict[str, str], rng: random.Random) -> tuple[str, str, str]:
    first, second, third = rng.sample(tuple(where.values()), 3)
    return first, second, third
