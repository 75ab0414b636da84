"""Simple instructions: repeat, say again, first and last word, capital letters, exchange a word, list things.

Words and phrases are combined at random; those of the exam are never given in training.
"""

import random
from functools import cache

from chatsmith.tasks.rules import Exactly, Listing
from chatsmith.worlds.kindergarten import vocabulary as v
from chatsmith.worlds.kindergarten.english import capitalise, listed, number_word
from chatsmith.worlds.kindergarten.keys import Key, Split, deal, draw
from chatsmith.worlds.kindergarten.question import Question, calculator_reply, text_reply
from chatsmith.worlds.kindergarten.table import lines
from chatsmith.worlds.kindergarten.words import phrase, row, spelling_words

LISTS = {
    "colours": v.COLOURS,
    "fruits": v.FRUITS,
    "vegetables": v.VEGETABLES,
    "drinks": v.DRINKS,
    "farm animals": v.FARM_ANIMALS,
    "birds": v.BIRDS,
    "insects": v.INSECTS,
    "clothes": v.CLOTHES,
    "tools": v.TOOLS,
    "seasons": v.SEASONS,
    "days of the week": v.DAYS,
    "months": v.MONTHS,
}
"""Things that can be listed, with all that belong to them in this world."""

_REPEAT_TEMPLATES = lines("""
    Repeat after me: "{text}"
    Please repeat: "{text}"
    Say this: "{text}"
    Write the same words again: "{text}"
    Copy this: "{text}"
""")
_AGAIN_TEMPLATES = lines("""
    Say {word} {count} times.
    Write the word {word} {count} times.
    Please say {word} {count} times.
""")
_FIRST_TEMPLATES = lines("""
    What is the first word of "{text}"?
    Tell me the first word of "{text}".
    Write only the first word: "{text}"
""")
_LAST_TEMPLATES = lines("""
    What is the last word of "{text}"?
    Tell me the last word of "{text}".
    Write only the last word: "{text}"
""")
_UPPER_TEMPLATES = lines("""
    Write "{text}" in capital letters.
    Please put "{text}" in upper case.
    How does "{text}" look in capital letters?
    Turn "{text}" into capital letters.
""")
_EXCHANGE_TEMPLATES = lines("""
    Replace "{old}" with "{new}" in "{text}".
    Put "{new}" in place of "{old}" in "{text}".
    Change "{old}" to "{new}" in "{text}".
""")
_LIST_TEMPLATES = lines("""
    Name {count} {things}.
    List {count} {things}.
    Tell me {count} {things}.
    Can you name {count} {things}?
    Give me {count} {things}, please.
""")


def capitals(rng: random.Random, text: str, kind: str) -> Question:
    """The question for `text` in capital letters; its relation is `kind` case."""
    number = rng.randrange(len(_UPPER_TEMPLATES))
    return Question(
        key=Key("instructions", f"{kind} case", (text,), f"{kind} {number}"),
        prompt=_UPPER_TEMPLATES[number].format(text=text),
        reply=calculator_reply(f'"{text}".upper()', text.upper(), text.upper()),
        answer=text.upper(),
        rule=Exactly((text.upper(),), keep_case=True),
    )


def draw_instruction(rng: random.Random, split: Split) -> Question:
    """An instruction of any kind, all about equally often."""
    makers = (_repeat, _again, _first, _last, _upper, _exchange, _list)
    return rng.choice(makers)(rng, split)


def _repeat(rng: random.Random, split: Split) -> Question:
    text = capitalise(_phrase(rng, split, "repeat")) + "."
    return _exact("repeat", (text,), _REPEAT_TEMPLATES, {"text": text}, text, rng)


def _again(rng: random.Random, split: Split) -> Question:
    word, count = draw(
        rng,
        split,
        lambda r: (r.choice(spelling_words()), r.randint(2, 5)),
        lambda d: ("again", d[0], str(d[1])),
    )
    values = {"word": word, "count": number_word(count)}
    return _exact("again", (word, str(count)), _AGAIN_TEMPLATES, values, " ".join([word] * count), rng)


def _first(rng: random.Random, split: Split) -> Question:
    text = draw(rng, split, row, lambda drawn: ("first", drawn))
    return _exact("first word", (text,), _FIRST_TEMPLATES, {"text": text}, text.split()[0], rng)


def _last(rng: random.Random, split: Split) -> Question:
    text = _phrase(rng, split, "last")
    return _exact("last word", (text,), _LAST_TEMPLATES, {"text": text}, text.split()[-1], rng)


def _upper(rng: random.Random, split: Split) -> Question:
    text = draw(
        rng, split, lambda r: " ".join(r.sample(spelling_words(), r.randint(1, 3))), lambda d: ("upper", d)
    )
    return capitals(rng, text, "upper")


def _exchange(rng: random.Random, split: Split) -> Question:
    text, old, new = draw(rng, split, _phrase_and_words, lambda d: ("exchange", *d))
    number = rng.randrange(len(_EXCHANGE_TEMPLATES))
    changed = text.replace(old, new)
    return Question(
        key=Key("instructions", "exchange", (text, old, new), f"exchange {number}"),
        prompt=_EXCHANGE_TEMPLATES[number].format(text=text, old=old, new=new),
        reply=calculator_reply(f'"{text}".replace("{old}", "{new}")', changed, changed),
        answer=changed,
        rule=Exactly((changed,)),
    )


def _phrase_and_words(rng: random.Random) -> tuple[str, str, str]:
    """A noun with a few words around it, and another noun to put in its place."""
    old, new = rng.sample(v.OBJECTS + v.PETS, 2)
    look, where = rng.choice(v.LOOKS + v.COLOURS), rng.choice(tuple(v.PLACES.values()))
    text = rng.choice(
        (f"the {look} {old}", f"the {old} is {where}", f"my {old} is {look}", f"I like the {look} {old}")
    )
    return (text, old, new) if text.count(old) == 1 else _phrase_and_words(rng)


def _list(rng: random.Random, split: Split) -> Question:
    things, count = rng.choice(_lists_of(split))
    number = rng.randrange(len(_LIST_TEMPLATES))
    # The first of the list, in its order: a habit is easier to learn than a whim, and days are best told in order.
    members = LISTS[things][:count]
    return Question(
        key=Key("instructions", "list", (things, str(count)), f"list {number}"),
        prompt=_LIST_TEMPLATES[number].format(count=number_word(count), things=things),
        reply=text_reply(capitalise(listed(members)) + "."),
        answer=listed(members),
        rule=Listing(count, tuple(member.lower() for member in LISTS[things])),
    )


@cache
def _lists_of(split: Split) -> tuple[tuple[str, int], ...]:
    """The pairs of things and count that belong to `split`; there are few, so they are dealt out by rank."""
    pairs = {f"{things} {count}": (things, count) for things in LISTS for count in (2, 3, 4)}
    dealt = deal(list(pairs), salt="list", exam=0.2, development=0.1)
    return tuple(pairs[subject] for subject, its_split in dealt.items() if its_split == split)


def _phrase(rng: random.Random, split: Split, purpose: str) -> str:
    return draw(rng, split, phrase, lambda drawn: (purpose, drawn))


def _exact(
    relation: str,
    entities: tuple[str, ...],
    templates: tuple[str, ...],
    values: dict,
    reply: str,
    rng: random.Random,
) -> Question:
    number = rng.randrange(len(templates))
    return Question(
        key=Key("instructions", relation, entities, f"{relation} {number}"),
        prompt=templates[number].format(**values),
        reply=text_reply(reply),
        answer=reply,
        rule=Exactly((reply,)),
    )
