"""The questions: the piece that documents, conversations, problems and the exams are all made of.

A section draws what is asked about; `ask` puts it into words. The words stand in `questions.toml`, those of facts in
`world.toml`, those on stories in `stories.toml`.

A model reads a word as one token and cannot see its letters: it has to be told. So every word is spelled out in the
documents, and the words of the exam and of development are never asked for. The calculator does all computing and
counting: what has to be learned is to turn words into an expression and to copy the result.
"""

import operator
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

from chatsmith.data.problems import Problem, Rule
from chatsmith.tasks.rules import NUMBER_WORDS, Exactly, Listing, Names, Number, normalise
from chatsmith.text.chat import Conversation, Message, Part
from chatsmith.worlds.kindergarten.world import (
    Relation,
    Split,
    a,
    all_facts,
    capitalize,
    data,
    dealt,
    draw,
    is_girl,
    listed,
    number_word,
    plural,
    sentence,
    spelling_words,
    words,
    words_of,
)


class Key(NamedTuple):
    """What a question is about, apart from its wording."""

    section: str
    relation: str
    entities: tuple[str, ...]


@dataclass(frozen=True)
class Question:
    """A question, its model reply, and the rule that checks any other reply."""

    key: Key
    """What is asked; the splits are disjoint in these."""
    prompt: str
    """What the user writes."""
    reply: tuple[Part, ...]
    """What the assistant should write, calculator calls included."""
    answer: str
    """The answer in short, to be shown."""
    rule: Rule
    """Which replies pass."""
    before: Conversation = ()
    """What was said before: nothing, a system message, or whole turns ending with the assistant."""

    @property
    def messages(self) -> Conversation:
        """The prompt: what was said before, and the question."""
        return (*self.before, Message.of("user", self.prompt))

    @property
    def reply_text(self) -> str:
        """The reply without its calculator calls."""
        return "".join(part.text for part in self.reply if part.kind == "text")

    def turns(self) -> Conversation:
        """The question and its reply as messages, with what was said before."""
        return (*self.messages, Message("assistant", self.reply))

    def as_problem(self, identity: str, section: str = "") -> Problem:
        """The question as an item of the exam, or of another `section` than its own."""
        return Problem(identity, section or self.key.section, self.messages, self.answer, self.rule)


QuestionMaker = Callable[[random.Random, Split], Question]
"""Draws a question that belongs to the given split."""


def ask(
    rng: random.Random,
    section: str,
    name: str,
    entities: tuple[str, ...],
    values: Mapping[str, object],
    rule: Callable[[str, str], Rule] | None = None,
    *,
    family: Mapping[str, Any] | None = None,
    number: int | None = None,
    before: Conversation = (),
) -> Question:
    """A question of the family `name` of `section`, its templates filled in with `values`.

    A family is an entry of `questions.toml`, which says what it may hold, or `family`. The prompt is drawn, or is that
    at `number`. `rule` makes the rule of the prompt and the answer; without it, exactly the accepted replies pass.
    """
    if family is None:
        family = _family(section, name)
    prompts, reply = family["prompts"], family["reply"]
    if number is None:
        number = rng.randrange(len(prompts))
    if not isinstance(reply, str):
        reply = reply[number]
    answer = family.get("answer", "{answer}" if "call" in family else reply).format_map(values)
    parts = (Part("text", reply.format_map(values)),)
    if "call" in family:
        parts = (Part("python", family["call"].format_map(values)), Part("output", answer), *parts)
    prompt = prompts[number].format_map(values)
    if rule is None:
        accepted = tuple(right.format_map(values) for right in family.get("accepted", ()))
        judged: Rule = Exactly(accepted or (answer,), family.get("keep_case", False))
    else:
        judged = rule(prompt, answer)
    key = Key(section, family.get("relation", name).format_map(values), entities)
    return Question(key, prompt, parts, answer, judged, before)


@cache
def _family(section: str, name: str) -> Mapping[str, Any]:
    entries = data("questions")[section]
    entry = entries[name]
    return {**entries[entry["like"]], **entry} if "like" in entry else entry


def exchange(said: str, replied: str) -> Conversation:
    """A turn of the user and one of the assistant."""
    return (Message.of("user", said), Message.of("assistant", replied))


