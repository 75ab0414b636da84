"""The world: its words, its facts, a little grammar, and which of all that only the exam may ask about.

Words and facts stand in `world.toml`. Importing reads nothing: each data file is read when it is first asked for.
"""

import random
import re
import tomllib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from hashlib import blake2b
from pathlib import Path
from typing import Any, Literal, TypeVar

from chatsmith.tasks.rules import NUMBER_WORDS

Split = Literal["train", "development", "exam"]
Made = TypeVar("Made")

# Of all subjects, the share held out for the exam and for development: of those drawn at random, of which there are
# many; of facts, of which the exam needs enough to be worth taking; of words to spell and things to list.
_DRAWN_SHARES = (0.10, 0.10)
_FACT_SHARES = (0.18, 0.09)
_WORD_SHARES = (0.20, 0.10)


@cache
def data(name: str) -> dict[str, Any]:
    """The tables of `name`.toml in this folder."""
    return tomllib.loads(Path(__file__).with_name(f"{name}.toml").read_text(encoding="utf-8"))


@cache
def words(*lists: str) -> tuple[str, ...]:
    """The words, or the phrases, of these lists of `world.toml`, in order.

    "plurals:" before the name of a list asks for their plurals, "nouns:" for places without prepositions.
    """
    found: list[str] = []
    for name in lists:
        form, _, of = name.rpartition(":")
        entry = data("world")["words"][of]
        if isinstance(entry, list):
            listed = words(*entry)
        else:
            listed = _entries(entry) if "," in entry else entry.split()
        found += map(plural if form == "plurals" else noun_of if form == "nouns" else str, listed)
    return tuple(found)


@cache
def weights(file: str, table: str, without: tuple[str, ...] = ()) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """The names in a table of a data file, without some, and the weights by which one of them is drawn."""
    entries = {name: entry for name, entry in data(file)[table].items() if name not in without}
    return tuple(entries), tuple(
        entry if isinstance(entry, int) else entry["weight"] for entry in entries.values()
    )


def _entries(text: str) -> list[str]:
    """What stands between commas and line ends."""
    return [entry.strip() for entry in re.split("[,\n]", text) if entry.strip()]


def table(text: str) -> dict[str, str]:
    """Entries like "cow: moo", separated by commas or line ends, in order; no entity may come twice."""
    pairs = [entry.partition(": ") for entry in _entries(text)]
    found = {entity: value for entity, _, value in pairs}
    assert len(found) == len(pairs), f"an entity comes twice in {text}"
    return found


# ---- A little grammar: enough for the words of this world, not for English at large.


@cache
def a(noun: str) -> str:
    """The noun with "a" or "an" before it."""
    return f"{'an' if noun[0].lower() in 'aeiou' else 'a'} {noun}"


@cache
def plural(noun: str) -> str:
    """The plural of a noun of this world; of several words, the last one changes."""
    *before, last = noun.split(" ")
    if last in _irregular_plurals():
        changed = _irregular_plurals()[last]
    elif last.endswith(("s", "x", "ch", "sh")):
        changed = last + "es"
    elif last.endswith("y") and last[-2] not in "aeiou":
        changed = last[:-1] + "ies"
    else:
        changed = last + "s"
    return " ".join([*before, changed])


@cache
def _irregular_plurals() -> dict[str, str]:
    return table(data("world")["plurals"]["irregular"])


def sentence(text: str) -> str:
    """The text with a capital first letter, and a full stop unless it already ends in a mark."""
    return capitalize(text) + ("" if text.endswith((".", "?", '."', '?"')) else ".")


def capitalize(text: str) -> str:
    """The text with a capital first letter; the rest stays."""
    return text[0].upper() + text[1:]


def listed(items: Sequence[str], word: str = "and") -> str:
    """The items as English lists them: "red, blue and green"."""
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} {word} {items[-1]}"


def number_word(number: int) -> str:
    """The word for a number up to twelve, digits beyond."""
    return NUMBER_WORDS[number] if number < len(NUMBER_WORDS) else str(number)


def is_girl(name: str) -> bool:
    """True for a girl among the names."""
    return name in words("girls")


def noun_of(where: str) -> str:
    """The place or spot without its preposition: "kitchen" of "in the kitchen"."""
    return where.split()[-1]


# ---- The splits. What a question is about (a fact, a cast of a story, two numbers, ...) is its subject. A hash sorts
# every subject into "train", "development" or "exam" once and for all, so the three are disjoint whatever the seed and
# however much is generated.


def split_of(*subject: str) -> Split:
    """The split that `subject` belongs to, by its hash."""
    position, (exam, development) = _hash(subject), _DRAWN_SHARES
    return "exam" if position < exam else "development" if position < exam + development else "train"


def deal(subjects: Sequence[str], *, salt: str, exam: float, development: float) -> dict[str, Split]:
    """Deal a short list out by rank of hash: at least one each to the exam and to development.

    `exam` and `development` are shares of the list.
    """
    ranked = sorted(subjects, key=lambda subject: _hash((salt, subject)))
    exam_end = max(1, round(exam * len(ranked)))
    development_end = exam_end + max(1, round(development * len(ranked)))
    return {
        subject: "exam" if rank < exam_end else "development" if rank < development_end else "train"
        for rank, subject in enumerate(ranked)
    }


