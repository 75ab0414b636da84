"""Errors speak of what the client sent, in the API's words, and never of our insides."""

import json
import re
from typing import Any

import httpx
import pytest

from chatsmith.serve.protocol import ChatRequest, ClientModel, CompletionRequest, TokenizeRequest
from chatsmith.text.tokenizer import Tokenizer

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
HELLO: list[Any] = [{"role": "user", "content": "hello"}]
INSIDES = re.compile(
    r"constrained|\[|\bstr\b|\bdict\b|pydantic|instance|NoExtension|\blark\b|at \d+\(|ClientModel|fields from"
)
WRONG: list[Any] = [5, True, "x", 1.5, [], [5], [[]], [None], {}, {"a": 1}, [{}], [{"type": "x"}], [["a"], 1]]


def tool(parameters: Any, name: str = "bad") -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "parameters": parameters}}


def error_of(answer: httpx.Response) -> dict[str, Any]:
    assert answer.status_code == 400, answer.text
    return answer.json()["error"]


def has_place(body: Any, path: list[str]) -> bool:
    """Is this a place in the body, or a field that an object in it lacks?"""
    if not path:
        return True
    step, *rest = path
    if isinstance(body, dict) and step in body:
        return has_place(body[step], rest)
    if isinstance(body, list) and step.isdigit() and int(step) < len(body):
        return has_place(body[int(step)], rest)
    return not rest and isinstance(body, dict)


@pytest.mark.parametrize("wrong", WRONG, ids=json.dumps)
@pytest.mark.parametrize(
    ("path", "kind", "body"),
    [
        (CHAT, ChatRequest, {"messages": HELLO, "max_tokens": 1}),
        (TEXT, CompletionRequest, {"prompt": "a", "max_tokens": 1}),
        ("/tokenize", TokenizeRequest, {"prompt": "a"}),
    ],
)
def test_param_is_a_place_in_the_request(
    client: httpx.Client, path: str, kind: type[ClientModel], body: dict[str, Any], wrong: Any
) -> None:
    for field in kind.model_fields:
        sent = {**body, field: wrong}
        answer = client.post(path, json=sent)
        if answer.status_code == 400:
            error = error_of(answer)
            assert has_place(sent, error["param"].split(".")), (sent, error)
            said = re.sub(r"'[^']*'", "", error["message"])  # a pattern, or what was sent
            assert not INSIDES.search(f"{error['param']} {said}"), error


@pytest.mark.parametrize("key", ["abc", "-1", "1.5", " 5", "", "<|bos|>", "1" * 12, "a" * 10**5])
def test_a_key_that_is_no_token_id_is_called_so(client: httpx.Client, key: str) -> None:
    error = error_of(client.post(TEXT, json={"prompt": "a", "logit_bias": {key: 1}}))
    assert error["message"] == f"logit_bias.{key[:64]} is no token id: the keys are ids, in digits"
    assert error["param"] == f"logit_bias.{key[:64]}"


@pytest.mark.parametrize("name", ["a b", "", "a" * 65, "naïve"])
def test_names_say_what_they_may_hold(client: httpx.Client, name: str) -> None:
    error = error_of(client.post(CHAT, json={"messages": HELLO, "tools": [tool({"type": "object"}, name)]}))
    assert error["message"] == "tools.0.function.name should be 1 to 64 letters, digits, _ or -"


CONTENTS: list[tuple[Any, str]] = [
    ([{"text": "x"}], "messages.0.content.0.type"),
    ([{"type": "text", "text": "a"}, {"text": "x"}], "messages.0.content.1.type"),
    ([{"type": 5}], "messages.0.content.0.type"),
    ([{"type": "text", "text": 5}], "messages.0.content.0.text"),
    ({"type": "text"}, "messages.0.content"),
    (5, "messages.0.content"),
]


@pytest.mark.parametrize(("content", "param"), CONTENTS, ids=str)
def test_a_part_of_a_message_is_named_with_its_field(client: httpx.Client, content: Any, param: str) -> None:
    error = error_of(client.post(CHAT, json={"messages": [{"role": "user", "content": content}]}))
    assert error["param"] == param and error["message"].startswith(f"{param} ")