# ---- Facts


def draw_fact_question(rng: random.Random, split: Split) -> Question:
    """A question for a fact of `split`: each relation in proportion to its facts."""
    fact = rng.choice(all_facts(split))
    family = {"prompts": fact.relation.questions, "reply": fact.reply, "answer": _bare(fact.value)}

    def rule(prompt: str, answer: str) -> Rule:
        return Names(_wordings(fact.value), _values(fact.relation), prompt)

    return ask(rng, "facts", fact.relation.name, (fact.entity,), fact.fillings, rule, family=family)


@cache
def _values(relation: Relation) -> tuple[str, ...]:
    """Every value that a reply might name to a question of this relation, in all its wordings."""
    return tuple({wording: None for value in relation.known.values() for wording in _wordings(value)})


@cache
def _wordings(value: str) -> tuple[str, ...]:
    """A value as a reply may name it: normalized, without its article, singular or plural, word or digit."""
    bare = normalise(_bare(value))
    if bare == "no":
        return ("no", "zero", "0")
    if bare in NUMBER_WORDS:
        return (bare, str(NUMBER_WORDS.index(bare)))
    return (bare, plural(bare))


def _bare(value: str) -> str:
    for article in ("a ", "an ", "the "):
        value = value.removeprefix(article)
    return value


# ---- Arithmetic: sums, plain and as little stories, and comparisons of numbers

_OPERATIONS: dict[str, Callable[[int, int], int]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "//": operator.floordiv,
}
_OPERATION_WEIGHTS = (4, 4, 2, 1)


def draw_arithmetic_question(rng: random.Random, split: Split) -> Question:
    """A plain sum, a sum in a little story, or which of two numbers is larger or smaller."""
    kind = rng.random()
    if kind < 0.12:
        return _compare(rng, split, "comparison", 2)
    drawn = draw(rng, split, "arithmetic", _sum, _in_any_order)
    operation, *numbers = drawn
    name, number = f"sum {operation}", None
    values: dict[str, object] = dict(zip("ab", numbers, strict=True))
    values["answer"] = _OPERATIONS[operation](*numbers)
    if kind < 0.40:
        name = f"story {name}"
        number = rng.randrange(len(_family("arithmetic", name)["prompts"]))
        hero, friend = rng.sample(words("names"), 2)
        thing = plural(rng.choice(words("objects", "treats")))
        she, her = ("She", "her") if is_girl(hero) else ("He", "him")
        values |= {"thing": thing, "name": hero, "friend": friend, "her": her, "She": she}
    entities = tuple(map(str, _in_any_order(drawn)))
    return ask(rng, "arithmetic", name, entities, values, _given(*numbers), number=number)


def _given(*numbers: int) -> Callable[[str, str], Rule]:
    """The rule for an answer that is a number, where the question has these."""
    return lambda prompt, answer: Number(int(answer), given=numbers)


def _in_any_order(drawn: tuple[str, int, int]) -> tuple[object, ...]:
    """The operation and the numbers; where their order does not matter, neither does it here."""
    operation, *numbers = drawn
    return (operation, *(sorted(numbers) if operation in "+*" else numbers))


def _sum(rng: random.Random) -> tuple[str, int, int]:
    """Any operation and two numbers, neither of which is the result, so that an echo is never an answer."""
    while True:
        operation = rng.choices(tuple(_OPERATIONS), _OPERATION_WEIGHTS)[0]
        if operation == "*":
            first, second = rng.randint(2, 20), rng.randint(2, 20)
        elif operation == "//":
            second = rng.randint(2, 12)
            first = second * rng.randint(2, 20)
        else:
            first, second = rng.randint(2, 99), rng.randint(2, 99)
        result = _OPERATIONS[operation](first, second)
        if result > 0 and result not in (first, second):
            return operation, first, second


def draw_extreme(rng: random.Random, split: Split) -> Question:
    """The largest or smallest of three numbers."""
    return _compare(rng, split, "extreme", 3)


