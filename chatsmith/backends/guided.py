"""Following a constrained reply token by token, through llguidance (https://github.com/guidance-ai/llguidance).

It says which ids may come next, and the sampler chooses among those alone. The end of the turn is among them only
where the form is complete. No other special token is, unless a Lark grammar names it, so a constrained reply calls no
tool.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from chatsmith.runtime.errors import UserError
from chatsmith.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    from llguidance import LLMatcher
    from llguidance._lib import JsonCompileOptions


# -------------------- engine.errors
# What the engine answers to a request that it cannot serve.


class RequestError(UserError):
    """A request that cannot be served. `parameter` names the field at fault, `code` the kind of mistake."""

    def __init__(self, message: str, *, parameter: str, code: str = "invalid_value") -> None:
        super().__init__(message)
        self.parameter = parameter
        self.code = code


# -------------------- engine.constraints
# What a reply may be constrained to: a JSON schema, a regular expression, a choice of texts, or a grammar.
#
# Plain values; `chatsmith.backends.guided` enforces them. A constraint says nothing about length: max_tokens may still
# cut a reply before it is complete.


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


JSON_LAYOUT: "JsonCompileOptions" = {
    "whitespace_flexible": False,
    "item_separator": ", ",
    "key_separator": ": ",
}
"""As json.dumps writes. A small model that may add white space where it likes soon adds nothing else."""


class Form:
    """Where one reply stands in its form."""

    def __init__(self, matcher: "LLMatcher", vocab_size: int) -> None:
        self._matcher = matcher
        self._vocab_size = vocab_size

    @property
    def failure(self) -> str | None:
        """Why no id at all may follow, if so: the grammar is too complex, say."""
        return self._matcher.get_error().splitlines()[0] if self._matcher.is_error() else None

    def allowed(self) -> Tensor:
        """Which ids may come next: (V,) bool, on the CPU. None of them, where there is a failure."""
        packed = torch.frombuffer(bytearray(self._matcher.compute_bitmask()), dtype=torch.uint8)
        if self._matcher.is_error():
            return torch.zeros(self._vocab_size, dtype=torch.bool)
        bits = (packed[:, None] >> torch.arange(8, dtype=torch.uint8)) & 1
        return bits.flatten()[: self._vocab_size].bool()

    def push(self, id: int) -> None:
        """Go on by one id of those allowed."""
        self._matcher.consume_token(id)


class Forms:
    """Makes a Form of a Constraint, for one tokenizer."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        from llguidance import LLTokenizer  # only who asks for a form waits for the library to load

        self._vocab_size = tokenizer.vocab_size
        end = tokenizer.special("<|assistant_end|>")
        self._tokenizer = LLTokenizer(tokenizer.to_json(), n_vocab=tokenizer.vocab_size, eos_token=end)

    def start(self, constraint: Constraint) -> Form:
        """The beginning of a reply of this form. Raises RequestError if the form makes no sense."""
        from llguidance import LLMatcher

        try:
            grammar = _grammar(constraint)
        except ValueError as error:  # a number that it cannot hold, for one
            raise RequestError(
                f"the {constraint.kind} cannot be used: {error}", parameter="constraint"
            ) from error
        matcher = LLMatcher(self._tokenizer, grammar, log_level=0)
        if matcher.is_error():
            reason = matcher.get_error().splitlines()[0]
            raise RequestError(f"the {constraint.kind} cannot be used: {reason}", parameter="constraint")
        return Form(matcher, self._vocab_size)


def _grammar(constraint: Constraint) -> str:
    from llguidance import LLMatcher

    if constraint.kind == "json_schema":
        schema = json.loads(constraint.value)
        return LLMatcher.grammar_from_json_schema(schema, overrides=JSON_LAYOUT)
    if constraint.kind == "regex":
        return LLMatcher.grammar_from_regex(constraint.value)
    return LLMatcher.grammar_from_lark(constraint.value)