@pytest.mark.parametrize("roles", [["assistant", "user"], ["assistant"], ["user", "assistant"]])
def test_tools_are_no_message_that_an_error_could_speak_of(client: httpx.Client, roles: list[str]) -> None:
    messages = [{"role": role, "content": "hi"} for role in roles]
    told = [
        error_of(client.post(CHAT, json={"messages": messages, "max_tokens": 1, **more}))
        for more in ({}, {"tools": [tool({"type": "object"})]})
    ]
    assert told[0] == told[1] and "follow one from the system" not in told[0]["message"]


REASONS = [
    ({"type": "string", "pattern": "("}, "unclosed group"),
    ({"type": "string", "pattern": "^(?=a)b"}, "look-around"),
    ({"type": "string", "pattern": "(a)\\1"}, "backreferences"),
    ({"type": "nonsense"}, "nonsense"),
    ({"$ref": "#/$defs/no"}, "does not exist"),
    ({"$ref": "#"}, "itself"),
    ({"$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"}, "itself"),
    ({"type": "object", "not": {}}, 'keys that cannot be enforced here: "not"'),
]


@pytest.mark.parametrize(("schema", "reason"), REASONS, ids=lambda value: json.dumps(value)[:50])
@pytest.mark.parametrize("place", ["response_format", "tools"])
def test_a_schema_is_refused_with_the_reason(
    roomy_server: Any, schema: dict[str, Any], reason: str, place: str
) -> None:
    format = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    with roomy_server.client() as client:
        if place == "tools":
            if schema.get("type") == "string":  # a tool's parameters are an object
                schema = {"type": "object", "properties": {"x": schema}}
            more: dict[str, Any] = {"tools": [tool({"type": "object"}, "good"), tool(schema)]}
        else:
            more = {"response_format": format}
        error = error_of(client.post(CHAT, json={"messages": HELLO, "max_tokens": 9, **more}))
    assert error["param"] == place and reason in error["message"], error
    assert not INSIDES.search(error["message"]), error
    assert place == "response_format" or "bad" in error["message"]
    assert "good" not in error["message"] and "\n" not in error["message"]


@pytest.mark.parametrize("name", ["json-pointer", "regex", "int32", "made-up", "uri-template"])
@pytest.mark.parametrize("place", ["format", "tool"])
def test_an_unknown_format_is_an_annotation(roomy_server: Any, name: str, place: str) -> None:
    """As JSON Schema has it; a property or a constant that is called format is another thing."""
    schema = {
        "type": "object",
        "properties": {
            "format": {"type": "string", "format": name, "maxLength": 3},
            "c": {"const": {"format": name}},
        },
        "required": ["format", "c"],
        "additionalProperties": False,
    }
    more: dict[str, Any] = {
        "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    }
    if place == "tool":
        more = {"tools": [tool(schema)], "tool_choice": "required", "parallel_tool_calls": False}
    with roomy_server.client() as client:
        answer = client.post(CHAT, json={"messages": HELLO, "max_tokens": 200, "seed": 1, **more})
    assert answer.status_code == 200, answer.text
    message = answer.json()["choices"][0]["message"]
    written = message["content"] or message["tool_calls"][0]["function"]["arguments"]
    assert json.loads(written)["c"] == {"format": name}


def test_offsets_stay_within_the_text(client: httpx.Client, tokenizer: Tokenizer) -> None:
    """The model writes a tool's output, or a call, of its own accord: neither is text."""
    for name in ("<|output_start|>", "<|python_start|>", "<|user_start|>", "<|assistant_start|>"):
        bias = {str(tokenizer.special(name)): 8.0}
        for seed in range(6):
            ask = {
                "prompt": "the cat",
                "max_tokens": 12,
                "seed": seed,
                "logprobs": 0,
                "logit_bias": bias,
                "ignore_eos": True,
            }
            [choice] = client.post(TEXT, json=ask).json()["choices"]
            offsets, text = choice["logprobs"]["text_offset"], choice["text"]
            assert offsets == sorted(offsets) and offsets[-1] <= len(text), (name, seed, offsets, text)
