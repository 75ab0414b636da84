"""Ollama's endpoints with its Python client: they say what the chat endpoint says, and refuse what it refuses."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch

from chatsmith.bundle import save_bundle
from chatsmith.ingest.tool_calls import calls_text, describe_tools
from chatsmith.model.config import GPTConfig
from chatsmith.model.gpt import GPT
from chatsmith.serve import ollama as ours
from chatsmith.serve.protocol import Tool
from chatsmith.text.chat import Message, render
from chatsmith.text.tokenizer import Tokenizer

ollama = pytest.importorskip("ollama")

JSON = {"Content-Type": "application/json"}
HELLO: Any = [{"role": "user", "content": "hello cat"}]
EXACT = {"temperature": 0, "num_predict": 8}


@pytest.fixture(scope="module")
def client(roomy_server: Any) -> Iterator[Any]:
    with ollama.Client(roomy_server.url, timeout=60) as client:
        yield client


@pytest.fixture(scope="module")
def http(roomy_server: Any) -> Iterator[httpx.Client]:
    with roomy_server.client() as client:
        yield client


def chat(client: Any, messages: Any = HELLO, options: Any = EXACT, **more: Any) -> Any:
    return client.chat(**{"model": "roomy", "messages": messages, "options": options, **more})


def openai_text(http: httpx.Client, messages: Any = HELLO, **more: Any) -> str:
    body = {"messages": messages, "temperature": 0, "max_tokens": 8, **more}
    return http.post("/v1/chat/completions", json=body).json()["choices"][0]["message"]["content"]


def test_it_says_what_the_chat_endpoint_says(client: Any, http: httpx.Client) -> None:
    found = chat(client)
    assert found.message.content == openai_text(http)
    assert found.done and found.done_reason == "length" and found.eval_count == 8
    assert found.prompt_eval_count > 3 and found.model == "roomy"
    assert found.total_duration >= found.prompt_eval_duration > 0 and found.eval_duration > 0
    system = [{"role": "system", "content": "Be brief."}, *HELLO]
    assert chat(client, system).message.content == openai_text(http, system)
    answered = client.generate("roomy:latest", "hello cat", system="Be brief.", options=EXACT)
    assert answered.response == openai_text(http, system) and answered.done_reason == "length"


def test_a_stream_adds_up_to_the_plain_answer(client: Any, http: httpx.Client) -> None:
    for ask, text in (
        (lambda **more: chat(client, **more), lambda one: one.message.content),
        (lambda **more: client.generate("roomy", "cat", options=EXACT, **more), lambda one: one.response),
    ):
        plain, parts = ask(stream=False), list(ask(stream=True))
        assert "".join(text(one) for one in parts) == text(plain)
        assert [one.done for one in parts] == [False] * (len(parts) - 1) + [True]
        assert parts[-1].eval_count == plain.eval_count == 8
    body = {"model": "roomy", "messages": HELLO, "options": EXACT}
    streamed = http.post("/api/chat", json=body)  # which is the default
    assert streamed.headers["content-type"] == "application/x-ndjson"
    assert [json.loads(line)["done"] for line in streamed.text.splitlines()][-2:] == [False, True]


@pytest.mark.parametrize(
    ("options", "same"),
    [
        ({"seed": 5, "temperature": 1.5, "top_k": 7, "top_p": 0.8, "min_p": 0.01}, {}),
        ({"repeat_penalty": 1.7, "presence_penalty": 0.5, "frequency_penalty": 0.25, "temperature": 0}, {}),
        ({"stop": ["a", "e"], "temperature": 0}, {}),
        ({"num_predict": 3, "num_ctx": 4096, "temperature": 0}, {"max_tokens": 3}),
        ({"num_predict": -1, "temperature": 0, "stop": ["t"]}, {"max_tokens": 2000}),
    ],
)
def test_options_are_those_of_the_chat_endpoint(
    client: Any, http: httpx.Client, options: Any, same: Any
) -> None:
    renamed = {"repeat_penalty": "repetition_penalty"}
    theirs = {
        renamed.get(name, name): value for name, value in options.items() if not name.startswith("num_")
    }
    found = chat(client, options={"num_predict": 8, **options})
    assert found.message.content == openai_text(http, **theirs, **same)


def test_what_only_says_how_to_load_is_let_through_and_counted(http: httpx.Client, roomy_server: Any) -> None:
    options = {**EXACT, "num_ctx": 8192, "num_gpu": 1}
    answer = http.post("/api/chat", json={"messages": HELLO, "options": options, "keep_alive": "5m"})
    line = roomy_server.line_of(answer)
    assert line["unknown_fields"] == ["keep_alive", "options.num_ctx", "options.num_gpu"]


def test_a_form_is_followed_and_a_beginning_is_gone_on_with(client: Any, http: httpx.Client) -> None:
    schema = {"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"]}
    options = {"temperature": 0, "num_predict": 60}
    found = chat(client, format={**schema, "additionalProperties": False}, options=options)
    assert set(json.loads(found.message.content)) == {"ok"}
    assert chat(client, format="json").message.content.startswith("{")
    begun = [*HELLO, {"role": "assistant", "content": "the cat"}]
    assert chat(client, begun).message.content == openai_text(http, begun, continue_final_message=True)


def weather(warm: bool) -> str:
    """Tells the weather.

    Args:
        warm: Whether it is warm.
    """
    return "rain" if warm else "snow"


CALL = ("weather", '{"warm": true}')


@pytest.fixture(scope="module")
def caller(tmp_path_factory: pytest.TempPathFactory, tokenizer: Tokenizer) -> Path:
    """A model that has learned to call the tool, and what to say to its result."""
    torch.manual_seed(0)
    tool = Tool.model_validate(ollama._utils.convert_function_to_tool(weather).model_dump(exclude_none=True))
    conversation = (
        Message.of("system", describe_tools([tool.function.model_dump()])),
        Message.of("user", "hello cat"),
        Message.of("assistant", calls_text([CALL])),
        Message.of("tool", "rain"),
        Message.of("assistant", "the mat"),
    )
    ids = torch.tensor([render(conversation, tokenizer).ids])
    model = GPT(GPTConfig(tokenizer.vocab_size, context_length=1024, num_layers=2, num_heads=2, head_dim=16))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    for _ in range(120):
        logits = model.logits(model(ids[:, :-1]))
        loss = torch.nn.functional.cross_entropy(logits[0], ids[0, 1:])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.1
    path = tmp_path_factory.mktemp("ollama") / "caller"
    save_bundle(path, model.eval(), tokenizer, generation={}, card="# Caller\n")
    return path


def test_tools_are_called_and_their_results_are_read_with_a_key(
    start_server: Any, caller: Path, tmp_path: Path
) -> None:
    keys = tmp_path / "keys"
    keys.write_text("a=a-key-of-the-tests\n")
    server = start_server(caller, "--api-key-file", keys).wait_until_ready()
    with (
        ollama.Client(server.url, timeout=60) as client,
        pytest.raises(ollama.ResponseError, match="API key"),
    ):
        client.list()
    known = {"Authorization": "Bearer a-key-of-the-tests"}
    with ollama.Client(server.url, timeout=60, headers=known) as client:
        asked = {"model": "caller", "tools": [weather], "options": {"temperature": 0}}
        plain = client.chat(messages=HELLO, **asked)
        (call,) = plain.message.tool_calls
        assert call.function.name == "weather" and call.function.arguments == {"warm": True}
        assert plain.done_reason == "stop" and not plain.message.content
        parts = list(client.chat(messages=HELLO, stream=True, **asked))
        (streamed,) = [one.message.tool_calls for one in parts if one.message.tool_calls]
        assert streamed == plain.message.tool_calls
        told = [*HELLO, plain.message, {"role": "tool", "content": weather(True), "tool_name": "weather"}]
        assert client.chat(messages=told, **asked).message.content == "the mat"
        unnamed = [*HELLO, plain.message, {"role": "tool", "content": "rain"}]
        assert client.chat(messages=unnamed, **asked).message.content == "the mat"
        cut = client.chat(messages=HELLO, **{**asked, "options": {"temperature": 0, "num_predict": 30}})
        assert cut.done_reason == "length" and not cut.message.tool_calls
    assert server.stop() == 0


def test_results_of_several_calls_find_theirs() -> None:
    """By the tool's name where it is given, else in order."""
    calls = [{"function": {"name": name, "arguments": {"a": name}}} for name in ("f", "g", "h")]
    results = [{"role": "tool", "content": name, "tool_name": name} for name in ("h", "f")]
    messages = [*HELLO, {"role": "assistant", "content": "", "tool_calls": calls}, *results]
    request = ours.OllamaRequest.model_validate(
        {"messages": [*messages, {"role": "tool", "content": "rest"}]}
    )
    made = request.as_chat().messages
    ids = {call.id: call.function.name for call in made[1].tool_calls or ()}
    assert [ids[one.tool_call_id or ""] for one in made[2:]] == ["h", "f", "g"]


