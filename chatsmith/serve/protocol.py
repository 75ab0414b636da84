"""What clients send and what they get back: OpenAI's requests and answers, and ours beyond them (docs/serving.md).

A field of OpenAI's schema is declared here to be honored, or refused by name: it is never ignored. Ranges are OpenAI's.
Nothing is converted: `true`, `"5"` and `5.0` are no integers. `null` means the same as leaving a field out. Fields that
the schema does not know are let through and counted. The checks here need nothing but the request; what depends on the
model is checked where the prompt is made. Answers are plain dictionaries, described for /openapi.json in answers.toml.
"""

import json
import re
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self, TypeVar

import msgspec
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, model_validator
from pydantic_core import PydanticCustomError, ValidationError

from chatsmith.engine.request import MAX_TOP_LOGPROBS, SamplingParams
from chatsmith.serve.errors import ApiError, invalid, unsupported

ModelT = TypeVar("ModelT", bound=BaseModel)

# ---- the body as JSON ----


def parse_object(body: bytes) -> dict[str, Any]:
    """The JSON object in `body`. Raises ApiError (400) that says what is wrong with it.

    Python's parser is lenient: it takes NaN and Infinity, reads 1e400 as infinity, and lets half of a surrogate pair
    pass as a character; msgspec's is not. Both keep the last of two equal keys. All of these would surface later as a
    crash, or as something the client did not mean, and are refused here.
    """
    if not body.strip():
        raise _bad_json("the request has no body; send a JSON object")
    try:
        value = json.loads(body, object_pairs_hook=_unambiguous)
        msgspec.json.decode(body)
    except RecursionError as error:
        raise too_deep() from error
    except ValueError as error:
        raise _bad_json(f"the body is not valid JSON: {error}") from error
    if not isinstance(value, dict):
        raise _bad_json("the body must be a JSON object")
    return value


def too_deep() -> ApiError:
    """The body is JSON, but nested more deeply than it can be handled."""
    return _bad_json("the body is nested too deeply")


def _bad_json(message: str) -> ApiError:
    return invalid(message, code="invalid_json")


def _unambiguous(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))
        raise _bad_json(f"the key {twice[:40]!r} appears twice in one object")
    return result


# ---- validation ----


def _read(name: str) -> dict[str, dict[str, Any]]:
    return tomllib.loads(Path(__file__).with_name(f"{name}.toml").read_text(encoding="utf-8"))


REFUSED = _read("refused")
"""Fields and values of OpenAI's API that are refused by name, and those that ask for nothing."""

MAX_REASONS = 4
"""A field that may have several types is refused for up to this many reasons; more explain nothing."""

NAME, ID = r"^[a-zA-Z0-9_-]{1,64}$", r"^[0-9]{1,9}$"
PATTERNS = {
    NAME: "should be 1 to 64 letters, digits, _ or -",
    ID: "is no token id: the keys are ids, in digits",
}
"""What texts of a pattern are, in words."""


class ClientModel(BaseModel):
    """The base of everything that a client sends."""

    model_config = ConfigDict(strict=True, extra="allow", allow_inf_nan=False, protected_namespaces=())
    refused: ClassVar[Mapping[str, str]] = {}
    """Fields of OpenAI's schema that are refused, and why."""

    @model_validator(mode="before")
    @classmethod
    def _refuse(cls, obj: Any) -> Any:
        for name, reason in cls.refused.items() if isinstance(obj, dict) else ():
            if (value := obj.get(name)) is not None and not cls._is_harmless(name, value, obj):
                raise PydanticCustomError("unsupported", "{reason}", {"field": name, "reason": reason})
        return obj

    @classmethod
    def _is_harmless(cls, name: str, value: Any, obj: Mapping[str, Any]) -> bool:
        return any(type(value) is type(one) and value == one for one in REFUSED["harmless"].get(name, ()))

    @property
    def unknown_fields(self) -> list[str]:
        """Fields that the schema does not have, in inner objects too: `messages.cache_control`."""
        found = set(self.model_extra or {})
        for name, value in vars(self).items():
            if value is None:
                continue
            # The items of a list are of one kind, so the first tells whether to look at a million numbers.
            inner = (
                value if isinstance(value, list) and value and isinstance(value[0], ClientModel) else [value]
            )
            for one in inner:
                if isinstance(one, ClientModel):
                    found.update(f"{name}.{field}" for field in one.unknown_fields)
        return sorted(found)


