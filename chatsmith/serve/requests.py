"""What clients may send: OpenAI's requests, and ours beyond them (docs/serving.md lists those).

A field of OpenAI's schema is here to be honoured, or in refusals.py to be refused by name: it is never ignored. Ranges
are OpenAI's. The checks of this file need nothing but the request; what depends on the model is checked where the
prompt is made.
"""

from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self

from pydantic import Field, StringConstraints

from chatsmith.engine.request import MAX_TOP_LOGPROBS, Sampling
from chatsmith.serve.errors import invalid, unsupported
from chatsmith.serve.refusals import REFUSED_BY_CHAT, REFUSED_BY_COMPLETIONS, refuse, refuse_unknown_kinds
from chatsmith.serve.validation import StrictModel

MAX_N = 128
MAX_PROMPTS = 128
MAX_STOPS = 32
"""lm-eval sends every stop text of a task and the end token, more than the four of OpenAI's schema."""

COMPLETION_MAX_TOKENS = 16
"""OpenAI's default for /v1/completions."""

StopText = Annotated[str, StringConstraints(min_length=1, max_length=512)]
Bias = Annotated[float, Field(ge=-100, le=100)]
IdText = Annotated[str, StringConstraints(pattern=r"^[0-9]{1,9}$")]
# Failing fast: a list of a million wrong items is one mistake, and listing the others would take seconds.
Ids = Annotated[list[int], Field(fail_fast=True)]

MAX_BIASES = 1024
MAX_MESSAGES = 4096
MAX_TOOLS = 128


@dataclass(frozen=True)
class Defaults:
    """How a model samples where a request does not say: from its bundle's generation_config.json."""

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    max_tokens: int | None = None
    """Longest reply of a chat; None is the rest of the context."""


class StreamOptions(StrictModel):
    """What a stream carries besides the reply."""

    include_usage: bool | None = None
    """A last chunk with the token counts."""
    continuous_usage_stats: bool | None = None
    """Token counts in every chunk (as in vLLM)."""
    include_obfuscation: bool | None = None
    """Only false can be honoured: chunks are never padded."""


