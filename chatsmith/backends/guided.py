"""Guided decoding: following a constrained completion token by token, through llguidance
(https://github.com/guidance-ai/llguidance).

It says which ids may come next, and the sampler chooses among those alone. The end of the turn is among them only
where the completion is whole. No other special token is, unless a Lark grammar names it, so a constrained completion
calls no tool.
"""

import json
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from chatsmith.engine.request import Constraint, RequestError
from chatsmith.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    from llguidance import LLMatcher
    from llguidance._lib import JsonCompileOptions

JSON_LAYOUT: "JsonCompileOptions" = {
    "whitespace_flexible": False,
    "item_separator": ", ",
    "key_separator": ": ",
}
"""As json.dumps writes. A small model that may add white space where it likes soon adds nothing else."""


class Matcher:
    """Where one completion stands in its grammar: a Guide of the engine."""

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


class _Vocabulary:
    """The tokenizer as llguidance asks for one. Given the file, llguidance would read the names of special tokens in
    what a constraint demands as those tokens; our own `encode` never does."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        ids = range(tokenizer.vocab_size)
        self.eos_token_id = tokenizer.special("<|assistant_end|>")
        self.bos_token_id = tokenizer.bos_id
        self.tokens = [tokenizer.decode_bytes([id]) for id in ids]
        self.special_token_ids = [id for id in ids if tokenizer.is_special(id)]
        self._tokenizer = tokenizer

    def __call__(self, text: str) -> list[int]:
        return self._tokenizer.encode(text)


class Grammars:
    """Compiles constraints, for one tokenizer."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        # Only who constrains a completion waits for the library to load.
        from llguidance import LLTokenizer, TokenizerWrapper

        self._vocab_size = tokenizer.vocab_size
        self._tokenizer = LLTokenizer(TokenizerWrapper(_Vocabulary(tokenizer)), n_vocab=tokenizer.vocab_size)

    def start(self, constraint: Constraint) -> Matcher:
        """The beginning of a completion under `constraint`. Raises RequestError if that makes no sense."""
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
        return Matcher(matcher, self._vocab_size)


def _grammar(constraint: Constraint) -> str:
    from llguidance import LLMatcher

    if constraint.kind == "json_schema":
        schema = json.loads(constraint.value)
        return LLMatcher.grammar_from_json_schema(schema, overrides=JSON_LAYOUT)
    if constraint.kind == "regex":
        return LLMatcher.grammar_from_regex(constraint.value)
    return LLMatcher.grammar_from_lark(constraint.value)