def explain(errors: Sequence[Any], body: Any) -> ApiError:
    """pydantic's errors about a body (`loc` begins with "body") as one answer: the field at fault, and why."""
    found = [(*_public_path(one, body), one) for one in errors]
    for path, _, one in found:
        if one["type"] == "unsupported":
            return unsupported(".".join(filter(None, (path, one["ctx"]["field"]))), one["ctx"]["reason"])
        kind = REFUSED["kinds"].get(re.sub(r"\b\d+\b", "*", path))
        if kind is not None and one["input"] in kind["values"]:
            return unsupported(path, kind["reason"])
    path, union, first = found[0]
    alike = [first]
    if union is not None:
        # Each branch of a union has its own errors. One that is inside a named field of an object is about what was
        # sent; otherwise the union's own field is at fault, for as many reasons as it has branches.
        of_union = [(where, one) for where, its_union, one in found if its_union == union]
        inner = [(where, one) for where, one in of_union if where != union and not where[-1].isdigit()]
        path = inner[0][0] if inner else union
        alike = [inner[0][1]] if inner else [one for _, one in of_union]
    reasons = list(dict.fromkeys(map(_reason, alike)))
    return invalid(f"{path} {', or '.join(reasons[:MAX_REASONS])}", path)


def checked(kind: type[ModelT], body: dict[str, Any]) -> ModelT:
    """A request that was made of another one. Raises ApiError (400)."""
    try:
        return kind.model_validate(body)
    except ValidationError as error:
        raise explain([{**one, "loc": ("body", *one["loc"])} for one in error.errors()], body) from None


def _reason(error: Mapping[str, Any]) -> str:
    """pydantic's words, as the end of a sentence that begins with the parameter."""
    if words := PATTERNS.get(error.get("ctx", {}).get("pattern")):
        return words
    message = re.sub(r" or instance of \w+| or object to ex.*? from| after validation", "", error["msg"])
    message = re.sub(r"^(Input|String|List|Dictionary) should", "should", message)
    return "is missing" if message == "Field required" else message.replace("dictionary", "object")


def _public_path(error: Mapping[str, Any], body: Any) -> tuple[str, str | None]:
    """The path of an error as the client knows it, and that of the union it lies in, if any.

    pydantic also names the branches of unions (`stop.constrained-str`), which no client sent.
    """
    path: list[str] = []
    union: str | None = None
    place, location = body, error["loc"][1:]
    for depth, step in enumerate(location, start=1):
        if isinstance(place, dict) and (
            step in place or (depth == len(location) and error["type"] == "missing")
        ):
            place = place.get(step)
        elif isinstance(place, list) and isinstance(step, int) and step < len(place):
            place = place[step]
        else:
            union = ".".join(path) if union is None else union
            continue
        path.append(str(step)[:64])  # it may be a key of the client's, of any length
    return ".".join(path), union


# ---- requests ----

MAX_N = 128
MAX_PROMPTS = 128
MAX_STOPS = 32
"""lm-eval sends every stop text of a task and the end token, more than the four of OpenAI's schema."""

COMPLETION_MAX_TOKENS = 16
"""OpenAI's default for /v1/completions."""

MAX_BIASES = 1024
MAX_MESSAGES = 4096
MAX_TOOLS = 128


def _check_number_of_biases(biases: Any) -> Any:
    """Before the entries are checked one by one, which would take seconds."""
    if isinstance(biases, dict) and len(biases) > MAX_BIASES:
        raise PydanticCustomError(
            "too_long",
            "has {count} entries; {most} at most are allowed",
            {"count": len(biases), "most": MAX_BIASES},
        )
    return biases


