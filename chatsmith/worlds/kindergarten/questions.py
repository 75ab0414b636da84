"""The questions: the piece that documents, conversations, problems and the exams are all made of.

A section draws what is asked about; a `QuestionFamily` puts it into words. The words stand in `questions.toml`, those
of facts in `world.toml`, those on stories in `stories.toml`.

A model reads a word as one token and cannot see its letters: it has to be told. So every word is spelled out in the
documents, and the words of the exam and of development are never asked for. The calculator does all computing and
counting: what has to be learned is to turn words into an expression and to copy the result.
"""

import operator
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, partial
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
    noun_of,
    number_word,
    plural,
    spelling_words,
    words,
    words_of,
)


class Key(NamedTuple):
    """What a question is about, apart from its wording; and which wording it has."""

    section: str
    relation: str
    entities: tuple[str, ...]
    template: str


@dataclass(frozen=True)
class Question:
    """A question, its model reply, and the rule that checks any other reply."""

    key: Key
    """What is asked, and in which wording; the splits are disjoint in these."""
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


@dataclass(frozen=True)
class QuestionFamily:
    """Questions of one kind: the ways to ask, and what is replied. Its templates are format strings."""

    section: str
    relation: str
    """What is asked, e.g. "letter"."""
    prompts: tuple[str, ...]
    replies: tuple[str, ...]
    """One for each prompt, or one for all."""
    answer: str
    """In short; also what the calculator says to `call`."""
    wording: str
    """What keys call the prompts."""
    call: str = ""
    """What the assistant asks the calculator first, if anything."""
    accepted: tuple[str, ...] = ()
    """All right replies, if they are more than the answer."""

    @staticmethod
    def of(section: str, relation: str, entry: Mapping[str, Any]) -> "QuestionFamily":
        """The family that `entry` of a data file describes."""
        relation, reply = entry.get("relation", relation), entry["reply"]
        return QuestionFamily(
            section,
            relation,
            tuple(entry["prompts"]),
            (reply,) if isinstance(reply, str) else tuple(reply),
            entry.get("answer", reply),
            entry.get("wording", relation),
            entry.get("call", ""),
            tuple(entry.get("accepted", ())),
        )

    def ask(
        self,
        rng: random.Random,
        entities: tuple[str, ...],
        values: Mapping[str, object],
        rule: Rule | Callable[[str], Rule] | None = None,
        before: Conversation = (),
        number: int | None = None,
    ) -> Question:
        """The question for `values`, in wording `number`, or any.

        `rule` is a rule, or makes one of the prompt; without it, exactly the accepted replies pass.
        """
        if number is None:
            number = rng.randrange(len(self.prompts))
        prompt, answer = self.prompts[number].format_map(values), self.answer.format_map(values)
        reply = self.replies[number % len(self.replies)].format_map(values)
        if rule is None:
            accepted = [right.format_map(values) for right in self.accepted]
            rule = Exactly(tuple(accepted) if accepted else (answer,))
        elif callable(rule):
            rule = rule(prompt)
        parts = text_reply(reply)
        if self.call:
            parts = (Part("python", self.call.format_map(values)), Part("output", answer), *parts)
        relation, wording = self.relation.format_map(values), self.wording.format_map(values)
        key = Key(self.section, relation, entities, f"{wording} {number}")
        return Question(key, prompt, parts, answer, rule, before)


def text_reply(text: str) -> tuple[Part, ...]:
    """A reply of plain text."""
    return (Part("text", text),)


def exchange(said: str, replied: str) -> Conversation:
    """A turn of the user and one of the assistant."""
    return (Message.of("user", said), Message.of("assistant", replied))


@cache
def family(section: str, name: str) -> QuestionFamily:
    """The family `name` of a section of `questions.toml`."""
    entries = data("questions")[section]
    entry = entries[name]
    return QuestionFamily.of(section, name, {**entries[entry["like"]], **entry} if "like" in entry else entry)


def _draw_text(rng: random.Random, split: Split, purpose: str, make: Callable[[random.Random], str]) -> str:
    return draw(rng, split, purpose, make, lambda text: (text,))


# ---- Facts


