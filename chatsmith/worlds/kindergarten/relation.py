"""A relation of the world: its facts, and the ways to state them and to ask for them.

Templates are format strings; `Fact.say` fills them in:
    {x} the entity as it stands ("cow", "the sky", "France"), {ax} with its article ("a cow"), {xs} in the plural;
    {v} {av} {vs} the same for the value; {s} the subject of a statement: "a cow", "the cow", or "it".
Statements have no capital and no full stop of their own, so that they can stand inside other sentences.
"""

import random
from dataclasses import dataclass
from functools import cache

from chatsmith.worlds.kindergarten.english import a, plural, sentence
from chatsmith.worlds.kindergarten.keys import Split, deal

# A quarter of the facts is never asked in training: the exam needs enough of them to be worth taking.
_EXAM_SHARE = 0.18
_DEVELOPMENT_SHARE = 0.09


@dataclass(frozen=True)
class Relation:
    """A kind of fact, e.g. what each animal says."""

    name: str
    """Unique, e.g. "animal sound"."""
    facts: dict[str, str]
    """Entity to value."""
    statements: tuple[str, ...]
    """Ways to state a fact. The first is also the reply to a question: recalling it is one step."""
    questions: tuple[str, ...]
    """Ways to ask for the value."""
    mutual: bool = False
    """True if the facts are pairs that hold both ways, like opposites: a pair is then held out as a whole."""

    def splits(self) -> dict[str, Split]:
        """Which entities may be asked about in training, in development and in the exam."""
        return _splits(self)

    def __hash__(self) -> int:
        return hash(self.name)


@dataclass(frozen=True)
class Fact:
    """One entity and its value."""

    relation: Relation
    entity: str
    value: str

    @property
    def split(self) -> Split:
        """Whether training may ask for it."""
        return self.relation.splits()[self.entity]

    def say(self, template: str, subject: str = "") -> str:
        """Fill in a statement or question; without `subject`, {s} is the entity with its article."""
        x, v = self.entity, self.value
        return template.format(
            x=x, ax=a(x), xs=plural(x), v=v, av=a(v), vs=plural(v), s=subject or (x if " " in x else a(x))
        )

    def state(self, rng: random.Random) -> str:
        """The fact in one of its wordings, without capital and full stop; often as a reply would have it."""
        statements = self.relation.statements
        return self.say(statements[0] if rng.random() < 0.4 else rng.choice(statements))

    @property
    def reply(self) -> str:
        """The sentence that answers a question for this fact."""
        return sentence(self.say(self.relation.statements[0]))


@cache
def _splits(relation: Relation) -> dict[str, Split]:
    def unit(entity: str) -> str:
        return "/".join(sorted((entity, relation.facts[entity]))) if relation.mutual else entity

    units = list(dict.fromkeys(unit(entity) for entity in relation.facts))
    dealt = deal(units, salt=relation.name, exam=_EXAM_SHARE, development=_DEVELOPMENT_SHARE)
    return {entity: dealt[unit(entity)] for entity in relation.facts}