StopText = Annotated[str, StringConstraints(min_length=1, max_length=512)]
ShortText = Annotated[str, StringConstraints(max_length=512)]
ToolName = Annotated[str, StringConstraints(pattern=NAME)]
Bias = Annotated[float, Field(ge=-100, le=100)]
IdText = Annotated[str, StringConstraints(pattern=ID)]
Biases = Annotated[dict[IdText, Bias], Field(max_length=MAX_BIASES), BeforeValidator(_check_number_of_biases)]
# Failing fast: a list of a million wrong items is one mistake, and listing the others would take seconds.
Ids = Annotated[list[int], Field(fail_fast=True)]
Positive = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0, le=1)]
TopP = Annotated[float, Field(gt=0, le=1)]
Penalty = Annotated[float, Field(ge=-2, le=2)]


class Defaults(BaseModel):
    """How a model samples where a request does not say: from its bundle's generation_config.json."""

    model_config = ConfigDict(strict=True, frozen=True, allow_inf_nan=False)

    temperature: Annotated[float, Field(ge=0)] = 1.0
    top_p: TopP = 1.0
    top_k: Annotated[int, Field(ge=-1)] = 0
    min_p: Share = 0.0
    max_tokens: Positive | None = None
    """Longest reply of a chat; None is the rest of the context."""


SAMPLING_FIELDS = (
    *("temperature", "top_p", "top_k", "min_p", "seed"),
    *("repetition_penalty", "frequency_penalty", "presence_penalty"),
)
"""Fields of a request that the engine's SamplingParams has under the same name."""


class StreamOptions(ClientModel):
    """What a stream carries besides the reply."""

    include_usage: bool | None = None
    """A last chunk with the token counts."""
    continuous_usage_stats: bool | None = None
    """Token counts in every chunk (as in vLLM)."""
    include_obfuscation: bool | None = None
    """Only false can be honored: chunks are never padded."""


class ModelRequest(ClientModel):
    """What every request has."""

    model: str | None = None
    """A name from /v1/models. Without one, the first."""


class ReplyRequest(ModelRequest):
    """What all requests for a reply have in common."""

    stream: bool | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: TopP | None = None
    user: ShortText | None = None
    """Noted in the log."""


class SamplingRequest(ReplyRequest):
    """What chat and text completions have in common."""

    stream_options: StreamOptions | None = None
    n: Annotated[int, Field(ge=1, le=MAX_N)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), le=2**63 - 1)] | None = None
    frequency_penalty: Penalty | None = None
    presence_penalty: Penalty | None = None
    logit_bias: Biases | None = None
    stop: StopText | Annotated[list[StopText], Field(fail_fast=True, max_length=MAX_STOPS)] | None = None

    # vLLM's names for what OpenAI's schema lacks
    top_k: Annotated[int, Field(ge=-1)] | None = None
    min_p: Share | None = None
    repetition_penalty: Annotated[float, Field(gt=0, le=100)] | None = None
    min_tokens: Annotated[int, Field(ge=0)] | None = None
    stop_token_ids: Annotated[Ids, Field(max_length=1024)] | None = None
    ignore_eos: bool | None = None
    return_token_ids: bool | None = None

    @model_validator(mode="after")
    def _check_stream_options(self) -> Self:
        if self.stream_options is not None:
            if not self.stream:
                raise invalid("stream_options is only allowed when stream is true", "stream_options")
            if self.stream_options.include_obfuscation:
                raise unsupported("stream_options.include_obfuscation", "chunks are not padded here")
        return self

    def sampling(self, defaults: Defaults, max_tokens: int | None, logprobs: int | None) -> SamplingParams:
        """How to sample; the model's defaults fill in what the request leaves out."""
        given = {name: getattr(self, name) for name in SAMPLING_FIELDS}
        chosen = vars(defaults) | {name: value for name, value in given.items() if value is not None}
        del chosen["max_tokens"]
        chosen["top_k"] = max(_bounded(chosen["top_k"]), 0)  # vLLM's -1 is no limit, as is our 0
        return SamplingParams(
            **chosen,
            logit_bias={int(id): bias for id, bias in (self.logit_bias or {}).items()},
            max_tokens=None if max_tokens is None else _bounded(max_tokens),
            min_tokens=_bounded(self.min_tokens or 0),
            stop=(self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ()),
            stop_ids=tuple(map(_bounded, self.stop_token_ids or ())),
            ignore_end=bool(self.ignore_eos),
            logprobs=logprobs,
        )


