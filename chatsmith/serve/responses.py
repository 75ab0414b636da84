"""What the server answers, as schemas: /openapi.json shows them, and the tests hold every answer against them.

Answers are built as plain dictionaries, for speed; these classes are not in their way.
"""

from typing import Literal

from pydantic import BaseModel, ConfigDict


class Shape(BaseModel):
    """The base: no field but those named."""

    model_config = ConfigDict(extra="forbid")


class ErrorBody(Shape):
    """What went wrong."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorResponse(Shape):
    """Every answer that is no success."""

    error: ErrorBody


class PromptTokensDetails(Shape):
    """About the tokens of the prompt."""

    cached_tokens: int


class Usage(Shape):
    """Token counts."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails


class TopLogprob(Shape):
    """A token that might have come."""

    token: str
    bytes: list[int] | None
    logprob: float
    id: int


class TokenLogprob(TopLogprob):
    """A token that came."""

    top_logprobs: list[TopLogprob]


class ChatLogprobs(Shape):
    """Of each sampled token."""

    content: list[TokenLogprob]
    refusal: None


class FunctionCall(Shape):
    """Name and arguments; these are JSON, as text."""

    name: str
    arguments: str


class ToolCall(Shape):
    """A call of a client's tool."""

    id: str
    type: Literal["function"]
    function: FunctionCall


class ReplyPart(Shape):
    """A stretch of a reply: text, a call of the calculator, or what it answered."""

    kind: Literal["text", "python", "output"]
    text: str


class ReplyExtension(Shape):
    """The whole reply, calls of the server's tools included."""

    parts: list[ReplyPart]


class AssistantMessage(Shape):
    """The reply. Fields that do not apply are left out."""

    role: Literal["assistant"]
    content: str | None
    refusal: None
    tool_calls: list[ToolCall] = []
    chatsmith: ReplyExtension = ReplyExtension(parts=[])


class ChatChoice(Shape):
    """One reply."""

    index: int
    message: AssistantMessage
    logprobs: ChatLogprobs | None
    finish_reason: Literal["stop", "length", "tool_calls"]
    token_ids: list[int] = []


class ChatCompletion(Shape):
    """The answer of POST /v1/chat/completions."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    system_fingerprint: str
    choices: list[ChatChoice]
    usage: Usage
    prompt_token_ids: list[int] = []


class CompletionLogprobs(Shape):
    """Four lists of one length; the first token of an echoed prompt has no log-probability."""

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[int]


class CompletionChoice(Shape):
    """One reply."""

    index: int
    text: str
    logprobs: CompletionLogprobs | None
    finish_reason: Literal["stop", "length"]
    token_ids: list[int] = []


class Completion(Shape):
    """The answer of POST /v1/completions."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    system_fingerprint: str
    choices: list[CompletionChoice]
    usage: Usage


class SamplingDefaults(Shape):
    """What holds where a request does not say."""

    temperature: float
    top_p: float
    top_k: int
    min_p: float
    max_tokens: int | None


class ModelExtension(Shape):
    """What a chat page wants to know."""

    context_length: int
    vocab_size: int
    num_parameters: int
    defaults: SamplingDefaults
    tools: list[str]


class ModelCard(Shape):
    """One model."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    chatsmith: ModelExtension


class ModelList(Shape):
    """The answer of GET /v1/models."""

    object: Literal["list"]
    data: list[ModelCard]


class MessageRange(Shape):
    """Which tokens a message is: start to end - 1."""

    role: str
    start: int
    end: int


class Tokenization(Shape):
    """The answer of POST /tokenize."""

    tokens: list[int]
    count: int
    max_model_len: int
    token_strs: list[str]
    special: list[bool]
    messages: list[MessageRange]
    cached_tokens: int


class Detokenization(Shape):
    """The answer of POST /detokenize."""

    prompt: str


class TokenizerInfo(Shape):
    """The answer of GET /tokenizer_info."""

    tokenizer_class: str
    bos_token: str
    eos_token: str
    pad_token: None
    chat_template: str
    vocab_size: int
    model_max_length: int


class Health(Shape):
    """The answer of GET /health and GET /ready."""

    status: Literal["ok", "loading", "draining"]
