"""The little grammar that templates need: articles, plurals, lists, capital letters.

It covers the words of `vocabulary` and of the facts, not English at large.
"""

from collections.abc import Sequence
from functools import cache

from chatsmith.tasks.rules import NUMBER_WORDS
from chatsmith.worlds.kindergarten.table import table

_IRREGULAR_PLURALS = table("""
    mouse: mice, goose: geese, foot: feet, tooth: teeth, child: children, man: men, woman: women,
    person: people, sheep: sheep, deer: deer, fish: fish, salmon: salmon, wolf: wolves,
    leaf: leaves, knife: knives, loaf: loaves, shelf: shelves, half: halves, calf: calves,
    trout: trout, scarf: scarves, thief: thieves, scissors: scissors, potato: potatoes,
    tomato: tomatoes, octopus: octopuses, ox: oxen, wife: wives
""")


@cache
def a(noun: str) -> str:
    """The noun with "a" or "an" before it."""
    return f"{'an' if noun[0].lower() in 'aeiou' else 'a'} {noun}"


@cache
def plural(noun: str) -> str:
    """The plural of a noun of this world; of several words, the last one changes."""
    *before, last = noun.split(" ")
    if last in _IRREGULAR_PLURALS:
        changed = _IRREGULAR_PLURALS[last]
    elif last.endswith(("s", "x", "ch", "sh")):
        changed = last + "es"
    elif last.endswith("y") and last[-2] not in "aeiou":
        changed = last[:-1] + "ies"
    else:
        changed = last + "s"
    return " ".join([*before, changed])


def sentence(text: str) -> str:
    """The text with a capital first letter, and a full stop unless it already ends in a mark."""
    return capitalise(text) + ("" if text.endswith((".", "?", '."', '?"')) else ".")


def capitalise(text: str) -> str:
    """The text with a capital first letter; the rest stays."""
    return text[0].upper() + text[1:]


def listed(items: Sequence[str]) -> str:
    """The items as English lists them: "red, blue and green"."""
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}"


def number_word(number: int) -> str:
    """The word for a number up to twelve, digits beyond."""
    return NUMBER_WORDS[number] if number < len(NUMBER_WORDS) else str(number)
