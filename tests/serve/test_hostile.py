"""Clients that mean harm, or were never tested: they cost the others nothing, and are gone when they are gone."""

import json
import signal
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from threading import Event
from typing import Any

import pytest

from chatsmith.text.tokenizer import Tokenizer

CHAT = "/v1/chat/completions"
LONG = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 2000, "ignore_eos": True}
Start = Callable[..., Any]
READ_SECONDS = 1
JSON = b"Host: x\r\nContent-Type: application/json\r\n"


@pytest.fixture(scope="module")
def narrow(start_server: Start, roomy_bundle: Path) -> Any:
    """One reply at a time, and little patience."""
    flags = ("--max-running", 1, "--read-seconds", READ_SECONDS, "--queue-seconds", 1)
    return start_server(roomy_bundle, *flags).wait_until_ready()


@pytest.fixture(scope="module")
def sampled(tokenizer: Tokenizer) -> dict[str, Any]:
    """A long reply of which every token is sampled: a calculator's result would have no log-probabilities."""
    call = tokenizer.special("<|python_start|>")
    return {**LONG, "logprobs": True, "top_logprobs": 20, "logit_bias": {str(call): -100}}


def post(body: dict[str, Any], path: str = CHAT) -> bytes:
    """A whole request, as bytes."""
    content = json.dumps(body).encode()
    return b"POST %s HTTP/1.1\r\n%sContent-Length: %d\r\n\r\n%s" % (
        path.encode(),
        JSON,
        len(content),
        content,
    )


@contextmanager
def connection(server: Any, said: bytes = b"", receive_buffer: int = 0) -> Iterator[socket.socket]:
    with socket.socket() as one:
        if receive_buffer:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        one.settimeout(120)
        one.connect(server.address)
        one.sendall(said)
        yield one


def read_until(one: socket.socket, mark: bytes) -> bytes:
    heard = b""
    while mark not in heard:
        piece = one.recv(1 << 16)
        assert piece, heard[-500:]
        heard += piece
    return heard


def is_idle(server: Any) -> bool:
    return not server.metric("chatsmith_num_requests_running")


def test_a_body_that_nobody_waits_for_is_not_awaited_for_ever(narrow: Any) -> None:
    """The path does not exist, so the answer comes before the body, which then comes a byte at a time, or never."""
    head = b"POST /v1/nothing HTTP/1.1\r\n" + JSON + b"Content-Length: 999999\r\n\r\n"
    with connection(narrow, head) as one:
        assert b" 404 " in one.recv(4096)
        one.sendall(b"{")
        while one.recv(4096):
            pass


def test_endless_trailers_are_cut_off(narrow: Any) -> None:
    head = b"POST /v1/completions HTTP/1.1\r\n" + JSON + b"Transfer-Encoding: chunked\r\n\r\n"
    with connection(narrow, head + b"2\r\n{}\r\n0\r\n" + b"X: y\r\n" * 20_000) as one:
        assert b" 431 " in one.recv(4096)


def test_a_body_in_the_smallest_chunks_is_read(narrow: Any) -> None:
    """Its frames are many times what headers may be."""
    content = json.dumps({"prompt": "a", "max_tokens": 1, "padding": "x" * 20_000}).encode()
    head = b"POST /v1/completions HTTP/1.1\r\n" + JSON + b"Transfer-Encoding: chunked\r\n\r\n"
    with connection(narrow, head) as one:
        one.sendall(b"".join(b"1\r\n%c\r\n" % byte for byte in content) + b"0\r\n\r\n")
        assert b" 200 " in one.recv(4096)