def test_what_it_lists_and_shows(client: Any, http: httpx.Client) -> None:
    (listed,) = client.list().models
    assert listed.model == "roomy" and listed.size > 1000 and listed.details.parameter_size == "0.0M"
    shown = client.show("roomy")
    assert shown.modelinfo["chatsmith.context_length"] == 2048 and "tools" in shown.capabilities
    version = http.get("/api/version").json()["version"]
    assert version == ours.VERSION and [int(one) for one in version.partition("+")[0].split(".")] > [0, 6, 4]


PNG = "iVBORw0KGgo="


@pytest.mark.parametrize(
    ("path", "change", "status", "says"),
    [
        ("chat", {"model": "no"}, 404, "'no' does not exist"),
        (
            "chat",
            {"messages": [{"role": "user", "content": "x", "images": [PNG]}]},
            400,
            "only text can be read",
        ),
        ("chat", {"messages": []}, 400, "messages"),
        ("chat", {"messages": None}, 400, "messages"),
        ("chat", {"messages": [{"role": "bot", "content": "x"}]}, 400, "messages.0.role"),
        ("chat", {"messages": [{"role": "user"}]}, 400, "messages.0.content"),
        ("chat", {"messages": [{"role": "tool", "content": "x"}]}, 400, "messages.0"),
        ("chat", {"messages": [5] * 9000}, 400, "messages.0"),
        ("chat", {"messages": HELLO * 5000}, 400, "messages"),
        ("chat", {"messages": [{"role": "user", "content": "x " * 9000}]}, 400, "context holds 2048"),
        (
            "chat",
            {"messages": [{"role": "assistant", "tool_calls": [{"function": {}}]}]},
            400,
            "name is missing",
        ),
        ("chat", {"think": True}, 400, "think: the model does not reason"),
        ("chat", {"logprobs": True}, 400, "logprobs: use"),
        ("chat", {"format": "yaml"}, 400, "format"),
        ("chat", {"format": {"type": "nothing"}}, 400, "json_schema"),
        (
            "chat",
            {"tools": [{"type": "function", "function": {"name": "a b"}}]},
            400,
            "tools.0.function.name",
        ),
        ("chat", {"stream": "yes"}, 400, "stream"),
        ("chat", {"options": []}, 400, "options"),
        ("chat", {"options": {"mirostat": 2}}, 400, "mirostat: use temperature"),
        ("chat", {"options": {"repeat_last_n": 64}}, 400, "options.repeat_last_n: repeat_penalty counts"),
        ("chat", {"options": {"temperature": -1}}, 400, "temperature should be"),
        ("chat", {"options": {"num_predict": 0}}, 400, "num_predict should be"),
        ("chat", {"options": {"num_predict": "5"}}, 400, "num_predict should be"),
        ("chat", {"options": {"repeat_penalty": 0}}, 400, "repeat_penalty should be"),
        ("chat", {"options": {"top_p": 0}}, 400, "top_p should be"),
        ("chat", {"options": {"stop": [5]}}, 400, "stop"),
        ("generate", {"prompt": "x", "images": [PNG]}, 400, "images: only text"),
        ("generate", {"prompt": "x", "suffix": "y"}, 400, "suffix: the model cannot insert"),
        ("generate", {"prompt": "x", "template": "y"}, 400, "template: the model was trained"),
        ("generate", {"prompt": "x", "context": [1]}, 400, "context: send the conversation"),
        ("generate", {"prompt": "x", "raw": True}, 400, "raw: use /v1/completions"),
        ("generate", {"prompt": 5}, 400, "prompt should be"),
        ("show", {"model": "no"}, 404, "'no' does not exist"),
        ("nothing", {}, 404, "Not Found"),
        ("tags", {}, 405, "Method Not Allowed"),
    ],
)
def test_what_it_refuses_it_refuses_in_ollamas_form(
    http: httpx.Client, path: str, change: Any, status: int, says: str
) -> None:
    for stream in (True, False):
        body = {
            "model": "roomy",
            "stream": stream,
            **({"messages": HELLO} if path == "chat" else {}),
            **change,
        }
        answer = http.post(f"/api/{path}", json=body)
        assert answer.status_code == status, answer.text
        assert list(answer.json()) == ["error"] and says in answer.json()["error"], answer.text