def draw_fact_question(rng: random.Random, split: Split) -> Question:
    """A question for a fact of `split`: each relation in proportion to its facts."""
    fact = rng.choice(all_facts(split))
    rule = partial(Names, _wordings(fact.value), _values(fact.relation))
    values = {**fact.fillings, "reply": fact.reply, "answer": _bare(fact.value)}
    return _fact_family(fact.relation).ask(rng, (fact.entity,), values, rule)


@cache
def _fact_family(relation: Relation) -> QuestionFamily:
    return QuestionFamily("facts", relation.name, relation.questions, ("{reply}",), "{answer}", "question")


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


class _Sum(NamedTuple):
    a: int
    operation: str
    b: int
    result: int

    def subject(self) -> tuple[object, ...]:
        """The operation and the numbers; where their order does not matter, neither does it here."""
        return (self.operation, *(sorted((self.a, self.b)) if self.operation in "+*" else (self.a, self.b)))


def draw_arithmetic_question(rng: random.Random, split: Split) -> Question:
    """A plain sum, a sum in a little story, or which of two numbers is larger or smaller."""
    kind = rng.random()
    if kind < 0.12:
        return _compare(rng, split, "comparison", 2)
    drawn = draw(rng, split, "arithmetic", _sum, _Sum.subject)
    entities = tuple(map(str, drawn.subject()))
    rule = Number(drawn.result, given=(drawn.a, drawn.b))
    values = {"a": drawn.a, "b": drawn.b, "c": drawn.result}
    if kind >= 0.40:
        return family("arithmetic", f"sum {drawn.operation}").ask(rng, entities, values, rule)
    story = family("arithmetic", f"story sum {drawn.operation}")
    number = rng.randrange(len(story.prompts))
    name, friend = rng.sample(words("names"), 2)
    thing = plural(rng.choice(words("objects", "treats")))
    she, her = ("She", "her") if is_girl(name) else ("He", "him")
    values |= {"thing": thing, "name": name, "friend": friend, "her": her, "She": she}
    return story.ask(rng, entities, values, rule, number=number)


def _sum(rng: random.Random) -> _Sum:
    """Any sum whose result is none of its numbers, so that an echo is never an answer."""
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
            return _Sum(first, operation, second, result)


def draw_extreme(rng: random.Random, split: Split) -> Question:
    """The largest or smallest of three numbers."""
    return _compare(rng, split, "extreme", 3)


def _compare(rng: random.Random, split: Split, relation: str, count: int) -> Question:
    numbers = draw(rng, split, relation, lambda r: r.sample(range(2, 100), count), sorted)
    word, function = rng.choice(data("questions")["comparisons"][relation])
    answer = max(numbers) if function == "max" else min(numbers)
    names = tuple(map(str, numbers))
    values = {"word": word, "function": function, "answer": answer}
    values |= {"numbers": listed(names, "or"), "all": ",".join(names)}
    rule = Number(answer, given=tuple(numbers))
    return family("arithmetic", relation).ask(rng, tuple(map(str, sorted(numbers))), values, rule)


# ---- Counting letters in words, letters of words, and words in a row


def draw_counting_question(rng: random.Random, split: Split) -> Question:
    """A question on the letters of a word or on the words of a row."""
    kind = rng.random()
    if kind < 0.5:
        word, letter = draw(rng, split, "letters", _word_and_letter)
        return _count(rng, "letter", word.count(letter), word=word, letter=letter)
    if kind < 0.75:
        word = _draw_text(rng, split, "length", lambda r: r.choice(spelling_words()))
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
    values = {**asked, "count": count, "times": f"{count} time" if count == 1 else f"{count} times"}
    return family("counting", relation).ask(rng, tuple(asked.values()), values, Number(count))


# ---- Spelling, and first and last letters


def draw_spelling_question(rng: random.Random, split: Split) -> Question:
    """How a word is spelled, or how it begins or ends."""
    kind = rng.random()
    relation = "spelling" if kind < 0.6 else "first letter" if kind < 0.8 else "last letter"
    word = rng.choice(words_of(split, relation))
    return family("spelling", relation).ask(rng, (word,), spelled(word))


@cache
def spelled(word: str) -> dict[str, str]:
    """What templates on spelling contain: the word, its letters with hyphens ("c-a-t"), the first and the last."""
    return {"word": word, "spelled": "-".join(word), "first": word[0], "last": word[-1]}


# ---- Instructions: repeat, say again, first and last word, capital letters, exchange a word, list things


