"""The plots of the stories. Each takes a cast and tells what happens to it, with the questions it can answer."""

import random
from collections.abc import Callable
from dataclasses import dataclass

from chatsmith.worlds.kindergarten.english import a
from chatsmith.worlds.kindergarten.keys import Split, split_of
from chatsmith.worlds.kindergarten.stories import Ask, Cast, Story, draw_cast, noun_of
from chatsmith.worlds.kindergarten.table import lines
from chatsmith.worlds.kindergarten.vocabulary import her_or_his

_OPENINGS = lines("""
    One day
    One morning
    One evening
    One sunny day
    On a cold day
    On a warm day
    After breakfast
    After lunch
    Early one morning
    Last week
    Yesterday
    Long ago
""")
_WEATHER = lines("""
    It was a sunny day.
    It was a cold morning.
    It was a quiet evening.
    The sun was shining.
    The wind was blowing.
    It was raining a little.
    The air was fresh and clear.
    Snow was falling.
    It was a holiday.
    The birds were singing.
    It was a lazy afternoon.
    There was not a cloud to see.
""")
_FEELINGS = lines("""
    {hero} smiled.
    {friend} hummed a tune.
    {hero} took a deep breath.
    {friend} laughed.
    {hero} had a good time.
    {friend} sang a song.
    They talked for a while.
    Nobody was in a hurry.
""")
_CLOSINGS = lines("""
    It was a good day.
    Everyone was happy.
    That was a fine day.
    Soon it was time for supper.
    They were good friends.
    All was well.
    They slept well that night.
    What a day it was.
""")


@dataclass(frozen=True)
class Plot:
    """A plot: what to tell of a cast, and what of the cast decides the split."""

    name: str
    weight: int
    events: Callable[[Cast, random.Random], tuple[list[str], list[Ask]]]
    subjects: Callable[[Cast], tuple[tuple[str, ...], ...]]


def draw_story(rng: random.Random, split: Split) -> Story:
    """A story with a new cast and any plot."""
    plot = rng.choices(_PLOTS, _PLOT_WEIGHTS)[0]
    while True:
        cast = draw_cast(rng)
        if all(split_of("story", *subject) == split for subject in plot.subjects(cast)):
            return _tell(plot, cast, rng)


def _tell(plot: Plot, cast: Cast, rng: random.Random) -> Story:
    events, asks = plot.events(cast, rng)
    if rng.random() < 0.3:
        told = [rng.choice(_WEATHER), *events]
    else:
        told = [f"{rng.choice(_OPENINGS)}, {events[0]}", *events[1:]]
    if rng.random() < 0.5:
        feeling = rng.choice(_FEELINGS).format(hero=cast.hero, friend=cast.friend)
        told.insert(rng.randint(len(told) - 1, len(told)), feeling)
    if rng.random() < 0.5:
        told.append(rng.choice(_CLOSINGS))
    return Story(plot.name, tuple(told), tuple(asks), cast)


def _put_away(c: Cast, rng: random.Random) -> tuple[list[str], list[Ask]]:
    """Two things are put somewhere; perhaps one is moved."""
    first, second, third = c.spots
    verb = rng.choice(("put", "left", "hid") if not first.startswith("on") else ("put", "left", "laid"))
    hers = [f"{c.hero} had {c.a_thing}.", f"{c.hero} {verb} the {c.thing} {first}."]
    his = [f"{c.friend} had {c.a_other_thing}.", f"{c.friend} put the {c.other_thing} {second}."]
    events = rng.choice((hers + his, his + hers))
    asks = [_where(c.other_thing, c.theirs, second)]
    if rng.random() < 0.4:
        events.append(
            rng.choice(
                (
                    f"Later, {c.third} moved the {c.thing}. Now the {c.thing} was {third}.",
                    f"Then {c.third} took the {c.thing} and put the {c.thing} {third}.",
                    f"Later, {c.hero} put the {c.thing} {third}.",
                )
            )
        )
        return events, [*asks, _where(c.thing, c.own, third), _where(c.thing, c.own, third)]
    asks.append(_who(verb, f"the {c.thing} {first}", c.hero, c.own))
    return events, [*asks, _where(c.thing, c.own, first)]


def _gift(c: Cast, rng: random.Random) -> tuple[list[str], list[Ask]]:
    """A thing is given to a friend, and perhaps on."""
    hand = rng.choice(("gave", "handed"))
    events = [f"{c.hero} had {c.a_thing}.", f"{c.hero} {hand} the {c.thing} to {c.friend}."]
    if rng.random() < 0.4:
        events.insert(1, f"{c.third} had {c.a_other_thing}.")
    keeper = c.friend
    asks = [_colour(c), _who("gave", f"the {c.thing} to {c.friend}", c.hero, c.own)]
    if rng.random() < 0.5:
        events.append(f"Then {c.friend} {hand} the {c.thing} to {c.third}.")
        keeper = c.third
    else:
        events.append(
            rng.choice((f"{c.friend} said thank you.", f"{c.friend} was very happy.", f"{c.hero} was glad."))
        )
    holder = _who_has(c.thing, keeper, c.own)
    return events, [*asks, holder, holder]