class SamplingRequest(StrictModel):
    """What chat and text completions have in common."""

    model: str | None = None
    """A name from /v1/models. Without one, the first."""
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: Annotated[int, Field(ge=1, le=MAX_N)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), le=2**63 - 1)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    logit_bias: Annotated[dict[IdText, Bias], Field(max_length=MAX_BIASES)] | None = None
    stop: StopText | Annotated[list[StopText], Field(fail_fast=True, max_length=MAX_STOPS)] | None = None
    user: Annotated[str, StringConstraints(max_length=512)] | None = None
    """Noted in the log."""

    # vLLM's names for what OpenAI's schema lacks
    top_k: Annotated[int, Field(ge=-1)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    repetition_penalty: Annotated[float, Field(gt=0, le=100)] | None = None
    min_tokens: Annotated[int, Field(ge=0)] | None = None
    stop_token_ids: Annotated[Ids, Field(max_length=1024)] | None = None
    ignore_eos: bool | None = None
    return_token_ids: bool | None = None

    @classmethod
    def read(cls, obj: dict[str, Any]) -> Self:
        """The request that `obj` holds. Raises ApiError (400) with the parameter."""
        biases = obj.get("logit_bias")
        if isinstance(biases, dict) and len(biases) > MAX_BIASES:
            raise invalid(
                f"logit_bias has {len(biases)} entries; {MAX_BIASES} at most are allowed", "logit_bias"
            )
        request = super().read(obj)
        if request.stream_options is not None:
            if not request.stream:
                raise invalid("stream_options is only allowed when stream is true", "stream_options")
            if request.stream_options.include_obfuscation:
                raise unsupported("stream_options.include_obfuscation", "chunks are not padded here")
        return request

    @property
    def replies(self) -> int:
        """How many replies are asked for, to each prompt."""
        return self.n or 1

    def sampling(self, defaults: Defaults, max_tokens: int | None, logprobs: int | None) -> Sampling:
        """How to sample, where the request does not say as the model's defaults do."""

        def given(name: str) -> Any:
            value = getattr(self, name)
            return getattr(defaults, name) if value is None else value

        stop = self.stop or ()
        return Sampling(
            temperature=given("temperature"),
            top_k=max(given("top_k"), 0),  # vLLM's -1 is no limit, as is our 0
            top_p=given("top_p"),
            min_p=given("min_p"),
            repetition_penalty=self.repetition_penalty or 1.0,
            frequency_penalty=self.frequency_penalty or 0.0,
            presence_penalty=self.presence_penalty or 0.0,
            logit_bias={int(id): bias for id, bias in (self.logit_bias or {}).items()},
            seed=self.seed,
            max_tokens=max_tokens,
            min_tokens=self.min_tokens or 0,
            stop=(stop,) if isinstance(stop, str) else tuple(stop),
            stop_ids=tuple(self.stop_token_ids or ()),
            ignore_end=bool(self.ignore_eos),
            logprobs=logprobs,
        )


class FunctionCall(StrictModel):
    """A call in the history: the name, and the arguments as the text of a JSON object."""

    name: str
    arguments: str


class ToolCall(StrictModel):
    """A call of a client's own tool, in the history of a conversation."""

    id: str
    type: Literal["function"]
    function: FunctionCall


class ReplyPart(StrictModel):
    """A stretch of a reply, as the server gave it out."""

    kind: Literal["text", "python", "output"]
    text: str


class ReplyExtension(StrictModel):
    """Our own field of an assistant message."""

    parts: Annotated[list[ReplyPart], Field(fail_fast=True)]


class ContentPart(StrictModel):
    """A part of a message. Only text can be read here; a refusal counts as the text it is."""

    type: str
    text: str | None = None
    refusal: str | None = None


class ChatMessage(StrictModel):
    """One message of a conversation."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | Annotated[list[ContentPart], Field(fail_fast=True)] | None = None
    refusal: str | None = None
    """Counts as the text it is, where there is no content."""
    tool_calls: Annotated[list[ToolCall], Field(fail_fast=True, max_length=128)] | None = None
    tool_call_id: str | None = None
    chatsmith: ReplyExtension | None = None
    """The reply exactly as the server wrote it, calls of the calculator included; instead of content."""


class Function(StrictModel):
    """A tool of the client's, as the model is told of it."""

    name: Annotated[str, StringConstraints(pattern=r"^[a-zA-Z0-9_-]{1,64}$")]
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None
    """Makes no difference: arguments always obey the schema."""


class Tool(StrictModel):
    """A tool of the client's."""

    type: Literal["function"]
    function: Function


class FunctionName(StrictModel):
    """The name of one tool."""

    name: str


class ToolChoice(StrictModel):
    """This tool must be called."""

    type: Literal["function"]
    function: FunctionName


class JSONSchemaFormat(StrictModel):
    """A named JSON schema."""

    name: Annotated[str, StringConstraints(pattern=r"^[a-zA-Z0-9_-]{1,64}$")]
    description: str | None = None
    schema_: dict[str, Any] | None = Field(None, alias="schema")
    strict: bool | None = None
    """Makes no difference: the reply always obeys the schema."""


class ResponseFormat(StrictModel):
    """The form that the reply must have."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JSONSchemaFormat | None = None


class ChatRequest(SamplingRequest):
    """The body of POST /v1/chat/completions."""

    messages: Annotated[list[ChatMessage], Field(fail_fast=True, min_length=1, max_length=MAX_MESSAGES)]
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    """The same as max_tokens, and before it."""
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=MAX_TOP_LOGPROBS)] | None = None
    response_format: ResponseFormat | None = None
    tools: Annotated[list[Tool], Field(fail_fast=True, max_length=MAX_TOOLS)] | None = None
    tool_choice: Literal["none", "auto", "required"] | ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    prompt_cache_key: Annotated[str, StringConstraints(max_length=512)] | None = None
    """Requests with the same key go to the same replica when load allows."""
    safety_identifier: Annotated[str, StringConstraints(max_length=512)] | None = None
    """Noted in the log."""

    # ours
    continue_final_message: bool | None = None
    assistant_prefix_ids: Annotated[Ids, Field(max_length=1_000_000)] | None = None

    @classmethod
    def read(cls, obj: dict[str, Any]) -> Self:
        """The request that `obj` holds. Raises ApiError (400) with the parameter."""
        refuse(obj, REFUSED_BY_CHAT)
        refuse_unknown_kinds(obj)
        request = super().read(obj)
        if request.top_logprobs is not None and not request.logprobs:
            raise invalid("top_logprobs is only allowed when logprobs is true", "top_logprobs")
        format = request.response_format
        if format is not None and format.type == "json_schema":
            if format.json_schema is None:
                raise invalid(
                    "response_format of the type json_schema needs a json_schema",
                    "response_format.json_schema",
                )
            if format.json_schema.schema_ is None:
                raise invalid("json_schema needs a schema", "response_format.json_schema.schema")
        request._check_tools()
        return request

    def _check_tools(self) -> None:
        names = [tool.function.name for tool in self.tools or []]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise invalid(f"the tool {twice[0]} is defined twice", "tools")
        choice = self.tool_choice
        if not names and choice is not None and choice != "none":
            raise invalid("tool_choice is only allowed when tools are given", "tool_choice")
        if isinstance(choice, ToolChoice) and choice.function.name not in names:
            raise invalid(f"tool_choice names {choice.function.name!r}, which is not in tools", "tool_choice")

    @property
    def reported_logprobs(self) -> int | None:
        """Alternatives to report for each token; None where no log-probabilities are asked for."""
        return (self.top_logprobs or 0) if self.logprobs else None


class CompletionRequest(SamplingRequest):
    """The body of POST /v1/completions."""

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
    """Begin a prompt of text with `<|bos|>` (the default), as the documents did that the model learned from."""

    @classmethod
    def read(cls, obj: dict[str, Any]) -> Self:
        """The request that `obj` holds. Raises ApiError (400) with the parameter."""
        best_of = obj.get("best_of")
        harmless = {"best_of": lambda value: type(value) is int and value == (obj.get("n") or 1)}
        refuse({**obj, "best_of": best_of}, REFUSED_BY_COMPLETIONS, harmless)
        request = super().read(obj)
        if request.max_tokens == 0 and not request.echo:
            raise invalid("max_tokens must be at least 1, unless echo is true", "max_tokens")
        return request

    @property
    def prompts(self) -> list[str] | list[Ids]:
        """The prompts, one or several, all of one kind. Raises ApiError (400) if one is empty."""
        given = self.prompt
        is_one = isinstance(given, str) or (bool(given) and isinstance(given[0], int))
        prompts: Any = [given] if is_one else given
        if not prompts or not all(prompts):
            raise invalid("prompt must not be empty", "prompt")
        return prompts


class TokenizeRequest(StrictModel):
    """The body of POST /tokenize: a text in which special tokens are read, or a conversation."""

    model: str | None = None
    prompt: str | None = None
    add_special_tokens: bool | None = None
    """Begin the text with `<|bos|>`; not by default."""
    messages: (
        Annotated[list[ChatMessage], Field(fail_fast=True, min_length=1, max_length=MAX_MESSAGES)] | None
    ) = None
    tools: Annotated[list[Tool], Field(fail_fast=True, max_length=MAX_TOOLS)] | None = None
    add_generation_prompt: bool | None = None
    """End with the mark after which the assistant speaks; the default."""
    continue_final_message: bool | None = None

    @classmethod
    def read(cls, obj: dict[str, Any]) -> Self:
        """The request that `obj` holds. Raises ApiError (400) with the parameter."""
        request = super().read(obj)
        if (request.prompt is None) == (request.messages is None):
            raise invalid("give either a prompt or messages", "prompt")
        return request


class DetokenizeRequest(StrictModel):
    """The body of POST /detokenize."""

    model: str | None = None
    tokens: Annotated[Ids, Field(max_length=4_000_000)]
