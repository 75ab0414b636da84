"""What is asked of the engine and what it answers: SamplingParams, Constraint, Request, Completion.

Plain values, no torch. Every field is checked when the value is made; a wrong one raises a RequestError that names it,
so that a server can turn it into a 400 and a command line into one line.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple

from chatsmith.runtime.errors import UserError
from chatsmith.text.chat import Part

FinishReason = Literal["stop", "length", "cancelled", "error"]

MAX_TOP_LOGPROBS = 20


class RequestError(UserError):
    """A request that cannot be served. `parameter` names the field at fault, `code` the kind of mistake."""

    def __init__(self, message: str, *, parameter: str, code: str = "invalid_value") -> None:
        super().__init__(message)
        self.parameter = parameter
        self.code = code


@dataclass(frozen=True)
class SamplingParams:
    """How to choose each next token, and when to stop."""

    temperature: float = 1.0
    """Divides the logits. 0 always takes the most likely token."""

    top_k: int = 0
    """Only the k most likely tokens may be chosen; 0 allows all."""

    top_p: float = 1.0
    """Only the smallest set of most likely tokens that together reach this probability may be chosen (nucleus
    sampling, Holtzman et al. 2019)."""

    min_p: float = 0.0
    """Only tokens at least this share as likely as the most likely one may be chosen (Nguyen et al. 2024)."""

    repetition_penalty: float = 1.0
    """Divides positive and multiplies negative logits of tokens in the prompt, or sampled since (CTRL, Keskar et al.
    2019)."""

    frequency_penalty: float = 0.0
    """Subtracted from a token's logit once for each time the completion has sampled it."""

    presence_penalty: float = 0.0
    """Subtracted from a token's logit if the completion has sampled it at all."""

    logit_bias: Mapping[int, float] = field(default_factory=dict)
    """Added to the logits of these ids."""

    seed: int | None = None
    """The same request and seed give the same completion, whatever else the engine is doing. None draws one."""

    max_tokens: int | None = None
    """Most tokens in the completion, results of the tool included. None: as many as the context holds. 0 only scores
    the prompt (see Request.score_from)."""

    min_tokens: int = 0
    """No end-of-turn token, stop id or stop string ends the completion before it has this many tokens."""

    stop: tuple[str, ...] = ()
    """Texts that end the completion; its text ends before them."""

    stop_ids: tuple[int, ...] = ()
    """Token ids that end the completion, besides the end of the turn."""

    ignore_end: bool = False
    """Go on after `<|assistant_end|>` or `<|bos|>`, which otherwise end every completion."""

    logprobs: int | None = None
    """Report the log-probability of each sampled or scored token, and of this many most likely ones (0 to 20)."""

    def __post_init__(self) -> None:
        _check("temperature", 0 <= self.temperature < math.inf, "must be 0 or more")
        _check("top_k", self.top_k >= 0, "must be 0 (all) or more")
        _check("top_p", 0 < self.top_p <= 1, "must be above 0 and at most 1")
        _check("min_p", 0 <= self.min_p <= 1, "must be from 0 to 1")
        _check("repetition_penalty", 0 < self.repetition_penalty < math.inf, "must be above 0")
        _check("frequency_penalty", math.isfinite(self.frequency_penalty), "must be a finite number")
        _check("presence_penalty", math.isfinite(self.presence_penalty), "must be a finite number")
        _check("logit_bias", all(map(math.isfinite, self.logit_bias.values())), "must be finite numbers")
        _check("seed", self.seed is None or -(2**63) <= self.seed < 2**63, "must be a 64-bit whole number")
        _check("max_tokens", self.max_tokens is None or self.max_tokens >= 0, "must be 0 or more")
        _check("min_tokens", self.min_tokens >= 0, "must be 0 or more")
        _check("stop", all(self.stop), "must not hold an empty text")
        allowed = self.logprobs is None or 0 <= self.logprobs <= MAX_TOP_LOGPROBS
        _check("logprobs", allowed, f"must be from 0 to {MAX_TOP_LOGPROBS}")


@dataclass(frozen=True)
class Constraint:
    """What a completion must match: a JSON schema, as text; a regular expression (Rust's syntax, without look-around),
    which matches it as a whole; or a context-free grammar in llguidance's dialect of Lark.

    A plain value; a backend compiles it when the request is submitted. It says nothing about length: max_tokens may
    still cut a completion before it is whole.
    """

    kind: Literal["json_schema", "regex", "lark"]
    value: str

    @staticmethod
    def json_schema(schema: dict[str, Any]) -> "Constraint":
        """JSON that is valid under a JSON schema."""
        return Constraint("json_schema", json.dumps(schema))


