"""Stories: who is in them, what happens, and what can be asked about it.

A story's questions are answered by its last state: who has a thing in the end, where it lies in the end. Its plot is
a script of `stories.toml`. A cast belongs to a split by what its plot is about.
"""

import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from chatsmith.data.problems import Rule
from chatsmith.tasks.rules import Names
from chatsmith.text.chat import Conversation
from chatsmith.worlds.kindergarten.questions import Question, ask, exchange
from chatsmith.worlds.kindergarten.world import (
    Split,
    a,
    data,
    is_girl,
    noun_of,
    plural,
    split_of,
    weights,
    words,
)

Cast = dict[str, str]
"""What fills in the templates of a story: see `draw_cast`."""


Ask = dict[str, Any]
"""What a plot lets one ask, as a script says it: `ask` names one of the questions of `stories.toml`, `about` the roles
that are asked about (a cast of the exam has them in no training story), the rest fills in the question's templates."""


class Story(NamedTuple):
    """What was told, and what can be asked."""

    text: str
    """The story as one paragraph."""
    asks: tuple[Ask, ...]
    cast: Cast

    def different_asks(self) -> dict[tuple[str, str], Ask]:
        """What can be asked, by relation and reply: each once; in `asks` the more important ones come twice."""
        found = {}
        for asked in self.asks:
            family, values = self.filled(asked)
            relation = family.get("relation", asked["ask"]).format_map(values)
            found[relation, family["reply"].format_map(values)] = asked
        return found

    def filled(self, asked: Ask) -> tuple[dict[str, Any], dict[str, str]]:
        """The family of a question, and what fills in its templates."""
        given = {name: text.format_map(self.cast) for name, text in asked.items() if name != "about"}
        return data("stories")["questions"][asked["ask"]], self.cast | given


_ROLES = (
    *("hero", "friend", "third", "thing", "other_thing", "color", "other_color", "treats", "other_treats"),
    *("place1", "place2", "place3", "spot1", "spot2", "spot3", "pet", "pet_name", "animal"),
)


def draw_cast(rng: random.Random) -> Cast:
    """People, things and places for one story, of no particular split.

    The hero has `thing` of `color`, `treats` and a pet, and meets `animal`; the friend has `other_thing` and
    `other_treats`; there is a third one. Places and spots have their prepositions; `noun1` is the first place without.
    """
    sample, choice = rng.sample, rng.choice
    people, things = sample(words("names"), 3), sample(words("objects"), 2)
    colors, treats = sample(words("colors"), 2), sample(words("treats"), 2)
    places, spots = sample(words("places"), 3), sample(words("spots"), 3)
    pet, pet_name, animal = choice(words("pets")), choice(words("pet_names")), choice(words("wild_animals"))
    drawn = (*people, *things, *colors, *map(plural, treats), *places, *spots, pet, pet_name, animal)
    cast = dict(zip(_ROLES, drawn, strict=True))
    cast["noun1"] = noun_of(cast["place1"])
    return cast


def draw_story(rng: random.Random, split: Split) -> Story:
    """A story with a new cast and any plot."""
    plot = data("stories")["plots"][rng.choices(*weights("stories", "plots"))[0]]
    while True:
        cast = draw_cast(rng)
        if all(split_of("story", *map(cast.__getitem__, about)) == split for about in plot["about"]):
            return _tell(plot, cast, rng)


def _tell(plot: dict[str, Any], cast: Cast, rng: random.Random) -> Story:
    """A plot, with what else stories have: an opening or the weather, a feeling, a closing."""
    pieces = data("stories")
    cast["her"] = "her" if is_girl(cast["hero"]) else "his"
    cast["a_thing"] = a(f"{cast['color']} {cast['thing']}")
    cast["a_other_thing"] = a(f"{cast['other_color']} {cast['other_thing']}")
    cast["a_pet"], cast["an_animal"] = a(cast["pet"]), a(cast["animal"])
    if "verbs" in plot:
        lies_on = "verbs_on" in plot and cast["spot1"].startswith("on")
        cast["verb"] = rng.choice(plot["verbs_on" if lies_on else "verbs"])
    told: list[str] = []
    asks: list[Ask] = []
    _play(plot["script"], rng, told, asks)
    if rng.random() < 0.3:
        told.insert(0, rng.choice(pieces["weather"]))
    else:
        told[0] = f"{rng.choice(pieces['openings'])}, {told[0]}"
    if rng.random() < 0.5:
        feeling = rng.choice(pieces["feelings"])
        told.insert(rng.randint(len(told) - 1, len(told)), feeling)
    if rng.random() < 0.5:
        told.append(rng.choice(pieces["closings"]))
    return Story(" ".join(told).format_map(cast), tuple(asks), cast)


def _play(script: Sequence[Any], rng: random.Random, told: list[str], asks: list[Ask]) -> None:
    """Add what a script tells to `told`, still as templates, and what it lets one ask to `asks`."""
    for beat in script:
        if isinstance(beat, str):
            told.append(beat)
        elif isinstance(beat, list):
            chosen = rng.choice(beat)
            told += [chosen] if isinstance(chosen, str) else chosen
        elif "ask" in beat:
            asks.append(beat)
        elif "chance" in beat:
            _play(beat["then"] if rng.random() < beat["chance"] else beat.get("else", ()), rng, told, asks)
        elif "shuffled" in beat:
            told += rng.sample(beat["shuffled"], len(beat["shuffled"]))
        else:
            told.insert(rng.randint(1, len(told)), beat["somewhere"])


def ask_about(story: Story, asked: Ask, rng: random.Random, *, before: Conversation = ()) -> Question:
    """The question `asked`, in one of its wordings, as it is put after the story was told in `before`."""
    family, values = story.filled(asked)
    answer = noun_of(family["answer"].format_map(values))
    entities = (*(story.cast[role] for role in asked["about"]), answer)

    def rule(prompt: str, answer: str) -> Rule:
        return Names((answer,), words(*family["candidates"]), prompt)

    family = {**family, "answer": answer}
    return ask(rng, "stories", asked["ask"], entities, values, rule, family=family, before=before)


def story_question(story: Story, rng: random.Random) -> Question:
    """A question about `story`, together with the telling of it, in one of four layouts."""
    asked = rng.choice(story.asks)
    layout = rng.choice(("together", "lines", "told", "asked for"))
    if layout in ("together", "lines"):
        bare = ask_about(story, asked, rng)
        gap = " " if layout == "together" else "\n"
        return replace(bare, prompt=f"{story.text}{gap}{bare.prompt}")
    if layout == "told":
        announcement = rng.choice(data("stories")["announcements"])
        before = exchange(f"{announcement} {story.text}", rng.choice(data("stories")["thanks"]))
    else:
        before = requested(story, rng)
    return ask_about(story, asked, rng, before=before)


def requested(story: Story, rng: random.Random) -> Conversation:
    """A user asks for a story like this one, and the assistant tells it."""
    return exchange(rng.choice(data("stories")["requests"]).format_map(story.cast), story.text)
