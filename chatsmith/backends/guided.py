"""Guided decoding: following a constrained completion token by token, through llguidance
(https://github.com/guidance-ai/llguidance).

It says which ids may come next, and the sampler chooses among those alone. The end of the turn is among them only
where the completion is whole. No other special token is, unless a Lark grammar names it, so a constrained completion
calls no tool.
"""

import json
import re
import tomllib
from collections.abc import Iterable, Iterator
from contextlib import suppress
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

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


MAX_REASON = 500
"""Characters of the reason why a constraint is refused; a pattern may be long."""

REASONS = tomllib.loads(Path(__file__).with_name("refusals.toml").read_text(encoding="utf-8"))
"""llguidance's words (1.9), and ours."""


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

        matcher = None
        try:
            matcher = LLMatcher(self._tokenizer, _grammar(constraint), log_level=0)
            reason = _in_one_line(matcher.get_error()) if matcher.is_error() else _flaw(constraint)
        except ValueError as error:  # a number that it cannot hold, for one
            reason = _in_one_line(str(error))
        if reason or not matcher:
            raise RequestError(f"the {constraint.kind} cannot be used: {reason}", parameter="constraint")
        return Matcher(matcher, self._vocab_size)


def _in_one_line(error: str) -> str:
    """What llguidance says without the excerpt of the grammar and the marks under a pattern, in our words."""
    lines = [line.strip() for line in error.splitlines()]
    told = takewhile(lambda line: not re.match(r"\d+ \|", line), lines)
    reason = " ".join(line for line in told if line.strip("^ "))
    for words, ours in REASONS.items():
        reason = re.sub(words, ours, reason, count=1)
    return reason[:MAX_REASON]


def _grammar(constraint: Constraint) -> str:
    from llguidance import LLMatcher

    if constraint.kind == "json_schema":
        schema = json.loads(constraint.value)
        return LLMatcher.grammar_from_json_schema(schema, overrides=JSON_LAYOUT)
    if constraint.kind == "regex":
        return LLMatcher.grammar_from_regex(constraint.value)
    return LLMatcher.grammar_from_lark(constraint.value)


def _flaw(constraint: Constraint) -> str | None:
    """Why a constraint that llguidance accepts cannot be followed to its end, or not so that the end is valid."""
    for where, root in _schemas(constraint):
        targets: dict[str, Any] = {}
        left = [root]
        while left:
            for one in _subschemas(left.pop()):
                # The grammar counts keys, but cannot tell which it has had: of those not named, only one is certain.
                required, least = set(one.get("required", ())), one.get("minProperties", 0)
                num_named, patterns = len(required), one.get("patternProperties", ())
                is_open = bool(patterns) or one.get("additionalProperties") is not False
                allows_others = one.get("additionalProperties") is not False or any(
                    pattern not in {f"^{key}$" for key in required} for pattern in patterns
                )
                if is_open and least > num_named + allows_others:
                    named = f"required names {num_named}, and others could repeat a key"
                    return f"{where}minProperties is {least}, but {named}"
                if (ref := one.get("$ref")) is not None and ref not in targets:
                    targets[ref] = _target(root, ref)
                    left.append(targets[ref])
        ending: set[str] = set()
        num_before = -1
        while len(ending) > num_before:
            num_before = len(ending)
            for ref, target in reversed(targets.items()):  # most refer to later ones
                if _can_end(target, ending):
                    ending.add(ref)
        if not _can_end(root, ending):
            return f"{where}it requires itself within itself, so no value of it can ever end"
    return None


def _schemas(constraint: Constraint) -> Iterator[tuple[str, Any]]:
    """The JSON schemas of a constraint: its own, or those that a Lark grammar embeds, and their line ("at 3(1): ")."""
    if constraint.kind == "json_schema":
        yield "", json.loads(constraint.value)
    if constraint.kind == "lark":
        for found in re.finditer(r"%json\s*", constraint.value):
            with suppress(ValueError):  # within a text, say
                line = constraint.value.count("\n", 0, found.start()) + 1
                yield f"at {line}(1): ", json.JSONDecoder().raw_decode(constraint.value, found.end())[0]


def _subschemas(schema: Any) -> Iterator[dict[str, Any]]:
    """The schema and all within it."""
    if isinstance(schema, dict):
        yield schema
        nested = [schema.get("items"), schema.get("additionalProperties")]
        for name in ("allOf", "anyOf", "oneOf", "prefixItems"):
            nested += schema.get(name, ())
        for name in ("properties", "patternProperties"):
            nested += schema.get(name, {}).values()
        for one in nested:
            yield from _subschemas(one)


def _target(schema: Any, ref: str) -> Any:
    """The schema that a JSON pointer (#/$defs/name) leads to; True, which allows everything, where it is none."""
    path = ref.removeprefix(schema.get("$id", ""))
    if path != "#" and not path.startswith("#/"):
        return True
    for step in path.split("/")[1:]:
        step = unquote(step).replace("~1", "/").replace("~0", "~")
        try:
            schema = schema[int(step)] if isinstance(schema, list) else schema[step]
        except (KeyError, IndexError, TypeError, ValueError):
            return True
    return schema


def _matches(pattern: str, key: str) -> bool:
    with suppress(re.error):  # the grammar's expressions are Rust's
        return re.search(pattern, key) is not None
    return False


def _can_end(schema: Any, ending: set[str]) -> bool:
    """Has the schema a finite value, where those that `ending` refers to have one?"""
    if not isinstance(schema, dict) or "const" in schema or "enum" in schema:
        return schema is not False

    def all_end(schemas: Iterable[Any]) -> bool:
        return all(_can_end(one, ending) for one in schemas)

    if "$ref" in schema and schema["$ref"] not in ending:
        return False
    if not all_end(schema.get("allOf", ())):
        return False
    for choice in ("anyOf", "oneOf"):
        if choice in schema and not any(_can_end(one, ending) for one in schema[choice]):
            return False
    others, patterns = schema.get("additionalProperties", True), schema.get("patternProperties", {})
    values: list[Any] = []
    for key in schema.get("required", ()):
        matching = [value for pattern, value in patterns.items() if _matches(pattern, key)]
        values.append(schema.get("properties", {}).get(key, matching[0] if matching else others))
    if len(values) < schema.get("minProperties", 0):
        values.append({"anyOf": [others, *patterns.values()]})
    items = [*schema.get("prefixItems", ()), schema.get("items", True)][: schema.get("minItems", 0)]
    ends = {"object": all_end(values), "array": all_end(items)}
    kinds = schema.get("type", "any")
    return any(ends.get(kind, True) for kind in ([kinds] if isinstance(kinds, str) else kinds))