def _bounded(number: int) -> int:
    """A number beyond every context and vocabulary, as one that still is and that a message to the engine can hold."""
    return max(-1, min(number, 2**31))


class FunctionCall(ClientModel):
    """The name of a tool, and the arguments as the text of a JSON object."""

    name: str
    arguments: str


class ToolCall(ClientModel):
    """A call of a client's own tool."""

    id: str
    type: Literal["function"]
    function: FunctionCall


class ReplyPart(ClientModel):
    """A stretch of a reply: text, a call of the calculator, or its output."""

    kind: Literal["text", "python", "output"]
    text: str


class ReplyExtension(ClientModel):
    """Our own field of an assistant message: the whole reply, calls of the server's tools included."""

    parts: Annotated[list[ReplyPart], Field(fail_fast=True)]


class ContentPart(ClientModel):
    """A part of a message. Only text can be read here; a refusal counts as the text it is."""

    refused = REFUSED["content_part"]

    type: str
    text: str | None = None
    refusal: str | None = None


class ChatMessage(ClientModel):
    """One message of a conversation."""

    refused = REFUSED["message"]

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | Annotated[list[ContentPart], Field(fail_fast=True)] | None = None
    refusal: str | None = None
    """Counts as the text it is, where there is no content."""
    tool_calls: Annotated[list[ToolCall], Field(fail_fast=True, max_length=128)] | None = None
    tool_call_id: str | None = None
    chatsmith: ReplyExtension | None = None
    """The reply exactly as the server wrote it, calls of the calculator included; instead of content."""

    @classmethod
    def _is_harmless(cls, name: str, value: Any, obj: Mapping[str, Any]) -> bool:
        # In OpenAI's schema a tool message has no name, so there it is one more unknown field. The role function, whose
        # messages have one, is refused itself.
        return name == "name" and obj.get("role") in ("tool", "function")


class Function(ClientModel):
    """A client's tool, as described to the model."""

    name: ToolName
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None
    """Makes no difference: arguments always follow the schema."""


class Tool(ClientModel):
    """A client's tool."""

    type: Literal["function"]
    function: Function


class FunctionName(ClientModel):
    """The name of one tool."""

    name: str


class ToolChoice(ClientModel):
    """This tool must be called."""

    type: Literal["function"]
    function: FunctionName


class JSONSchemaFormat(ClientModel):
    """A named JSON schema."""

    name: ToolName
    description: str | None = None
    schema_: dict[str, Any] | None = Field(None, alias="schema")
    strict: bool | None = None
    """Makes no difference: the reply always follows the schema."""


