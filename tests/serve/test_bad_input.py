"""Every row of the catalogue of bad inputs: status, type, param and code, and the server answers the next request."""

import gzip
import json
from typing import Any, get_type_hints

import httpx
import openai.types.chat as types
import pytest
from openai.types import completion_create_params as text_params
from openai.types.chat import completion_create_params as chat_params
from openai.types.shared_params import FunctionDefinition, ResponseFormatJSONSchema
from openai.types.shared_params.response_format_json_schema import JSONSchema

from chatsmith.serve.protocol import (
    REFUSED,
    ChatMessage,
    ChatRequest,
    ClientModel,
    CompletionRequest,
    ContentPart,
    Function,
    JSONSchemaFormat,
    ResponseFormat,
    StreamOptions,
    Tool,
    ToolCall,
    ToolChoice,
)

CONTEXT = 256
VOCAB = 100_000  # well beyond it
CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
HELLO = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 1}
CAT = {"prompt": "the cat", "max_tokens": 1}
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}


def chat(**changes: Any) -> dict[str, Any]:
    return {**HELLO, **changes}


def said(*messages: Any) -> dict[str, Any]:
    return chat(messages=list(messages))


def user(content: Any = "hello", **more: Any) -> dict[str, Any]:
    return {"role": "user", "content": content, **more}