def _compare(rng: random.Random, split: Split, relation: str, count: int) -> Question:
    numbers = draw(rng, split, relation, lambda r: r.sample(range(2, 100), count), sorted)
    word, function = rng.choice(data("questions")["comparisons"][relation])
    names = tuple(map(str, numbers))
    values = {"word": word, "function": function, "numbers": listed(names, "or"), "all": ",".join(names)}
    values["answer"] = str((max if function == "max" else min)(numbers))
    return ask(rng, "arithmetic", relation, tuple(map(str, sorted(numbers))), values, _given(*numbers))


# ---- Counting letters in words, letters of words, and words in a row


def draw_counting_question(rng: random.Random, split: Split) -> Question:
    """A question on the letters of a word or on the words of a row."""
    kind = rng.random()
    if kind < 0.5:
        word, letter = draw(rng, split, "letters", _word_and_letter)
        return _count(rng, "letter", word.count(letter), word=word, letter=letter)
    if kind < 0.75:
        word = draw(rng, split, "length", lambda r: r.choice(spelling_words()))
        return _count(rng, "length", len(word), word=word)
    return _count_row(rng, split, "row", (1, 4), (1, 3))


def draw_long_row(rng: random.Random, split: Split) -> Question:
    """Like a question on a row of words, but on a row of five to ten."""
    return _count_row(rng, split, "long row", (2, 5), (3, 5))


def _word_and_letter(rng: random.Random) -> tuple[str, str]:
    """A word and a letter, mostly one that is in it; repeated letters are sought out."""
    word = rng.choice(spelling_words())
    repeated = [letter for letter in word if word.count(letter) > 1]
    kind = rng.random()
    if kind < 0.12:
        return word, rng.choice([letter for letter in "abcdefghiklmnoprstuvwy" if letter not in word])
    return word, rng.choice(repeated if repeated and kind < 0.7 else list(word))


def _count_row(
    rng: random.Random, split: Split, relation: str, times: tuple[int, int], others: tuple[int, int]
) -> Question:
    word, row = draw(rng, split, relation, lambda r: _word_and_row(r, times, others))
    return _count(rng, relation, row.split().count(word), word=word, row=row)


def _word_and_row(rng: random.Random, times: tuple[int, int], others: tuple[int, int]) -> tuple[str, str]:
    """A word, and a row of words, so many of which are this one, so many others; none contains another."""
    while True:
        word, *different = rng.sample(spelling_words(), 3)
        row = [word] * rng.randint(*times) + [rng.choice(different) for _ in range(rng.randint(*others))]
        rng.shuffle(row)
        text = " ".join(row)
        if text.count(word) == row.count(word):
            return word, text


def _count(rng: random.Random, relation: str, count: int, **asked: str) -> Question:
    values = {**asked, "answer": count, "times": f"{count} time" if count == 1 else f"{count} times"}
    return ask(rng, "counting", relation, tuple(asked.values()), values, _given())


# ---- Spelling, and first and last letters


def draw_spelling_question(rng: random.Random, split: Split) -> Question:
    """How a word is spelled, or how it begins or ends."""
    kind = rng.random()
    relation = "spelling" if kind < 0.6 else "first letter" if kind < 0.8 else "last letter"
    word = rng.choice(words_of(split, relation))
    return ask(rng, "spelling", relation, (word,), spelled(word))


@cache
def spelled(word: str) -> dict[str, str]:
    """What templates on spelling contain: the word, its letters with hyphens ("c-a-t"), the first and the last."""
    return {"word": word, "spelled": "-".join(word), "first": word[0], "last": word[-1]}


# ---- Instructions: repeat, say again, first and last word, capital letters, exchange a word, list things


def draw_instruction(rng: random.Random, split: Split) -> Question:
    """An instruction of any kind, all about equally often."""
    kind = rng.choice(("repeat", "again", "first word", "last word", "upper case", "exchange", "list"))
    return _list(rng, split) if kind == "list" else _instruct(rng, split, kind)


def draw_long_upper(rng: random.Random, split: Split) -> Question:
    """Words in capital letters, of three to five words."""
    return _instruct(rng, split, "long upper case")


def _instruct(rng: random.Random, split: Split, relation: str) -> Question:
    purpose, make = _INSTRUCTIONS[relation]
    subject, values = draw(rng, split, purpose, make, lambda made: made[0])
    return ask(rng, "instructions", relation, tuple(map(str, subject)), values)