def _lost(c: Cast, rng: random.Random) -> tuple[list[str], list[Ask]]:
    """A thing is lost, looked for in the wrong place, and found."""
    wrong, right, _ = c.places
    events = [
        rng.choice(
            (
                f"{c.hero} lost {c.a_thing}.",
                f"{c.hero} could not find {her_or_his(c.hero)} {c.colour} {c.thing}.",
            )
        ),
        rng.choice(
            (
                f"{c.hero} looked {wrong}, but the {c.thing} was not there.",
                f"First {c.hero} looked {wrong}, but there was nothing.",
            )
        ),
        rng.choice(
            (f"{c.friend} found the {c.thing} {right}.", f"At last {c.friend} found the {c.thing} {right}.")
        ),
    ]
    found = f"{c.friend} found the {c.thing} {right}."
    subject = c.own
    asks = [
        Ask(
            "where found",
            subject,
            (f"Where did {c.friend} find the {c.thing}?", f"Where was the {c.thing} found?"),
            found,
            noun_of(right),
            "places",
        ),
        _who("found", f"the {c.thing}", c.friend, subject),
        _colour(c),
    ]
    if rng.random() < 0.6:
        events.append(f"{c.friend} gave the {c.thing} back to {c.hero}.")
        asks.append(_who_has(c.thing, c.hero, subject))
    return events, asks


def _walk(c: Cast, rng: random.Random) -> tuple[list[str], list[Ask]]:
    """Two people go to different places; one goes on, and sees an animal."""
    first, second, third = c.places
    went = rng.choice(("was", "sat", "stood", "waited"))
    events = [f"{c.hero} {went} {first}.", f"{c.friend} {went} {second}."]
    rng.shuffle(events)
    sight = f"{c.hero} saw {a(c.animal)}."
    events.insert(rng.randint(1, 2), sight)
    asks = [
        Ask(
            "what seen",
            c.sight,
            (f"What did {c.hero} see?", f"Which animal did {c.hero} see?"),
            sight,
            c.animal,
            "animals",
        ),
        _where_is(c.friend, second, c.sight),
    ]
    last = first
    if rng.random() < 0.5:
        last = third
        events.append(
            rng.choice((f"Later that day, {c.hero} was {third}.", f"Soon after, {c.hero} sat {third}."))
        )
    return events, [*asks, _where_is(c.hero, last, c.sight)]


def _swap(c: Cast, rng: random.Random) -> tuple[list[str], list[Ask]]:
    """Two friends exchange what they have."""
    events = [f"{c.hero} had {c.a_thing}.", f"{c.friend} had {c.a_other_thing}."]
    rng.shuffle(events)
    events += [
        rng.choice(
            ("They wanted to swap.", f"{c.hero} asked {c.friend} to swap.", "The two friends made a deal.")
        ),
        f"{c.hero} gave the {c.thing} to {c.friend}.",
        f"{c.friend} gave the {c.other_thing} to {c.hero}.",
    ]
    return events, [
        _who_has(c.thing, c.friend, c.own),
        _who_has(c.other_thing, c.hero, c.theirs),
        _colour(c),
    ]


def _lunch(c: Cast, rng: random.Random) -> tuple[list[str], list[Ask]]:
    """Two friends meet and bring food."""
    place = c.places[0]
    brought, also = f"{c.hero} brought {c.treats}.", f"{c.friend} brought {c.other_treats}."
    events = [f"{c.hero} and {c.friend} met {place}.", *rng.sample((brought, also), 2)]
    if rng.random() < 0.5:
        events.append(
            rng.choice(("They had lunch together.", "They shared all they had.", "It tasted very good."))
        )
    mine, theirs = c.own_food, c.their_food
    return events, [
        Ask("what brought", mine, (f"What did {c.hero} bring?",), brought, c.treats, "treats"),
        Ask("what brought", theirs, (f"What did {c.friend} bring?",), also, c.other_treats, "treats"),
        _who("brought", c.treats, c.hero, mine),
        _who("brought", c.other_treats, c.friend, theirs),
        Ask(
            "where met",
            mine,
            ("Where did they meet?", f"Where did {c.hero} and {c.friend} meet?"),
            f"They met {place}.",
            noun_of(place),
            "places",
        ),
    ]