def test_requests_sent_without_waiting_are_answered_in_order(narrow: Any) -> None:
    asked = [{**LONG, "max_tokens": number} for number in (3, 1, 2)]
    with connection(narrow, b"".join(map(post, asked)) + b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n") as one:
        heard = read_until(one, b'{"status":"ok"}')
    counts = [int(part.partition(b",")[0]) for part in heard.split(b'"completion_tokens":')[1:]]
    assert counts == [3, 1, 2]


@pytest.mark.parametrize("stream", [True, False])
def test_leaving_is_noticed_though_more_was_asked(narrow: Any, stream: bool) -> None:
    """The second request came before the first was answered, so the connection had more to read than its end."""
    aborted = narrow.metric("chatsmith_request_success_total", finished_reason="abort")
    with connection(narrow, post({**LONG, "stream": stream}) + post(LONG)):
        narrow.until(lambda: not is_idle(narrow))
    narrow.wait_until_idle()
    assert narrow.metric("chatsmith_request_success_total", finished_reason="abort") == aborted + 1


def test_half_a_request_behind_a_stream_does_not_cut_it(narrow: Any) -> None:
    first = post({**LONG, "max_tokens": 1500, "stream": True})
    with connection(narrow, first + b"POST /v1/completions HTTP/1.1\r\nHost:") as one:
        assert b"data: [DONE]" in read_until(one, b"data: [DONE]")


@pytest.mark.parametrize("cut", [10, 150, 10_000])
def test_an_offer_of_another_protocol_is_passed_over(narrow: Any, cut: int) -> None:
    """Java's client offers HTTP/2 with its first request, curl --http2 too; their bodies arrive all the same."""
    offer = (
        b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA\r\n"
    )
    request = post({"prompt": "a", "max_tokens": 1}, "/v1/completions").replace(JSON, JSON + offer)
    with connection(narrow) as one:
        for _ in range(2):
            one.sendall(request[:cut])
            time.sleep(0.05)  # or both parts would arrive as one
            one.sendall(request[cut:])
            assert b" 200 " in read_until(one, b'"choices"')


@pytest.mark.parametrize(
    "said",
    [
        b"CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET a HTTP/1.1\r\n\r\n",
    ],
)
def test_what_is_no_request_for_a_server_is_refused(narrow: Any, said: bytes) -> None:
    with connection(narrow, said) as one:
        assert one.recv(4096).partition(b" ")[2][:3] in (b"400", b"405")
        assert one.recv(4096) == b""


def test_a_client_that_reads_nothing_holds_up_nobody(narrow: Any, sampled: dict[str, Any]) -> None:
    """Its reply waits, whole, for the client to read on; the engine goes on to others meanwhile."""
    body = {**sampled, "max_tokens": 1800, "stream": True}
    with connection(narrow, post(body), receive_buffer=4096) as one:
        narrow.until(lambda: not is_idle(narrow))
        narrow.wait_until_idle(60)
        with narrow.client() as client:
            assert client.post(CHAT, json={**LONG, "max_tokens": 2}).status_code == 200
        one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        heard = read_until(one, b"data: [DONE]")
    assert heard.count(b'"top_logprobs":[{') == 1800 and b'"error"' not in heard


@pytest.mark.parametrize("stream", [True, False])
def test_a_reply_that_cannot_begin_in_time_is_refused(narrow: Any, stream: bool) -> None:
    with ThreadPoolExecutor(1) as pool, narrow.client() as client:
        began = Event()
        running = pool.submit(narrow.chat_events, {**LONG, "n": 2, "max_tokens": 1900}, began)
        assert began.wait(120)
        refused = client.post(CHAT, json={**LONG, "stream": stream})
        assert refused.status_code == 503 and refused.json()["error"]["code"] == "queue_timeout"
        assert int(refused.headers["retry-after"]) >= 1
        running.cancel()
        assert running.result()[-1] == "[DONE]"


def nested(depth: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(depth):
        schema = {"type": "object", "properties": {"a": schema}, "required": ["a"]}
    return schema


BOMBS: dict[str, dict[str, Any]] = {
    "a number beyond 64 bits": {"type": "integer", "minimum": -(10**300)},
    "a constant beyond 64 bits": {"const": 2**70},
    "deep": nested(250),
    "wide": {"type": "object", "properties": {f"p{number}": {} for number in range(1000)}},
    "too wide": {"type": "object", "properties": {f"p{number}": {} for number in range(20_000)}},
    "many alternatives": {"anyOf": [{"properties": {f"k{number}": {}}} for number in range(300)]},
    "too many alternatives": {"anyOf": [{"properties": {f"k{number}": {}}} for number in range(5000)]},
    "a product of alternatives": {
        "allOf": [{"anyOf": [{"required": [f"{a}{b}"]} for b in range(4)]} for a in range(12)],
    },
    "many constants": {"enum": [f"value {number}" for number in range(50_000)]},
    "a pattern of powers": {"type": "string", "pattern": "^((a{1000}){1000}){1000}$"},
    "a deep pattern": {"type": "string", "pattern": "(" * 2000 + "a" + ")" * 2000},
    "a pattern that looks ahead": {"type": "string", "pattern": "(?=a)(?!b)"},
    "without end": {"$ref": "#"},
    "two without end": {
        "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}},
        "$ref": "#/$defs/a",
    },
    "somewhere else": {"$ref": "http://127.0.0.1:1/schema.json"},
    "many items": {"type": "array", "items": {"type": "string"}, "minItems": 10**6},
    "no schema": {"type": ["object", 5], "properties": [1]},
}


@pytest.mark.parametrize("schema", BOMBS.values(), ids=BOMBS.keys())
@pytest.mark.parametrize("place", ["format", "tool"])
def test_no_form_ends_the_engine(roomy_server: Any, place: str, schema: dict[str, Any]) -> None:
    """It is followed, or refused as the client's mistake; not one of them is a 500, let alone a crash."""
    if place == "format":
        more: dict[str, Any] = {
            "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
        }
    else:
        tool = {"type": "function", "function": {"name": "f", "parameters": schema}}
        more = {"tools": [tool], "tool_choice": "required"}
    crashes = roomy_server.metric("chatsmith_engine_crashes_total")
    with roomy_server.client() as client:
        answer = client.post(CHAT, json={"messages": LONG["messages"], "max_tokens": 20, **more})
        assert answer.status_code in (200, 400), answer.text
        if answer.status_code == 400:
            assert answer.json()["error"]["param"] in ("response_format", "tools", "messages"), answer.text
        assert client.get("/health").status_code == 200
        assert client.post(CHAT, json={**LONG, "max_tokens": 1}).status_code == 200
    assert roomy_server.metric("chatsmith_engine_crashes_total") == crashes


@pytest.mark.parametrize(
    "field",
    [
        '"unknown": ?',
        '"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": ?}}',
        '"tools": [{"type": "function", "function": {"name": "x", "parameters": ?}}]',
    ],
    ids=["unknown", "schema", "tool"],
)
def test_no_depth_is_a_fault_of_the_server(roomy_server: Any, field: str) -> None:
    """What can just be parsed may be too deep for what comes after."""
    crashes = roomy_server.metric("chatsmith_engine_crashes_total")
    with roomy_server.client() as client:
        for depth in (*range(100, 900, 200), *range(900, 1000, 5)):
            deep = '{"a":' * depth + '"\\u0041"' + "}" * depth
            body = (
                '{"messages": [{"role": "user", "content": "hi"}], "max_tokens": 1, '
                + field.replace("?", deep)
                + "}"
            )
            headers = {"Content-Type": "application/json"}
            answer = client.post(CHAT, content=body.encode(), headers=headers)
            assert answer.status_code in (200, 400), (depth, answer.text)
    assert roomy_server.metric("chatsmith_engine_crashes_total") == crashes


def test_more_log_probabilities_than_fit_are_refused(narrow: Any, sampled: dict[str, Any]) -> None:
    with narrow.client() as client:
        answer = client.post(CHAT, json={**sampled, "n": 60})
        assert answer.status_code == 400 and answer.json()["error"]["param"] == "logprobs"
        one = client.post(CHAT, json={**sampled, "max_tokens": 600})
        assert len(one.json()["choices"][0]["logprobs"]["content"]) == 600


def test_a_second_signal_does_not_wait(start_server: Start, roomy_bundle: Path) -> None:
    server = start_server(roomy_bundle, "--drain-seconds", 600).wait_until_ready()
    began = Event()
    with ThreadPoolExecutor(1) as pool:
        stream = pool.submit(server.chat_events, {**LONG, "n": 16}, began)
        assert began.wait(120)
        server.process.send_signal(signal.SIGTERM)
        server.wait_for("draining")
        server.process.send_signal(signal.SIGTERM)
        assert stream.result()[-1]["error"]["code"] == "shutdown"
    assert server.process.wait(120) == 0
    server.until(lambda: not Path(f"/proc/{server.worker}").exists())


def test_a_signal_while_it_loads_ends_it(start_server: Start, roomy_bundle: Path) -> None:
    server = start_server(roomy_bundle)
    server.wait_for("listening")
    children = Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children")
    server.until(lambda: bool(children.read_text()))
    [worker] = children.read_text().split()
    assert server.stop() == 0 and not server.events("ready")
    server.until(lambda: not Path(f"/proc/{worker}").exists())