def draw(
    rng: random.Random,
    split: Split,
    purpose: str,
    make: Callable[[random.Random], Made],
    subject: Callable[[Any], Iterable[object]] | None = None,
) -> Made:
    """Make things until one falls into `split` by its subject: `purpose`, and a text or all that it consists of, or
    `subject`."""
    while True:
        made = make(rng)
        whole: Any = (made,) if isinstance(made, str) else made
        about = subject(made) if subject else whole
        if split_of(purpose, *map(str, about)) == split:
            return made


def _hash(subject: tuple[str, ...]) -> float:
    """A number in [0, 1) that depends on `subject` alone."""
    digest = blake2b("\x1f".join(subject).encode(), digest_size=6).digest()
    return int.from_bytes(digest, "big") / 2**48


@cache
def spelling_words() -> tuple[str, ...]:
    """The words a speller of this world knows, sorted: about two hundred."""
    known = {
        *words(
            "nouns",
            "vegetables",
            "drinks",
            "colors",
            "seasons",
            "tools",
            "clothes",
            "farm_animals",
            "nouns:places",
        )
    }
    return tuple(sorted(word for word in known if 3 <= len(word) <= 8))


@cache
def words_of(split: Split, purpose: str) -> list[str]:
    """The words that training, development or the exam may ask about, for one purpose ("spelling", ...)."""
    return dealt(spelling_words(), split, purpose)


def dealt(subjects: Sequence[str], split: Split, purpose: str) -> list[str]:
    """Those of a short list of words or lists that belong to `split`, for one purpose."""
    exam, development = _WORD_SHARES
    splits = deal(subjects, salt=purpose, exam=exam, development=development)
    return [subject for subject, its_split in splits.items() if its_split == split]


# ---- Facts. Every fact is stated in the documents. Those of the exam and of development are never asked in training,
# neither in conversations nor in documents: to answer, a model must join what it read with how others were asked.


@dataclass(frozen=True, eq=False)
class Relation:
    """A kind of fact, e.g. what each animal says. `world.toml` says what templates may contain."""

    name: str
    """Unique, e.g. "animal sound"."""
    known: dict[str, str]
    """Entity to value."""
    statements: tuple[str, ...]
    """Ways to state a fact. The first is also the reply to a question."""
    questions: tuple[str, ...]
    """Ways to ask for the value."""
    mutual: bool = False
    """True if the facts are pairs that hold both ways, like opposites: a pair is then held out as a whole."""
    topic: bool = False
    """True if a passage about an entity may state its fact."""

    @cached_property
    def own_statements(self) -> list[str]:
        """The statements that begin with what they are about, for which a pronoun may stand."""
        return [statement for statement in self.statements if statement.startswith("{s} ")]

    @cached_property
    def facts(self) -> tuple["Fact", ...]:
        """All facts, in order."""

        def unit(entity: str) -> str:
            return "/".join(sorted((entity, self.known[entity]))) if self.mutual else entity

        exam, development = _FACT_SHARES
        units = list(dict.fromkeys(map(unit, self.known)))
        splits = deal(units, salt=self.name, exam=exam, development=development)
        return tuple(Fact(self, entity, value, splits[unit(entity)]) for entity, value in self.known.items())


@dataclass(frozen=True, eq=False)
class Fact:
    """One entity and its value."""

    relation: Relation
    entity: str
    value: str
    split: Split
    """Whether training may ask for it."""

    @cached_property
    def fillings(self) -> dict[str, str]:
        """What fills in the templates; {s} is the entity with its article."""
        x, v = self.entity, self.value
        forms = {"x": x, "ax": a(x), "xs": plural(x), "v": v, "av": a(v), "vs": plural(v)}
        return {**forms, "s": x if " " in x else a(x)}

    def say(self, template: str, subject: str = "") -> str:
        """Fill in a statement; {s} is `subject`, if given."""
        return template.format_map({**self.fillings, "s": subject} if subject else self.fillings)

    def state(self, rng: random.Random) -> str:
        """The fact in one of its wordings, without capital and full stop; often as a reply would have it."""
        statements = self.relation.statements
        return self.say(statements[0] if rng.random() < 0.4 else rng.choice(statements))

    @cached_property
    def reply(self) -> str:
        """The sentence that answers a question for this fact."""
        return sentence(self.say(self.relation.statements[0]))


@cache
def relations() -> tuple[Relation, ...]:
    """All relations of the world."""
    found = []
    for entry in data("world")["relations"]:
        known = table(entry["facts"])
        mutual, topic = entry.get("mutual", False), entry.get("topic", False)
        if mutual:
            known |= {second: first for first, second in known.items()}
        statements, questions = tuple(entry["statements"]), tuple(entry["questions"])
        found.append(Relation(entry["name"], known, statements, questions, mutual, topic))
    return tuple(found)


@cache
def all_facts(split: Split | None = None) -> tuple[Fact, ...]:
    """Every fact of the world, or of one split, relation by relation."""
    return tuple(fact for relation in relations() for fact in relation.facts if split in (None, fact.split))


@cache
def topics() -> dict[str, tuple[Fact, ...]]:
    """The nouns that enough is known about to write a passage, with what is known."""
    known: dict[str, list[Fact]] = {}
    for relation in relations():
        for fact in relation.facts if relation.topic else ():
            known.setdefault(fact.entity, []).append(fact)
    return {entity: tuple(facts) for entity, facts in known.items() if len(facts) >= 2}
