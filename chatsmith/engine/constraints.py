"""What a reply may be constrained to: a JSON schema, a regular expression, a choice of texts, or a grammar.

Plain values; `chatsmith.engine.forms` enforces them. A constraint says nothing about length: max_tokens may still
cut a reply before it is complete.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from chatsmith.engine.errors import RequestError


@dataclass(frozen=True)
class Constraint:
    """A form that a reply must have. Whether it makes sense is found out when it is submitted."""

    kind: Literal["json_schema", "regex", "lark"]
    value: str

    @staticmethod
    def json_schema(schema: dict[str, Any]) -> "Constraint":
        """JSON that is valid under a JSON schema."""
        return Constraint("json_schema", json.dumps(schema))

    @staticmethod
    def json_object() -> "Constraint":
        """Any JSON object."""
        return Constraint.json_schema({"type": "object"})

    @staticmethod
    def regex(pattern: str) -> "Constraint":
        """Text that a regular expression (Rust's syntax, without look-around) matches as a whole."""
        return Constraint("regex", pattern)

    @staticmethod
    def choice(texts: Sequence[str]) -> "Constraint":
        """One of these texts."""
        if not texts:
            raise RequestError("constraint must offer at least one text", parameter="constraint")
        return Constraint.regex("|".join(map(re.escape, texts)))

    @staticmethod
    def lark(grammar: str) -> "Constraint":
        """Text of a context-free grammar, in llguidance's dialect of Lark."""
        return Constraint("lark", grammar)
