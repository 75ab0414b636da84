"""/openapi.json is true: whatever fits it or does not, answers fit it, and nothing makes the server fail."""

import json
from typing import Any

import httpx
import jsonschema
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import GenerationMode
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

MAX_EXAMPLES = 8
"""An endpoint; CI has little time. A longer search: `schemathesis run URL/openapi.json`."""

CHECKS = [
    schemathesis.checks.not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]

PATHS = (
    *("/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/models", "/v1/models/{model_id}"),
    *("/tokenize", "/detokenize", "/tokenizer_info", "/model_card", "/health", "/ready"),
    *("/api/chat", "/api/generate", "/api/show", "/api/tags", "/api/version"),
)


@pytest.fixture(scope="module")
def document(server: Any) -> Any:
    return schemathesis.openapi.from_url(f"{server.url}/openapi.json")


@pytest.mark.parametrize("mode", list(GenerationMode), ids=lambda mode: mode.value)
@pytest.mark.parametrize("path", PATHS)
def test_no_request_makes_it_fail_or_break_its_schema(
    document: Any, server: Any, path: str, mode: GenerationMode
) -> None:
    operation = next(result.ok() for result in document.get_all_operations() if result.ok().path == path)
    takes_something = operation.body or operation.query or operation.path_parameters
    if mode is GenerationMode.NEGATIVE and not takes_something:
        pytest.skip("it takes nothing, so there is nothing to send that does not fit")

    @given(case=operation.as_strategy(generation_mode=mode))
    @settings(
        max_examples=MAX_EXAMPLES if takes_something else 1,
        deadline=None,
        database=None,
        derandomize=True,
        phases=(Phase.generate,),
        suppress_health_check=list(HealthCheck),
    )
    def ask(case: Any) -> None:
        if isinstance(case.body, dict):
            case.body = _small(case.body)
        case.call_and_validate(base_url=server.url, checks=CHECKS, timeout=60)

    ask()


def _small(body: dict[str, Any]) -> dict[str, Any]:
    """The same request with a short reply: what a fuzzer asks for would take minutes to write."""
    limits = {"max_tokens": 4, "max_completion_tokens": 4, "max_output_tokens": 4, "n": 2}
    return {
        name: limits[name] if name in limits and type(value) is int and value > limits[name] else value
        for name, value in body.items()
    }


CHAT: dict[str, Any] = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 3}
ASKED = [
    ("/v1/chat/completions", CHAT),
    ("/v1/chat/completions", {**CHAT, "n": 2, "logprobs": True, "top_logprobs": 2, "return_token_ids": True}),
    ("/v1/completions", {"prompt": ["a", "b"], "max_tokens": 2, "logprobs": 2, "echo": True}),
    ("/v1/completions", {"prompt": [1, 2], "max_tokens": 0, "echo": True, "return_token_ids": True}),
    ("/v1/responses", {"input": "hello", "max_output_tokens": 3}),
    ("/tokenize", {"prompt": "a<|bos|>"}),
    ("/tokenize", {"messages": CHAT["messages"]}),
    ("/detokenize", {"tokens": [1, 2]}),
    ("/api/chat", {"messages": CHAT["messages"], "stream": False, "options": {"num_predict": 3}}),
    ("/api/generate", {"prompt": "hello", "stream": False, "options": {"num_predict": 3}}),
    ("/api/show", {}),
]


@pytest.mark.parametrize(("path", "body"), ASKED)
def test_answers_fit_the_published_schema(client: httpx.Client, path: str, body: dict[str, Any]) -> None:
    published = client.get("/openapi.json").json()
    answer = published["paths"][path]["post"]["responses"]["200"]["content"]["application/json"]["schema"]
    whole = {**answer, "components": published["components"]}
    jsonschema.Draft202012Validator(whole).validate(client.post(path, json=body).json())


def test_chunks_fit_the_shape_of_openai(client: httpx.Client) -> None:
    """As OpenAI's document has it (CreateChatCompletionStreamResponse), where `nullable` is a type here."""
    chunk = {
        "type": "object",
        "required": ["choices", "created", "id", "model", "object"],
        "properties": {
            "object": {"const": "chat.completion.chunk"},
            "created": {"type": "integer"},
            "usage": {
                "type": ["object", "null"],
                "required": ["prompt_tokens", "completion_tokens", "total_tokens"],
            },
            "choices": {
                "type": "array",
                "items": {
                    "type": "object",
                    "required": ["delta", "finish_reason", "index"],
                    "properties": {
                        "finish_reason": {"enum": [None, "stop", "length", "tool_calls"]},
                        "delta": {
                            "type": "object",
                            "properties": {
                                "role": {"const": "assistant"},
                                "content": {"type": ["string", "null"]},
                            },
                        },
                        "logprobs": {"type": ["object", "null"], "required": ["content", "refusal"]},
                    },
                },
            },
        },
    }
    body = {
        **CHAT,
        "stream": True,
        "logprobs": True,
        "top_logprobs": 1,
        "stream_options": {"include_usage": True},
    }
    with client.stream("POST", "/v1/chat/completions", json=body) as response:
        lines = [line.removeprefix("data: ") for line in response.iter_lines() if line]
    assert lines.pop() == "[DONE]"
    chunks = [json.loads(line) for line in lines]
    for one in chunks:
        jsonschema.Draft202012Validator(chunk).validate(one)
    assert chunks[0]["choices"][0]["delta"]["role"] == "assistant"
    assert chunks[-1]["choices"] == [] and chunks[-1]["usage"]


def test_every_endpoint_is_described(client: httpx.Client) -> None:
    paths = client.get("/openapi.json").json()["paths"]
    assert set(paths) == set(PATHS)