_Instruction = tuple[tuple[object, ...], Mapping[str, object]]
"""What an instruction is about, and what its templates contain."""


def _on_text(text: str) -> _Instruction:
    first, *_, last = text.split() * 2
    values = {"text": text, "sentence": sentence(text), "first": first, "last": last, "answer": text.upper()}
    return (text,), values


def _again(rng: random.Random) -> _Instruction:
    word, count = rng.choice(spelling_words()), rng.randint(2, 5)
    return (word, count), {"word": word, "count": number_word(count), "text": " ".join([word] * count)}


def _some_words(rng: random.Random, fewest: int, most: int) -> str:
    return " ".join(rng.sample(spelling_words(), rng.randint(fewest, most)))


def _exchange(rng: random.Random) -> _Instruction:
    """A noun with a few words around it, and another noun to put in its place."""
    old, new = rng.sample(words("objects", "pets"), 2)
    look, where = rng.choice(words("looks", "colors")), rng.choice(words("places"))
    text = rng.choice(
        (f"the {look} {old}", f"the {old} is {where}", f"my {old} is {look}", f"I like the {look} {old}")
    )
    if text.count(old) != 1:
        return _exchange(rng)
    return (text, old, new), {"text": text, "old": old, "new": new, "answer": text.replace(old, new)}


_INSTRUCTIONS: dict[str, tuple[str, Callable[[random.Random], _Instruction]]] = {
    "repeat": ("repeat", lambda rng: _on_text(_phrase(rng))),
    "again": ("again", _again),
    "first word": ("first", lambda rng: _on_text(_row(rng))),
    "last word": ("last", lambda rng: _on_text(_phrase(rng))),
    "upper case": ("upper", lambda rng: _on_text(_some_words(rng, 1, 3))),
    "long upper case": ("upper", lambda rng: _on_text(_some_words(rng, 3, 5))),
    "exchange": ("exchange", _exchange),
}
"""What instructions are dealt out by, and what draws them."""


def _list(rng: random.Random, split: Split) -> Question:
    things, _, count = rng.choice(_lists_of(split)).rpartition(" ")
    every = words(data("questions")["lists"][things])
    # The first of the list, in its order: a habit is easier to learn than a whim, and days are best told in order.
    members = listed(every[: int(count)])
    values = {"count": number_word(int(count)), "things": things}
    values |= {"listed": members, "Listed": capitalize(members)}
    rule = Listing(int(count), tuple(member.lower() for member in every))
    return ask(rng, "instructions", "list", (things, count), values, lambda prompt, answer: rule)


@cache
def _lists_of(split: Split) -> list[str]:
    """What belongs to `split` of all things and counts; there are few, so they are dealt out by rank."""
    pairs = [f"{things} {count}" for things in data("questions")["lists"] for count in (2, 3, 4)]
    return dealt(pairs, split, "list")


_WORDS = ("nouns", "colors", "looks", "nouns:places", "seasons")


def _phrase(rng: random.Random) -> str:
    """Three to six words without capital or full stop: a short sentence or a row of words."""
    shape = rng.randrange(5)
    if shape == 0:
        return " ".join(rng.sample(words(*_WORDS), rng.randint(3, 5)))
    noun, verb, adverb = rng.choice(words("nouns")), rng.choice(words("verbs")), rng.choice(words("adverbs"))
    look = rng.choice(words("colors", "looks"))
    if shape == 1:
        return f"the {look} {noun} is {rng.choice(words('where'))}"
    if shape == 2:
        return f"{' and '.join(rng.sample(words('names'), 2))} {verb} {adverb}"
    if shape == 3:
        return f"{rng.choice(words('names'))} has {a(f'{look} {noun}')}"
    return f"we {verb} {adverb} {rng.choice(words('places'))}"


def _row(rng: random.Random) -> str:
    """Three to six words that begin with any word: what comes first cannot be guessed."""
    if rng.random() < 0.5:
        return " ".join(rng.sample(words(*_WORDS), rng.randint(3, 5)))
    things = plural(rng.choice(words("nouns")))
    return f"{rng.choice(words('colors', 'looks'))} {things} are {rng.choice(words('where'))}"