def draw_instruction(rng: random.Random, split: Split) -> Question:
    """An instruction of any kind, all about equally often."""
    return rng.choice((_repeat, _again, _first, _last, _upper, _exchange, _list))(rng, split)


def _repeat(rng: random.Random, split: Split) -> Question:
    text = _draw_text(rng, split, "repeat", _phrase)
    text = capitalize(text) + "."
    return family("instructions", "repeat").ask(rng, (text,), {"text": text})


def _again(rng: random.Random, split: Split) -> Question:
    word, count = draw(rng, split, "again", lambda r: (r.choice(spelling_words()), r.randint(2, 5)))
    values = {"word": word, "count": number_word(count), "text": " ".join([word] * count)}
    return family("instructions", "again").ask(rng, (word, str(count)), values)


def _first(rng: random.Random, split: Split) -> Question:
    text = _draw_text(rng, split, "first", _row)
    return family("instructions", "first word").ask(rng, (text,), {"text": text, "word": text.split()[0]})


def _last(rng: random.Random, split: Split) -> Question:
    text = _draw_text(rng, split, "last", _phrase)
    return family("instructions", "last word").ask(rng, (text,), {"text": text, "word": text.split()[-1]})


def _upper(rng: random.Random, split: Split) -> Question:
    return _capitals(rng, split, "upper case", 1, 3)


def draw_long_upper(rng: random.Random, split: Split) -> Question:
    """Words in capital letters, of three to five words."""
    return _capitals(rng, split, "long upper case", 3, 5)


def _capitals(rng: random.Random, split: Split, relation: str, fewest: int, most: int) -> Question:
    def some_words(r: random.Random) -> str:
        return " ".join(r.sample(spelling_words(), r.randint(fewest, most)))

    text = _draw_text(rng, split, "upper", some_words)
    values = {"text": text, "upper": text.upper()}
    return family("instructions", relation).ask(
        rng, (text,), values, Exactly((text.upper(),), keep_case=True)
    )


def _exchange(rng: random.Random, split: Split) -> Question:
    text, old, new = draw(rng, split, "exchange", _phrase_and_words)
    values = {"text": text, "old": old, "new": new, "changed": text.replace(old, new)}
    return family("instructions", "exchange").ask(rng, (text, old, new), values)


def _phrase_and_words(rng: random.Random) -> tuple[str, str, str]:
    """A noun with a few words around it, and another noun to put in its place."""
    old, new = rng.sample(words("objects", "pets"), 2)
    look, where = rng.choice(words("looks", "colors")), rng.choice(words("places"))
    text = rng.choice(
        (f"the {look} {old}", f"the {old} is {where}", f"my {old} is {look}", f"I like the {look} {old}")
    )
    return (text, old, new) if text.count(old) == 1 else _phrase_and_words(rng)


def _list(rng: random.Random, split: Split) -> Question:
    things, _, count = rng.choice(_lists_of(split)).rpartition(" ")
    every = words(data("questions")["lists"][things])
    # The first of the list, in its order: a habit is easier to learn than a whim, and days are best told in order.
    members = listed(every[: int(count)])
    values = {"count": number_word(int(count)), "things": things}
    values |= {"listed": members, "Listed": capitalize(members)}
    rule = Listing(int(count), tuple(member.lower() for member in every))
    return family("instructions", "list").ask(rng, (things, count), values, rule)


@cache
def _lists_of(split: Split) -> list[str]:
    """What belongs to `split` of all things and counts; there are few, so they are dealt out by rank."""
    pairs = [f"{things} {count}" for things in data("questions")["lists"] for count in (2, 3, 4)]
    return dealt(pairs, split, "list")


def _phrase(rng: random.Random) -> str:
    """Three to six words without capital or full stop: a short sentence or a row of words."""
    shape = rng.randrange(5)
    if shape == 0:
        return " ".join(rng.sample(_all_words(), rng.randint(3, 5)))
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
        return " ".join(rng.sample(_all_words(), rng.randint(3, 5)))
    things = plural(rng.choice(words("nouns")))
    return f"{rng.choice(words('colors', 'looks'))} {things} are {rng.choice(words('where'))}"


@cache
def _all_words() -> tuple[str, ...]:
    places = map(noun_of, words("places"))
    return (*words("nouns", "colors", "looks"), *places, *words("seasons"))
