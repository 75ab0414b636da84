"""Stories: who is in them, what happens, and what can be asked about it.

A story's questions are answered by its last state: who has a thing in the end, where it lies in the end. Its plot is
a script of `stories.toml`. A cast belongs to a split by what its plot is about.
"""

import random
from collections.abc import Sequence
from functools import cache, partial
from typing import Any, NamedTuple

from chatsmith.tasks.rules import Names
from chatsmith.text.chat import Conversation
from chatsmith.worlds.kindergarten.questions import Question, QuestionFamily, exchange
from chatsmith.worlds.kindergarten.world import Split, a, data, is_girl, noun_of, plural, split_of, words

Cast = dict[str, str]
"""What fills in the templates of a story: see `draw_cast`."""


class Ask(NamedTuple):
    """What a plot lets one ask."""

    family: QuestionFamily
    about: tuple[str, ...]
    """The roles that are asked about; a cast of the exam has them in no training story."""
    answer: str
    """The template of the answer, which is a word."""
    candidates: tuple[str, ...]
    """What a wrong reply might name instead."""


class Story(NamedTuple):
    """What was told, and what can be asked."""

    plot: str
    text: str
    """The story as one paragraph."""
    asks: tuple[Ask, ...]
    cast: Cast

    def different_asks(self) -> dict[tuple[str, str], Ask]:
        """What can be asked, by relation and reply: each once; in `asks` the more important ones come twice."""
        fill = self.cast
        return {
            (ask.family.relation.format_map(fill), ask.family.replies[0].format_map(fill)): ask
            for ask in self.asks
        }


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
    name = rng.choices(*_plot_weights())[0]
    plot = _plots()[name]
    while True:
        cast = draw_cast(rng)
        if all(split_of("story", *_subject(about, cast)) == split for about in plot["about"]):
            return _tell(name, plot, cast, rng)


def _subject(about: Sequence[str], cast: Cast) -> list[str]:
    return [cast[role] for role in about]


def _tell(name: str, plot: dict[str, Any], cast: Cast, rng: random.Random) -> Story:
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
    return Story(name, " ".join(told).format_map(cast), tuple(asks), cast)


def _play(script: Sequence[Any], rng: random.Random, told: list[str], asks: list[Ask]) -> None:
    """Add what a script tells to `told`, still as templates, and what it lets one ask to `asks`."""
    for beat in script:
        if isinstance(beat, str):
            told.append(beat)
        elif isinstance(beat, list):
            chosen = rng.choice(beat)
            told += [chosen] if isinstance(chosen, str) else chosen
        elif isinstance(beat, Ask):
            asks.append(beat)
        elif "chance" in beat:
            _play(beat["then"] if rng.random() < beat["chance"] else beat["else"], rng, told, asks)
        elif "shuffled" in beat:
            told += rng.sample(beat["shuffled"], len(beat["shuffled"]))
        else:
            told.insert(rng.randint(1, len(told)), beat["somewhere"])


@cache
def _plots() -> dict[str, dict[str, Any]]:
    """The plots of `stories.toml`, with an `Ask` wherever a script asks."""
    plots = data("stories")["plots"]
    return {name: {**plot, "script": _with_asks(plot["script"])} for name, plot in plots.items()}


@cache
def _plot_weights() -> tuple[tuple[str, ...], tuple[int, ...]]:
    return tuple(_plots()), tuple(plot["weight"] for plot in _plots().values())


def _with_asks(script: Sequence[Any]) -> list[Any]:
    found = []
    for beat in script:
        if isinstance(beat, dict) and "ask" in beat:
            beat = _ask(beat)
        elif isinstance(beat, dict) and "chance" in beat:
            beat = {**beat, "then": _with_asks(beat["then"]), "else": _with_asks(beat.get("else", ()))}
        found.append(beat)
    return found


def _ask(beat: dict[str, Any]) -> Ask:
    """The question that a script names, its templates filled in with what the script says of {who}, {what}, ..."""

    def fill(text: str) -> str:
        for name in beat.keys() - {"ask", "about"}:
            text = text.replace(f"{{{name}}}", beat[name])
        return text

    entry = data("stories")["questions"][beat["ask"]]
    candidates = words(entry["candidates"])
    if entry["candidates"] == "where":
        candidates = tuple(map(noun_of, candidates))
    elif entry["candidates"] == "treats":
        candidates = (*candidates, *map(plural, candidates))
    family = QuestionFamily(
        section="stories",
        relation=fill(entry.get("relation", beat["ask"])),
        prompts=tuple(map(fill, entry["prompts"])),
        replies=(fill(entry["reply"]),),
        answer="{answer}",
        wording="{plot}, {layout},",
    )
    return Ask(family, tuple(beat["about"]), fill(entry["answer"]), candidates)


def ask_about(
    story: Story, ask: Ask, rng: random.Random, *, layout: str, before: Conversation = ()
) -> Question:
    """The question `ask`, in one of its wordings, as it is put after the story was told in `before`."""
    answer = noun_of(ask.answer.format_map(story.cast))
    entities = (*_subject(ask.about, story.cast), answer)
    values = story.cast | {"answer": answer, "plot": story.plot, "layout": layout}
    return ask.family.ask(rng, entities, values, partial(Names, (answer,), ask.candidates), before)


def story_question(story: Story, rng: random.Random) -> Question:
    """A question about `story`, together with the telling of it, in one of four layouts."""
    ask = rng.choice(story.asks)
    layout = rng.choice(("together", "lines", "told", "asked for"))
    if layout in ("together", "lines"):
        bare = ask_about(story, ask, rng, layout=layout)
        gap = " " if layout == "together" else "\n"
        return Question(bare.key, f"{story.text}{gap}{bare.prompt}", bare.reply, bare.answer, bare.rule)
    if layout == "told":
        announcement = rng.choice(data("stories")["announcements"])
        before = exchange(f"{announcement} {story.text}", rng.choice(data("stories")["thanks"]))
    else:
        before = requested(story, rng)
    return ask_about(story, ask, rng, layout=layout, before=before)


def requested(story: Story, rng: random.Random) -> Conversation:
    """A user asks for a story like this one, and the assistant tells it."""
    return exchange(rng.choice(data("stories")["requests"]).format_map(story.cast), story.text)