def _present(c: Cast, rng: random.Random) -> tuple[list[str], list[Ask]]:
    """One prepares a present for another."""
    place = c.places[0]
    events = [
        rng.choice((f"{c.hero} had a present for {c.friend}.", f"{c.friend} had a birthday.")),
        f"{c.hero} wrapped {c.a_thing} {place}.",
        rng.choice(
            (
                f"{c.friend} got the {c.thing} and said thank you.",
                f"{c.hero} gave the {c.thing} to {c.friend}.",
            )
        ),
    ]
    subject = c.own
    return events, [
        Ask(
            "what wrapped",
            subject,
            (f"What did {c.hero} wrap?",),
            f"{c.hero} wrapped {c.a_thing}.",
            c.thing,
            "things",
        ),
        Ask(
            "what got",
            subject,
            (f"What did {c.friend} get?",),
            f"{c.friend} got {c.a_thing}.",
            c.thing,
            "things",
        ),
        Ask(
            "where wrapped",
            subject,
            (f"Where did {c.hero} wrap the {c.thing}?", f"Where was the {c.thing} wrapped?"),
            f"{c.hero} wrapped the {c.thing} {place}.",
            noun_of(place),
            "places",
        ),
        _who_has(c.thing, c.friend, subject),
        _colour(c),
    ]


def _pet(c: Cast, rng: random.Random) -> tuple[list[str], list[Ask]]:
    """A pet hides and is found."""
    wrong, right, _ = c.places
    hid = f"{c.pet_name} hid {right}."
    events = [
        rng.choice(
            (
                f"{c.hero} had {a(c.pet)} called {c.pet_name}.",
                f"{c.hero} played with {a(c.pet)} called {c.pet_name}.",
            )
        ),
        hid,
        f"{c.friend} looked {wrong}, but {c.pet_name} was not there.",
        rng.choice(
            (f"Then {c.hero} called, and {c.pet_name} came out.", f"In the end {c.hero} found {c.pet_name}.")
        ),
    ]
    subject = c.own_pet
    return events, [
        Ask(
            "pet name",
            subject,
            (f"What was the {c.pet} called?", f"What was the name of the {c.pet}?"),
            f"The {c.pet} was called {c.pet_name}.",
            c.pet_name,
            "pet names",
        ),
        Ask(
            "where hid",
            subject,
            (f"Where did {c.pet_name} hide?", f"Where did the {c.pet} hide?"),
            hid,
            noun_of(right),
            "places",
        ),
        Ask(
            "what animal",
            subject,
            (f"What kind of animal was {c.pet_name}?",),
            f"{c.pet_name} was {a(c.pet)}.",
            c.pet,
            "animals",
        ),
    ]


# How often each plot is told. Where things are and who has them is the hardest to learn, so it comes most.
_PLOTS = (
    Plot("put away", 4, _put_away, lambda c: (c.own, c.theirs)),
    Plot("gift", 3, _gift, lambda c: (c.own,)),
    Plot("lost", 2, _lost, lambda c: (c.own,)),
    Plot("walk", 2, _walk, lambda c: (c.sight,)),
    Plot("swap", 1, _swap, lambda c: (c.own, c.theirs)),
    Plot("lunch", 2, _lunch, lambda c: (c.own_food, c.their_food)),
    Plot("present", 2, _present, lambda c: (c.own,)),
    Plot("pet", 2, _pet, lambda c: (c.own_pet,)),
)
_PLOT_WEIGHTS = tuple(plot.weight for plot in _PLOTS)


def _where(thing: str, subject: tuple[str, ...], where: str) -> Ask:
    prompts = (f"Where is the {thing}?", f"Where is the {thing} now?", f"Where can we find the {thing}?")
    return Ask("where is a thing", subject, prompts, f"The {thing} is {where}.", noun_of(where), "places")


def _where_is(person: str, where: str, subject: tuple[str, ...]) -> Ask:
    prompts = (f"Where is {person}?", f"Where is {person} now?", f"Where can we find {person}?")
    return Ask("where is a person", subject, prompts, f"{person} is {where}.", noun_of(where), "places")


def _who_has(thing: str, keeper: str, subject: tuple[str, ...]) -> Ask:
    prompts = (f"Who has the {thing}?", f"Who has the {thing} now?", f"Who has the {thing} in the end?")
    return Ask("who has", subject, prompts, f"{keeper} has the {thing}.", keeper, "people")


def _who(verb: str, rest: str, doer: str, subject: tuple[str, ...]) -> Ask:
    return Ask(f"who {verb}", subject, (f"Who {verb} {rest}?",), f"{doer} {verb} {rest}.", doer, "people")


def _colour(c: Cast) -> Ask:
    prompts = (f"What colour was the {c.thing}?", f"Which colour did the {c.thing} have?")
    return Ask("colour of a thing", c.own, prompts, f"The {c.thing} was {c.colour}.", c.colour, "colours")