def assistant(content: Any = "hi", **more: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": content, **more}


CALL = {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": "{}"}}

# Raw bodies, for what a JSON library would not write.
RAW = [
    (b"", "invalid_json", None),
    (b"   ", "invalid_json", None),
    (b"{", "invalid_json", None),
    (b"[]", "invalid_json", None),
    (b"null", "invalid_json", None),
    (b'"text"', "invalid_json", None),
    (b'{"prompt": "\xff"}', "invalid_json", None),
    (b'\xef\xbb\xbf{"prompt": "a"}', "invalid_json", None),
    (b'{"prompt": "a", "temperature": NaN}', "invalid_json", None),
    (b'{"prompt": "a", "temperature": Infinity}', "invalid_json", None),
    (b'{"prompt": "a", "temperature": -Infinity}', "invalid_json", None),
    (b'{"prompt": "a", "temperature": 1e400}', "invalid_json", None),
    (b'{"prompt": "a", "temperature": 1' + b"0" * 400 + b"}", "invalid_value", "temperature"),
    (b'{"prompt": "a", "seed": 1' + b"0" * 5000 + b"}", "invalid_json", None),
    (b'{"prompt": "\\ud800"}', "invalid_json", None),
    (b'{"prompt": "a", "\\udc00": 1}', "invalid_json", None),
    (b'{"prompt": "a", "prompt": "b"}', "invalid_json", None),
    (b'{"prompt": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "invalid_json", None),
]

# path, body, param, code
WRONG: list[tuple[str, dict[str, Any], str | None, str]] = [
    # types are strict
    (TEXT, {**CAT, "temperature": "nan"}, "temperature", "invalid_value"),
    (TEXT, {**CAT, "temperature": True}, "temperature", "invalid_value"),
    (TEXT, {**CAT, "max_tokens": True}, "max_tokens", "invalid_value"),
    (TEXT, {**CAT, "max_tokens": "5"}, "max_tokens", "invalid_value"),
    (TEXT, {**CAT, "max_tokens": 5.0}, "max_tokens", "invalid_value"),
    (TEXT, {**CAT, "n": "2"}, "n", "invalid_value"),
    (TEXT, {**CAT, "stream": 1}, "stream", "invalid_value"),
    (TEXT, {**CAT, "echo": "yes"}, "echo", "invalid_value"),
    (TEXT, {**CAT, "model": 5}, "model", "invalid_value"),
    (TEXT, {**CAT, "stop": 5}, "stop", "invalid_value"),
    (TEXT, {**CAT, "user": 5}, "user", "invalid_value"),
    # ranges
    (TEXT, {**CAT, "seed": 2**63}, "seed", "invalid_value"),
    (TEXT, {**CAT, "seed": -(2**63) - 1}, "seed", "invalid_value"),
    (TEXT, {**CAT, "seed": 2**64}, "seed", "invalid_value"),
    (CHAT, chat(temperature=-0.1), "temperature", "invalid_value"),
    (CHAT, chat(temperature=2.1), "temperature", "invalid_value"),
    (CHAT, chat(top_p=0), "top_p", "invalid_value"),
    (CHAT, chat(top_p=1.1), "top_p", "invalid_value"),
    (CHAT, chat(frequency_penalty=2.1), "frequency_penalty", "invalid_value"),
    (CHAT, chat(presence_penalty=-2.1), "presence_penalty", "invalid_value"),
    (CHAT, chat(repetition_penalty=0), "repetition_penalty", "invalid_value"),
    (CHAT, chat(min_p=2), "min_p", "invalid_value"),
    (CHAT, chat(top_k=-2), "top_k", "invalid_value"),
    (CHAT, chat(n=0), "n", "invalid_value"),
    (CHAT, chat(n=-1), "n", "invalid_value"),
    (CHAT, chat(n=129), "n", "invalid_value"),
    (TEXT, {**CAT, "prompt": [1] * 200, "n": 100}, "n", "invalid_value"),  # more than the pool holds
    (CHAT, chat(max_tokens=0), "max_tokens", "invalid_value"),
    (CHAT, chat(max_tokens=-1), "max_tokens", "invalid_value"),
    (CHAT, chat(max_completion_tokens=0), "max_completion_tokens", "invalid_value"),
    (CHAT, chat(max_completion_tokens=7, max_tokens=5), "max_tokens", "invalid_value"),
    (TEXT, {**CAT, "max_tokens": 0}, "max_tokens", "invalid_value"),
    (TEXT, {**CAT, "max_tokens": -1, "echo": True}, "max_tokens", "invalid_value"),
    (TEXT, {**CAT, "logprobs": 21}, "logprobs", "invalid_value"),
    (TEXT, {**CAT, "logprobs": -1}, "logprobs", "invalid_value"),
    (CHAT, chat(logprobs=True, top_logprobs=21), "top_logprobs", "invalid_value"),
    (CHAT, chat(top_logprobs=2), "top_logprobs", "invalid_value"),
    (CHAT, chat(logprobs=False, top_logprobs=2), "top_logprobs", "invalid_value"),
    (CHAT, chat(logprobs=3), "logprobs", "invalid_value"),
    (CHAT, chat(stop=[""]), "stop", "invalid_value"),
    (CHAT, chat(stop=""), "stop", "invalid_value"),
    (CHAT, chat(stop=["a"] * 33), "stop", "invalid_value"),
    (CHAT, chat(logit_bias={"1": 101}), "logit_bias.1", "invalid_value"),
    (CHAT, chat(logit_bias={"one": 1}), "logit_bias.one", "invalid_value"),
    (CHAT, chat(logit_bias={str(VOCAB): 1}), "logit_bias", "invalid_value"),
    (CHAT, chat(stop_token_ids=[VOCAB]), "stop_token_ids", "invalid_value"),
    (CHAT, chat(assistant_prefix_ids=[-1]), "assistant_prefix_ids", "invalid_value"),
    # prompts
    (TEXT, {}, "prompt", "invalid_value"),
    (TEXT, {**CAT, "prompt": ""}, "prompt", "invalid_value"),
    (TEXT, {**CAT, "prompt": []}, "prompt", "invalid_value"),
    (TEXT, {**CAT, "prompt": [[]]}, "prompt", "invalid_value"),
    (TEXT, {**CAT, "prompt": ["a", ""]}, "prompt", "invalid_value"),
    (TEXT, {**CAT, "prompt": ["a", 1]}, "prompt", "invalid_value"),
    (TEXT, {**CAT, "prompt": [True]}, "prompt", "invalid_value"),
    (TEXT, {**CAT, "prompt": [1.0]}, "prompt", "invalid_value"),
    (TEXT, {**CAT, "prompt": None}, "prompt", "invalid_value"),
    (
        TEXT,
        {**CAT, "prompt": [True] * 500_000},
        "prompt",
        "invalid_value",
    ),  # told in one reason, not in millions
    (CHAT, said(*[{}] * 500_000), "messages.0.role", "invalid_value"),
    (CHAT, chat(logit_bias={str(id): True for id in range(200_000)}), "logit_bias", "invalid_value"),
    ("/tokenize", {"prompt": "\u00e9" * 200_000}, "prompt", "invalid_value"),
    (TEXT, {**CAT, "prompt": [VOCAB]}, "prompt", "invalid_value"),
    (TEXT, {**CAT, "prompt": [-1]}, "prompt", "invalid_value"),
    (TEXT, {**CAT, "prompt": [10**12]}, "prompt", "invalid_value"),
    (TEXT, {**CAT, "prompt": [1] * CONTEXT}, "prompt", "context_length_exceeded"),
    (TEXT, {**CAT, "prompt": [1] * CONTEXT, "stream": True}, "prompt", "context_length_exceeded"),
    (TEXT, {**CAT, "prompt": "cat " * 5000}, "prompt", "context_length_exceeded"),
    (CHAT, said(user("x" * 5000)), "messages", "context_length_exceeded"),
    (
        TEXT,
        {**CAT, "prompt": [1] * (CONTEXT + 2), "max_tokens": 0, "echo": True},
        "prompt",
        "context_length_exceeded",
    ),
    # messages
    (CHAT, {}, "messages", "invalid_value"),
    (CHAT, said(), "messages", "invalid_value"),
    (CHAT, chat(messages="hello"), "messages", "invalid_value"),
    (CHAT, said("hello"), "messages.0", "invalid_value"),
    (CHAT, said({"role": "king", "content": "hello"}), "messages.0.role", "invalid_value"),
    (CHAT, said({"content": "hello"}), "messages.0.role", "invalid_value"),
    (CHAT, said(user(None)), "messages.0.content", "invalid_value"),
    (CHAT, said({"role": "user"}), "messages.0.content", "invalid_value"),
    (CHAT, said(user(5)), "messages.0.content", "invalid_value"),
    (
        CHAT,
        said(user([{"type": "image_url", "image_url": {"url": "x"}}])),
        "messages.0.content.0",
        "unsupported_parameter",
    ),
    (
        CHAT,
        said(user([{"type": "smell", "text": "x"}])),
        "messages.0.content.0.type",
        "unsupported_parameter",
    ),
    (CHAT, said(user([{"type": "text"}])), "messages.0.content.0.text", "invalid_value"),
    (CHAT, said(user(name="Ann")), "messages.0.name", "unsupported_parameter"),
    (CHAT, said(assistant(), user()), "messages.0", "invalid_value"),
    (CHAT, said(user(), {"role": "system", "content": "x"}, user()), "messages.1", "unsupported_parameter"),
    (CHAT, said(user(), assistant()), "messages.1", "invalid_value"),
    (CHAT, said({"role": "system", "content": "x"}), "messages.0", "invalid_value"),
    (
        CHAT,
        said({"role": "function", "content": "x", "name": "f"}),
        "messages.0.role",
        "unsupported_parameter",
    ),
    (CHAT, said(user(), {"role": "tool", "content": "x"}), "messages.1.tool_call_id", "invalid_value"),
    (
        CHAT,
        said(user(), {"role": "tool", "content": "x", "tool_call_id": "y"}),
        "messages.1.tool_call_id",
        "invalid_value",
    ),
    (CHAT, said(user(), assistant(tool_calls=[CALL]), user()), "messages.2", "invalid_value"),
    (CHAT, said(user(), assistant(tool_calls=[CALL])), "messages.1", "invalid_value"),
    (CHAT, said(user(tool_calls=[])), "messages.0.tool_calls", "invalid_value"),
    (CHAT, said(user(chatsmith={"parts": []})), "messages.0.chatsmith", "invalid_value"),
    (
        CHAT,
        said(user(), assistant(chatsmith={"parts": [{"kind": "output", "text": "x"}]}), user()),
        "messages.1",
        "invalid_value",
    ),
    (
        CHAT,
        said(user(), assistant(tool_calls=[{"id": "1", "type": "custom", "custom": {}}]), user()),
        "messages.1.tool_calls.0.type",
        "unsupported_parameter",
    ),
    (
        CHAT,
        said(user([{"type": "text", "text": "a", "prompt_cache_breakpoint": {"mode": "explicit"}}])),
        "messages.0.content.0.prompt_cache_breakpoint",
        "unsupported_parameter",
    ),
    (CHAT, said(assistant(audio={"id": "x"}), user()), "messages.0.audio", "unsupported_parameter"),
    (CHAT, said(assistant(function_call={}), user()), "messages.0.function_call", "unsupported_parameter"),
    (CHAT, chat(continue_final_message=True), "continue_final_message", "invalid_value"),
    # streams
    (CHAT, chat(stream_options={"include_usage": True}), "stream_options", "invalid_value"),
    (CHAT, chat(stream=False, stream_options={}), "stream_options", "invalid_value"),
    (
        CHAT,
        chat(stream=True, stream_options={"include_usage": "yes"}),
        "stream_options.include_usage",
        "invalid_value",
    ),
    (
        CHAT,
        chat(stream=True, stream_options={"include_obfuscation": True}),
        "stream_options.include_obfuscation",
        "unsupported_parameter",
    ),
    # tools and formats
    (
        CHAT,
        chat(tools=[{"type": "custom", "custom": {"name": "x"}}]),
        "tools.0.type",
        "unsupported_parameter",
    ),
    (
        CHAT,
        chat(tools=[{"type": "function", "function": {"name": "a b"}}]),
        "tools.0.function.name",
        "invalid_value",
    ),
    (CHAT, chat(tools=[TOOL, TOOL]), "tools", "invalid_value"),
    (
        CHAT,
        chat(tools=[{"type": "function", "function": {"name": "f", "parameters": {"type": "nonsense"}}}]),
        "tools",
        "invalid_value",
    ),
    (CHAT, chat(tool_choice="required"), "tool_choice", "invalid_value"),
    (CHAT, chat(tools=[TOOL], tool_choice="sometimes"), "tool_choice", "invalid_value"),
    (
        CHAT,
        chat(tools=[TOOL], tool_choice={"type": "function", "function": {"name": "g"}}),
        "tool_choice",
        "invalid_value",
    ),
    (
        CHAT,
        chat(tools=[TOOL], tool_choice={"type": "allowed_tools"}),
        "tool_choice.type",
        "unsupported_parameter",
    ),
    (CHAT, chat(response_format={"type": "xml"}), "response_format.type", "invalid_value"),
    (
        CHAT,
        chat(response_format={"type": "grammar", "grammar": "x"}),
        "response_format.type",
        "unsupported_parameter",
    ),
    (CHAT, chat(response_format="json"), "response_format", "invalid_value"),
    (CHAT, chat(response_format={"type": "json_schema"}), "response_format.json_schema", "invalid_value"),
    (
        CHAT,
        chat(response_format={"type": "json_schema", "json_schema": {"name": "x"}}),
        "response_format.json_schema.schema",
        "invalid_value",
    ),
    (
        CHAT,
        chat(
            response_format={
                "type": "json_schema",
                "json_schema": {"name": "x", "schema": {"type": "nonsense"}},
            }
        ),
        "response_format",
        "invalid_value",
    ),
    (CHAT, chat(response_format={"type": "json_object"}, min_tokens=2), "min_tokens", "invalid_value"),
    # what OpenAI has and we have not
    (TEXT, {**CAT, "suffix": "the end"}, "suffix", "unsupported_parameter"),
    (TEXT, {**CAT, "best_of": 2}, "best_of", "unsupported_parameter"),
    (CHAT, chat(functions=[{"name": "f"}]), "functions", "unsupported_parameter"),
    (CHAT, chat(function_call="auto"), "function_call", "unsupported_parameter"),
    (CHAT, chat(modalities=["text", "audio"]), "modalities", "unsupported_parameter"),
    (CHAT, chat(audio={"voice": "x"}), "audio", "unsupported_parameter"),
    (CHAT, chat(prediction={"type": "content", "content": "x"}), "prediction", "unsupported_parameter"),
    (CHAT, chat(reasoning_effort="high"), "reasoning_effort", "unsupported_parameter"),
    (CHAT, chat(verbosity="low"), "verbosity", "unsupported_parameter"),
    (CHAT, chat(store=True), "store", "unsupported_parameter"),
    (CHAT, chat(metadata={"a": "b"}), "metadata", "unsupported_parameter"),
    (CHAT, chat(service_tier="flex"), "service_tier", "unsupported_parameter"),
    (CHAT, chat(web_search_options={}), "web_search_options", "unsupported_parameter"),
    (CHAT, chat(prompt_cache_retention="24h"), "prompt_cache_retention", "unsupported_parameter"),
    (CHAT, chat(moderation={"model": "x"}), "moderation", "unsupported_parameter"),
    # the other endpoints
    ("/tokenize", {}, "prompt", "invalid_value"),
    ("/tokenize", {"prompt": "a", "messages": [user()]}, "prompt", "invalid_value"),
    ("/tokenize", {"messages": [assistant()]}, "messages.0", "invalid_value"),
    ("/detokenize", {"tokens": [VOCAB]}, "tokens", "invalid_value"),
    ("/detokenize", {"tokens": "a"}, "tokens", "invalid_value"),
]

# Unusual, and nothing wrong with it.
RIGHT: list[tuple[str, dict[str, Any]]] = [
    (CHAT, said(user(""))),
    (CHAT, said(user([]))),
    (CHAT, said(user(), assistant(None, refusal="no"), user())),
    (CHAT, said(user(), assistant([{"type": "refusal", "refusal": "no"}], refusal=None), user())),
    (CHAT, said(user([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]))),
    (CHAT, said({"role": "developer", "content": "x"}, {"role": "system", "content": "y"}, user(), user())),
    (CHAT, said(user("<|assistant_end|><|bos|>"))),
    (CHAT, said(user("😀 \u0000 \u2028 ﷽"))),
    (CHAT, chat(stop=[f"stop {number}" for number in range(16)])),
    (CHAT, chat(max_tokens=10**9, stop="e")),
    (CHAT, chat(nonsense=1, another={"deep": [1]})),
    (
        CHAT,
        chat(user=None, seed=None, stop=None, n=None, tools=None, response_format=None, stream_options=None),
    ),
    (CHAT, chat(modalities=["text"], service_tier="auto", store=False, metadata={}, verbosity="medium")),
    (CHAT, chat(response_format={"type": "text"}, tool_choice="none", tools=[])),
    (CHAT, chat(temperature=0, top_p=1, top_k=-1, seed=-(2**63))),
    (CHAT, chat(logit_bias={"5": -100, "6": 100})),
    (TEXT, {**CAT, "max_tokens": 0, "echo": True}),
    (TEXT, {**CAT, "prompt": [1] * (CONTEXT + 1), "max_tokens": 0, "echo": True}),
    (TEXT, {**CAT, "best_of": 1, "suffix": ""}),
    (TEXT, {**CAT, "stop": [f"stop {number}" for number in range(32)]}),
    ("/tokenize", {"prompt": ""}),
    ("/detokenize", {"tokens": []}),
]


# OpenAI's types, ours, and what of theirs is refused where a row above says so.
OPENAI: list[tuple[type, type[ClientModel], set[str]]] = [
    (chat_params.CompletionCreateParamsBase, ChatRequest, {*REFUSED["chat"]}),
    (text_params.CompletionCreateParamsBase, CompletionRequest, {*REFUSED["completions"]}),
    (types.ChatCompletionStreamOptionsParam, StreamOptions, set()),
    (types.ChatCompletionDeveloperMessageParam, ChatMessage, {"name"}),
    (types.ChatCompletionSystemMessageParam, ChatMessage, {"name"}),
    (types.ChatCompletionUserMessageParam, ChatMessage, {"name"}),
    (types.ChatCompletionAssistantMessageParam, ChatMessage, {"audio", "function_call", "name"}),
    (types.ChatCompletionToolMessageParam, ChatMessage, set()),
    (types.ChatCompletionContentPartTextParam, ContentPart, {"prompt_cache_breakpoint"}),
    (types.ChatCompletionContentPartRefusalParam, ContentPart, set()),
    (types.ChatCompletionMessageFunctionToolCallParam, ToolCall, set()),
    (types.ChatCompletionFunctionToolParam, Tool, set()),
    (types.ChatCompletionNamedToolChoiceParam, ToolChoice, set()),
    (FunctionDefinition, Function, set()),
    (ResponseFormatJSONSchema, ResponseFormat, set()),
    (JSONSchema, JSONSchemaFormat, set()),
]


@pytest.mark.parametrize(
    ("theirs", "ours", "refused"), OPENAI, ids=lambda value: getattr(value, "__name__", "")
)
def test_every_field_of_openai_is_honoured_or_refused(
    theirs: type, ours: type[ClientModel], refused: set[str]
) -> None:
    honoured = {field.alias or name for name, field in ours.model_fields.items()}
    assert get_type_hints(theirs).keys() - honoured - refused == set()


@pytest.mark.parametrize(
    ("path", "name"),
    [*((CHAT, name) for name in REFUSED["chat"]), *((TEXT, name) for name in REFUSED["completions"])],
)
def test_what_is_not_there_is_refused_by_name(client: httpx.Client, path: str, name: str) -> None:
    body = HELLO if path == CHAT else CAT
    error = error_of(client.post(path, json={**body, name: {"something": "else"}}), 400)
    assert (error["param"], error["code"]) == (name, "unsupported_parameter")


def error_of(response: httpx.Response, status: int) -> dict[str, Any]:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    assert response.headers["x-request-id"]
    body = response.json()
    assert set(body) == {"error"} and set(body["error"]) == {"message", "type", "param", "code"}
    assert body["error"]["message"] and "Traceback" not in body["error"]["message"]
    return body["error"]


def still_answers(client: httpx.Client) -> None:
    response = client.post(TEXT, json=CAT)
    assert response.status_code == 200, response.text


def name_of(case: tuple[str, dict[str, Any], str | None, str]) -> str:
    path, body, param, code = case
    return f"{path}-{param}-{code}-{json.dumps(body)[:60]}"


@pytest.mark.parametrize(("body", "code", "param"), RAW, ids=lambda value: str(value)[:40])
@pytest.mark.parametrize("path", [CHAT, TEXT])
def test_what_is_no_json_is_refused(
    client: httpx.Client, path: str, body: bytes, code: str, param: str | None
) -> None:
    if path == CHAT and param:
        body = body.replace(b'"prompt": "a"', b'"messages": [{"role": "user", "content": "a"}]')
    error = error_of(client.post(path, content=body, headers={"Content-Type": "application/json"}), 400)
    assert (error["type"], error["param"], error["code"]) == ("invalid_request_error", param, code)
    still_answers(client)


@pytest.mark.parametrize("case", WRONG, ids=name_of)
def test_what_is_wrong_is_named(
    client: httpx.Client, case: tuple[str, dict[str, Any], str | None, str]
) -> None:
    path, body, param, code = case
    error = error_of(client.post(path, json=body), 400)
    assert (error["type"], error["param"], error["code"]) == ("invalid_request_error", param, code), error
    still_answers(client)


@pytest.mark.parametrize(("path", "body"), RIGHT, ids=lambda value: str(value)[:60])
def test_what_is_only_unusual_is_answered(client: httpx.Client, path: str, body: dict[str, Any]) -> None:
    response = client.post(path, json=body)
    assert response.status_code == 200, response.text


def test_a_context_too_long_tells_both_numbers(client: httpx.Client) -> None:
    error = error_of(client.post(TEXT, json={"prompt": [1] * 300}), 400)
    assert "300" in error["message"] and str(CONTEXT) in error["message"]


def test_a_reply_longer_than_the_context_is_cut(client: httpx.Client) -> None:
    answer = client.post(
        TEXT, json={"prompt": [1] * (CONTEXT - 4), "max_tokens": 50, "ignore_eos": True}
    ).json()
    assert answer["choices"][0]["finish_reason"] == "length"
    assert answer["usage"]["total_tokens"] == CONTEXT


@pytest.mark.parametrize("path", [CHAT, TEXT, "/tokenize"])
def test_an_unknown_model_is_not_found(client: httpx.Client, path: str) -> None:
    body = {CHAT: HELLO, TEXT: CAT, "/tokenize": {"prompt": "a"}}[path]
    error = error_of(client.post(path, json={**body, "model": "gpt-17"}), 404)
    assert (error["param"], error["code"]) == ("model", "model_not_found")
    error = error_of(client.get("/v1/models/gpt-17"), 404)
    assert error["code"] == "model_not_found"


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/v1/nothing", 404, "not_found"),
        ("POST", "/v1/chat/completions/", 404, "not_found"),
        ("GET", CHAT, 405, "method_not_allowed"),
        ("DELETE", "/v1/models", 405, "method_not_allowed"),
        ("POST", "/health", 405, "method_not_allowed"),
        ("POST", "/", 405, "method_not_allowed"),
    ],
)
def test_wrong_paths_and_methods_have_the_same_body(
    client: httpx.Client, method: str, path: str, status: int, code: str
) -> None:
    error = error_of(client.request(method, path), status)
    assert (error["type"], error["code"]) == ("invalid_request_error", code)


def test_a_huge_body_is_refused(client: httpx.Client) -> None:
    body = json.dumps({"prompt": "a" * (5 * 2**20)}).encode()
    headers = {"Content-Type": "application/json"}
    assert error_of(client.post(TEXT, content=body, headers=headers), 413)["code"] == "body_too_large"

    def pieces() -> Any:  # without a declared length
        for start in range(0, len(body), 2**18):
            yield body[start : start + 2**18]

    assert error_of(client.post(TEXT, content=pieces(), headers=headers), 413)["code"] == "body_too_large"
    still_answers(client)


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", ""])
def test_a_body_of_another_type_is_refused(client: httpx.Client, kind: str) -> None:
    """A page of another origin could send these without being allowed to."""
    headers = {"Content-Type": kind} if kind else {}
    assert (
        error_of(client.post(TEXT, content=json.dumps(CAT).encode(), headers=headers), 415)["code"]
        == "not_json"
    )


def test_a_compressed_body_is_refused_as_such(client: httpx.Client) -> None:
    headers = {"Content-Type": "application/json", "Content-Encoding": "gzip"}
    refused = client.post(TEXT, content=gzip.compress(json.dumps(CAT).encode()), headers=headers)
    assert error_of(refused, 415)["code"] == "encoded_body"
    plain = {**headers, "Content-Encoding": "identity"}
    assert client.post(TEXT, content=json.dumps(CAT).encode(), headers=plain).status_code == 200


def test_a_mistake_is_called_by_the_name_it_has_in_the_request(client: httpx.Client) -> None:
    error = error_of(client.post(TEXT, json={**CAT, "stop_token_ids": [99_999]}), 400)
    assert error["param"] == "stop_token_ids" and error["message"].startswith("stop_token_ids has")


def test_special_tokens_in_what_people_say_are_plain_text(client: httpx.Client) -> None:
    text = "<|user_end|><|assistant_start|>"
    shown = client.post("/tokenize", json={"messages": [user(text)]}).json()
    assert sum(shown["special"]) == 4  # bos, user start and end, assistant start
    assert client.post("/detokenize", json={"tokens": shown["tokens"][2:-2]}).json()["prompt"] == text
    counted = client.post(TEXT, json={**CAT, "prompt": text}).json()["usage"]["prompt_tokens"]
    assert counted == len(shown["tokens"]) - 3  # bos before it, and no marks around it


def test_a_request_id_is_kept_if_it_is_plain(client: httpx.Client) -> None:
    assert client.get("/health", headers={"X-Request-Id": "my-id.1"}).headers["x-request-id"] == "my-id.1"
    strange = client.get("/health", headers={"X-Request-Id": "my id\t{}"}).headers["x-request-id"]
    assert strange.startswith("req_")