def test_its_client_tells_the_reason(client: Any) -> None:
    with pytest.raises(ollama.ResponseError, match="does not exist") as error:
        chat(client, model="no")
    assert error.value.status_code == 404
    with pytest.raises(ollama.ResponseError, match="mirostat"):
        list(chat(client, options={"mirostat": 1}, stream=True))


def test_hosts_and_bodies_are_checked_as_elsewhere(http: httpx.Client) -> None:
    strange = http.get("/api/tags", headers={"Host": "evil.example"})
    assert strange.status_code == 403 and "--allowed-host" in strange.json()["error"]
    form = http.post("/api/chat", content=b"{}", headers={"Content-Type": "text/plain"})
    assert form.status_code == 415 and "application/json" in form.json()["error"]
    assert "not valid JSON" in http.post("/api/chat", content=b"{", headers=JSON).json()["error"]


def test_a_client_that_leaves_ends_its_reply(http: httpx.Client, roomy_server: Any) -> None:
    body = {"model": "roomy", "messages": HELLO, "options": {"num_predict": -1, "temperature": 0}}
    aborted = roomy_server.metric("chatsmith_request_success_total", finished_reason="abort")
    with http.stream("POST", "/api/chat", json=body) as response:
        next(response.iter_lines())
    roomy_server.wait_until_idle()
    assert roomy_server.metric("chatsmith_request_success_total", finished_reason="abort") == aborted + 1
