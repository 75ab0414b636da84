"""Questions about documents, made from their structure and without a model: for training, and for an examination.

What headings, definitions, entries of lists and signatures say becomes facts. A training pair asks for a fact in one of
the forms of `TRAINING_FORMS`, and its answer stands word for word in its passage, or is the name of its file. The
examination asks in forms that no training pair uses, for a few words that can be looked up so, too.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from itertools import chain, zip_longest

from chatsmith.adapt.passages import Passage
from chatsmith.adapt.search import words

VERSION = 3
"""Raised when the same documents give other questions."""

LEAK_WORDS = 8
"""An examination question shares no so many words in a row with a training pair."""
LONGEST_ANSWER = 400
"""Of a training pair, in characters."""
WORDS_SAID = 16
"""Of what is said, in a question for the subject."""
REPLY_WORDS = 40
"""What comes later in a reply does not count: whoever says everything is not right."""

TRAINING_FORMS = {
    "definition": ("What is {subject}?", "Define {subject}.", "Explain {subject} in one sentence."),
    "entry": ("What do you know about {subject}?", "Explain {subject}.", "Describe {subject} briefly."),
    "signature": (
        "What is the signature of {subject}?",
        "How is {subject} written in code?",
        "How do I call {subject}?",
    ),
    "heading": ("What does {document} say about {subject}?", "Tell me about {subject} ({document})."),
}
"""A fact in several phrasings, and in both directions: what was learned in one of them alone can be repeated, but
hardly asked for in another (Allen-Zhu & Li 2023, arXiv:2309.14316; Berglund et al. 2023, arXiv:2309.12288)."""
REVERSED_FORMS = {
    "definition": ("What do you call {said}?", "Give the name: {said}"),
    "entry": ("Which name is described as “{said}”?", "Give the name: {said}"),
    "signature": (),
    "heading": ("Where can I read about {subject}?", "I'm looking for “{subject}”. Where is it?"),
}
"""From what is said to the subject, or to the document."""
EXAM_FORMS = {
    "definition": "Go on in a few words: {subject} is",
    "entry": "Which term do these words belong to: {beginning} …",
    "signature": "Name the first argument of {subject}.",
    "heading": "Which file has a part called “{subject}”?",
    "beginning": "How does the part on “{subject}” begin?",
    "gap": "Which word is missing: {before} ____ {after}",
}

_SENTENCE = re.compile(r"(?<=[.!?])\s+|\n\s*\n")
_DEFINITION = re.compile(
    r"(?:The |An? )?(?P<subject>[\w`*][\w`*./+()-]*(?: [\w`*./+()-]+){0,3}) (?:is|are|means) "
    r"(?P<said>(?:an?|the|any|one) .{10,})"
)
_ENTRY = re.compile(
    r"\s*(?:[-*+•]\s+|\d+[.)]\s+)?[`*]*(?P<subject>[\w-][^:\n`*]{1,40}?)[`*]*(?:: | [–—-] )(?P<said>\S.{10,})"
)
_SIGNATURE = re.compile(
    r"\s*(?:(?:async )?def|function|func|fn|(?:Function: )?(?:const |unsigned |struct )*\w+[ *]+)\s*"
    r"(?P<subject>[A-Za-z_]\w+) ?\((?P<said>[^()\n]*)\)"
)
_NO_SUBJECT = frozenset(
    re.findall(
        r"\w+",
        """a an and as at but by each for he her here how if in it its no not of on one or she so such that the their
        there these they this those to we what when where which while who why with you your return else case typedef int
        char void function note warning example see next previous up""",
    )
)


@dataclass(frozen=True)
class Question:
    """A question and its answer."""

    question: str
    answer: str
    passage: str
    """The name of the passage that the answer stands in, or whose file is the answer."""
    form: str


@dataclass(frozen=True)
class _Fact:
    kind: str
    subject: str
    answer: str
    """As it stands in the passage."""
    passage: Passage
    said: str = ""
    """What is said of the subject, without it."""


def training_pairs(passages: Sequence[Passage]) -> list[Question]:
    """Every fact in every form for training; of several facts about one subject, the first.

    What has two answers, such as which file has a part called "Options", is not asked.
    """
    of_passage = {one.name: one.name for one in passages}
    for one in passages:
        of_passage[one.name] += f"\n{one.text}"
    pairs: list[Question] = []
    has_several = len({one.document for one in passages}) > 1
    for fact in _facts(passages):
        document, name = fact.passage.document, fact.passage.name
        said = " ".join(fact.said.split()[:WORDS_SAID]).rstrip(".:;,!?")
        of_what = document if fact.kind == "heading" else fact.subject
        reversed_forms = REVERSED_FORMS[fact.kind] if has_several or fact.kind != "heading" else ()
        answers = [(form, fact.answer) for form in TRAINING_FORMS[fact.kind]]
        for form, answer in [*answers, *((form, of_what) for form in reversed_forms)]:
            question = form.format(subject=fact.subject, document=document, said=said)
            if squeezed(answer) in squeezed(of_passage[name]):
                pairs.append(Question(question, answer, name, fact.kind))
    return _with_one_answer(pairs)


def exam_questions(
    passages: Sequence[Passage], pairs: Sequence[Question], most: int, documents: Sequence[str] = ()
) -> list[Question]:
    """At most `most` questions, as many of each form as there are; `documents` are the names of all files there are.

    None shares LEAK_WORDS words in a row with one of `pairs`.
    """
    by_form: dict[str, list[Question]] = {}
    for one in chain(_asked(_facts(passages)), _gaps(passages)):
        if one.form != "heading" or len(documents) > 1:
            by_form.setdefault(one.form, []).append(one)
    shuffled = [
        sorted(one, key=lambda question: _hash(question.question)) for _, one in sorted(by_form.items())
    ]
    in_turn = filter(None, chain.from_iterable(zip_longest(*shuffled)))
    return without_leaks(in_turn, pairs)[:most]


def without_leaks(exam: Iterable[Question], pairs: Iterable[Question]) -> list[Question]:
    """The questions that share no LEAK_WORDS words in a row with a training pair, do not hold their own answer,
    and have one answer alone; each once."""
    known = sequences((text for pair in pairs for text in (pair.question, pair.answer)), LEAK_WORDS)
    asked = {pair.question for pair in pairs}
    return [
        one
        for one in _with_one_answer(exam)
        if one.question not in asked
        and not is_right(one.question, one.answer)
        and not sequences((one.question, one.answer, f"{one.question} {one.answer}"), LEAK_WORDS) & known
    ]


def _with_one_answer(asked: Iterable[Question]) -> list[Question]:
    """Each question once; none whose words stand there with another answer, too."""
    alike: dict[str, list[Question]] = {}
    for one in asked:
        alike.setdefault(one.question.lower(), []).append(one)
    return [first for first, *more in alike.values() if all(one.answer == first.answer for one in more)]


def sequences(texts: Iterable[str], length: int) -> set[tuple[str, ...]]:
    """All sequences of `length` words in the texts."""
    split = map(words, texts)
    return {tuple(one[at : at + length]) for one in split for at in range(len(one) - length + 1)}


def is_right(reply: str, answer: str) -> bool:
    """Whether the words of the answer stand in a row in the beginning of the reply."""
    return f" {' '.join(words(answer))} " in f" {' '.join(words(reply)[:REPLY_WORDS])} "


def _facts(passages: Sequence[Passage]) -> list[_Fact]:
    found: dict[tuple[str, str], _Fact] = {}
    for passage in passages:
        for fact in _facts_of(passage):
            if len(fact.answer) > LONGEST_ANSWER:
                continue
            place = passage.document if fact.kind == "heading" else ""
            found.setdefault((fact.kind, f"{place} {fact.subject.lower()}"), fact)
    return list(found.values())


def _facts_of(passage: Passage) -> Iterator[_Fact]:
    sentences = [one.strip() for one in _SENTENCE.split(passage.text) if one.strip()]
    heading = _bare(re.sub(r"^[\d.]+\s+", "", passage.heading.rpartition(" › ")[2]).rstrip("?:.! "))
    is_prose = sentences and len(words(sentences[0])) > 3 and not sentences[0].startswith("```")
    if heading and not heading.startswith("page ") and is_prose:
        yield _Fact("heading", heading, sentences[0], passage)
    for sentence in sentences:
        if (match := _DEFINITION.fullmatch(" ".join(sentence.split()))) and _can_be_asked(match["subject"]):
            yield _Fact("definition", _bare(match["subject"]), sentence, passage, match["said"])
    for line in passage.text.splitlines():
        if match := _SIGNATURE.match(line):
            if match["said"].strip() and _can_be_asked(match["subject"]):
                yield _Fact("signature", match["subject"], match[0].strip(), passage, match["said"])
        elif (match := _ENTRY.fullmatch(line)) and _can_be_asked(match["subject"]):
            yield _Fact("entry", _bare(match["subject"]), match["said"].strip(), passage, match["said"])


def _can_be_asked(subject: str) -> bool:
    plain = words(subject)
    return bool(plain) and not _NO_SUBJECT & {plain[0], plain[-1]} and any(len(word) > 2 for word in plain)


def _asked(facts: Sequence[_Fact]) -> Iterator[Question]:
    """The facts in the forms of the examination, where they have a short answer."""
    for fact in facts:
        said = fact.said.split()
        match fact.kind:
            case "definition":
                asked = {"definition": " ".join(said[:3])}
            case "entry":
                asked = {"entry": fact.subject}
            case "signature":
                first = fact.said.partition(",")[0].partition("=")[0].partition(":")[0]
                asked = {"signature": (words(first) or [""])[-1]}
            case _:
                begins = " ".join(fact.answer.split()[:4])
                asked = {"heading": fact.passage.document, "beginning": begins}
        for form, answer in asked.items():
            if answer and answer not in ("self", "cls", "void"):
                text = EXAM_FORMS[form].format(subject=fact.subject, beginning=" ".join(said[:6]))
                yield Question(text, answer, fact.passage.name, form)


def _gaps(passages: Sequence[Passage]) -> Iterator[Question]:
    """From each passage, the sentence with the rarest word, without it."""
    frequency = Counter(word for passage in passages for word in set(words(passage.text)))
    for passage in passages:
        places = []
        for sentence in _SENTENCE.split(passage.text):
            split = sentence.split()
            places += [
                (frequency[word.lower()], word, split[at - 3 : at], split[at + 1 : at + 4])
                for at, word in enumerate(split[:-3])
                if at >= 3 and re.fullmatch(r"[^\W\d_]{5,}", word)
            ]
        if places:
            _, word, before, after = min(places, key=lambda place: place[0])
            text = EXAM_FORMS["gap"].format(before=" ".join(before), after=" ".join(after))
            yield Question(text, word, passage.name, "gap")


def _bare(text: str) -> str:
    return text.strip(" `*")


def squeezed(text: str) -> str:
    """The text with single spaces."""
    return " ".join(text.split())


def _hash(text: str) -> str:
    return sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