class ResponseFormat(ClientModel):
    """The format of the reply."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JSONSchemaFormat | None = None


Messages = Annotated[list[ChatMessage], Field(fail_fast=True, min_length=1, max_length=MAX_MESSAGES)]
Tools = Annotated[list[Tool], Field(fail_fast=True, max_length=MAX_TOOLS)]


class ChatRequest(SamplingRequest):
    """The body of POST /v1/chat/completions."""

    refused = REFUSED["chat"]

    messages: Messages
    max_tokens: Positive | None = None
    max_completion_tokens: Positive | None = None
    """The same as max_tokens."""
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=MAX_TOP_LOGPROBS)] | None = None
    response_format: ResponseFormat | None = None
    tools: Tools | None = None
    tool_choice: Literal["none", "auto", "required"] | ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    prompt_cache_key: ShortText | None = None
    """Requests with the same key go to the same engine when load allows."""
    safety_identifier: ShortText | None = None
    """Noted in the log."""

    # ours
    continue_final_message: bool | None = None
    assistant_prefix_ids: Annotated[Ids, Field(max_length=1_000_000)] | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.top_logprobs is not None and not self.logprobs:
            raise invalid("top_logprobs is only allowed when logprobs is true", "top_logprobs")
        format = self.response_format
        if format is not None and format.type == "json_schema":
            if format.json_schema is None:
                raise invalid(
                    "response_format of the type json_schema needs a json_schema",
                    "response_format.json_schema",
                )
            if format.json_schema.schema_ is None:
                raise invalid("json_schema needs a schema", "response_format.json_schema.schema")
        names = [tool.function.name for tool in self.tools or []]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise invalid(f"the tool {twice[0]} is defined twice", "tools")
        choice = self.tool_choice
        if not names and choice is not None and choice != "none":
            raise invalid("tool_choice is only allowed when tools are given", "tool_choice")
        if isinstance(choice, ToolChoice) and choice.function.name not in names:
            raise invalid(f"tool_choice names {choice.function.name!r}, which is not in tools", "tool_choice")
        return self


class CompletionRequest(SamplingRequest):
    """The body of POST /v1/completions."""

    refused = REFUSED["completions"]

    prompt: (
        str
        | Annotated[list[str], Field(fail_fast=True, max_length=MAX_PROMPTS)]
        | Ids
        | Annotated[list[Ids], Field(fail_fast=True, max_length=MAX_PROMPTS)]
    )
    max_tokens: Annotated[int, Field(ge=0)] | None = None
    logprobs: Annotated[int, Field(ge=0, le=MAX_TOP_LOGPROBS)] | None = None
    echo: bool | None = None
    add_special_tokens: bool | None = None
    """Begin a prompt of text with `<|bos|>` (the default), as the training documents did."""

    @classmethod
    def _is_harmless(cls, name: str, value: Any, obj: Mapping[str, Any]) -> bool:
        if name == "best_of":
            return type(value) is int and value == (obj.get("n") or 1)
        return super()._is_harmless(name, value, obj)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.max_tokens == 0 and not self.echo:
            raise invalid("max_tokens must be at least 1, unless echo is true", "max_tokens")
        return self

    @property
    def prompts(self) -> list[str] | list[Ids]:
        """The prompts, one or several, all of one kind. Raises ApiError (400) if one is empty."""
        given = self.prompt
        is_one = isinstance(given, str) or (bool(given) and isinstance(given[0], int))
        prompts: Any = [given] if is_one else given
        if not prompts or not all(prompts):
            raise invalid("prompt must not be empty", "prompt")
        return prompts


class TokenizeRequest(ModelRequest):
    """The body of POST /tokenize: a text in which special tokens are read, or a conversation."""

    prompt: str | None = None
    add_special_tokens: bool | None = None
    """Begin the text with `<|bos|>`; not by default."""
    messages: Messages | None = None
    tools: Tools | None = None
    add_generation_prompt: bool | None = None
    """End with the token after which the assistant speaks; the default."""
    continue_final_message: bool | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.prompt is None) == (self.messages is None):
            raise invalid("give either a prompt or messages", "prompt")
        return self


class DetokenizeRequest(ModelRequest):
    """The body of POST /detokenize."""

    tokens: Annotated[Ids, Field(max_length=4_000_000)]


# ---- answers ----

_ENTRIES = _read("answers")
_FAILURES = _ENTRIES.pop("failures")
ANSWERS: dict[str, dict[str, Any]] = {
    name: {"type": "object", "required": list(entry["properties"]), "additionalProperties": False, **entry}
    for name, entry in _ENTRIES.items()
}
"""JSON Schemas of the answers, by name."""


def answer(name: str, *, streamed: bool = False) -> dict[int | str, dict[str, Any]]:
    """What /openapi.json says of success: JSON of this schema, or if that is asked for, server-sent events."""
    content = {"application/json": {"schema": {"$ref": f"#/components/schemas/{name}"}}}
    if streamed:
        # Of no type: to some readers of the document it describes the whole stream, to others each event.
        content["text/event-stream"] = {"schema": {"description": "Server-sent events."}}
    return {200: {"description": "The answer.", "content": content}}


ERRORS: dict[int | str, dict[str, Any]] = {
    "default": {"content": answer("ErrorResponse")[200]["content"], **_FAILURES}
}
"""What /openapi.json says of answers other than success."""