@dataclass(frozen=True)
class Request:
    """A prompt, as token ids, to be continued or scored."""

    prompt_ids: tuple[int, ...]
    sampling: SamplingParams = field(default_factory=SamplingParams)

    score_from: int | None = None
    """Report the log-probability of every prompt id from this index on. What stands before it is only read, so it
    may come from the prefix cache; what is scored is always computed."""

    constraint: Constraint | None = None
    """What the completion must match."""

    adapter: str = ""
    """The adapter of the backend that the model runs with; "" for the model as it is."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "prompt_ids", tuple(self.prompt_ids))
        _check("prompt", len(self.prompt_ids) > 0, "must not be empty")
        if self.score_from is not None:
            in_prompt = 0 <= self.score_from < len(self.prompt_ids)
            _check("score_from", in_prompt, "must be the index of a prompt id")
        has_work = self.sampling.max_tokens != 0 or self.score_from is not None
        _check("max_tokens", has_work, "must be at least 1, unless the prompt is to be scored")
        if self.constraint is not None:
            _check("min_tokens", self.sampling.min_tokens == 0, "cannot be combined with a constraint")

    @property
    def only_scores(self) -> bool:
        """Is there nothing to generate?"""
        return self.sampling.max_tokens == 0

    def replicas(self, n: int) -> list["Request"]:
        """`n` requests for independent completions of the same prompt: a seed, if given, is spread over them.

        Submitted one after the other, they share all work until their completions differ.
        """
        seed = self.sampling.seed
        if seed is None:
            return [self] * n
        # An odd multiplier permutes the 64-bit numbers, so replicas never share a seed.
        seeds = [(seed + index * 0x9E3779B97F4A7C15 + 2**63) % 2**64 - 2**63 for index in range(n)]
        return [self.with_seed(one) for one in seeds]

    def with_seed(self, seed: int | None) -> "Request":
        """The same request with another seed."""
        return replace(self, sampling=replace(self.sampling, seed=seed))


class TokenLogprob(NamedTuple):
    """Natural log-probabilities under the model itself, before penalties, temperature, truncation and constraints."""

    logprob: float
    top: tuple[tuple[int, float], ...]
    """The most likely (id, log-probability) pairs, best first."""


@dataclass(frozen=True)
class Completion:
    """The engine's answer to one request."""

    prompt_ids: tuple[int, ...]
    ids: tuple[int, ...]
    """Every id after the prompt: the end of the turn and the ids of a stop string are among them."""

    sampled: tuple[bool, ...]
    """For each id: did the model choose it? False where the tool's result was forced in."""

    parts: tuple[Part, ...]
    """Text, calls of the tool, and the tool's outputs, in order; ready for a chat Message."""

    finish_reason: FinishReason
    logprobs: tuple[TokenLogprob | None, ...] | None = None
    """For each id, if asked for; None for forced ids."""

    prompt_logprobs: tuple[TokenLogprob | None, ...] | None = None
    """For each prompt id from `score_from` on, if asked for; None for the very first id, which nothing predicts."""

    cached_tokens: int = 0
    """How many prompt tokens the prefix cache held."""

    error: str | None = None
    """Why, where finish_reason is `error`."""

    @property
    def token_ids(self) -> tuple[int, ...]:
        """`ids`, under the name that other engines give them."""
        return self.ids

    @property
    def text(self) -> str:
        """What the model said, without calls of the tool and their outputs."""
        return "".join(part.text for part in self.parts if part.kind == "text")


class Event(NamedTuple):
    """What one step brought one request."""

    handle: int
    ids: tuple[int, ...]
    """New ids, sampled or forced."""
    parts: tuple[Part, ...]
    """New text, in order, by kind; it may lag behind the ids."""
    completion: Completion | None
    """The answer, once it is finished."""
    logprobs: tuple[TokenLogprob | None, ...] | None = None
    """For each of the new ids, if asked for; None for forced ids."""
    cached_tokens: int = 0
    """How many prompt tokens the prefix cache held."""


class EngineStats(NamedTuple):
    """What the engine is doing, and what it has done since it was made."""

    num_running: int = 0
    """Requests that hold a part of the pool."""
    num_waiting: int = 0
    """Requests that wait for room."""
    num_free_blocks: int = 0
    """Blocks of the pool that no request holds; cached prefixes are among them."""
    num_preemptions: int = 0
    """How often a request had to give its blocks back and start again."""
    prefix_queries: int = 0
    """Prompt tokens that were looked up in the prefix cache."""
    prefix_hits: int = 0
    """Prompt tokens that were found in it."""


def _check(parameter: str, holds: bool, rule: str) -> None:
    if not holds:
        raise RequestError(f"{parameter} {rule}", parameter=parameter)


def check_possible(request: Request, context: int, pool_tokens: int, vocab_size: int) -> None:
    """Raise RequestError if an engine of these sizes could never answer the request."""
    length, only_scores = len(request.prompt_ids), request.only_scores
    # A reply needs a place; the last id of a prompt that is only scored needs none.
    within_context = f"the model's context holds {context}, the reply included: shorten the prompt"
    within_pool = f"the key-value pool holds {pool_tokens}: give it more memory, or shorten the prompt"
    limits = ((context - 1 + 2 * only_scores, within_context), (pool_tokens + only_scores, within_pool))
    for most, words in limits:
        if length > most:
            message = f"the prompt has {length} tokens, but {words}"
            raise RequestError(message, parameter="prompt", code="context_length_exceeded")
    sampling = request.sampling
    named = {"prompt": request.prompt_ids, "logit_bias": sampling.logit_bias, "stop_ids": sampling.stop_ids}
    for parameter, ids in named.items():
        if not all(0 <= id < vocab_size for id in ids):
            raise RequestError(f"{parameter} has an id outside the vocabulary", parameter=parameter)
