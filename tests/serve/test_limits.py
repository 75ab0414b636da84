"""A server with hardly any room: clients are told when to come back, and nobody holds a connection for nothing."""

import asyncio
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from openai import AsyncOpenAI, OpenAI

HELLO: Any = [{"role": "user", "content": "hello cat"}]


@pytest.fixture(scope="module")
def limited(start_server: Callable[..., Any], bundle: Path) -> Any:
    return start_server(bundle, "--max-running", 1, "--max-queue", 0, "--read-seconds", 1).wait_until_ready()


def test_a_client_that_was_told_to_come_back_does(limited: Any) -> None:
    """429 with Retry-After, which the client waits for and then succeeds."""

    async def ask() -> list[Any]:
        async with AsyncOpenAI(
            base_url=f"{limited.url}/v1", api_key="x", _strict_response_validation=True, max_retries=30
        ) as ai:
            more = {"ignore_eos": True}
            create = ai.chat.completions.create
            tasks = [create(model="tiny", messages=HELLO, max_tokens=200, extra_body=more) for _ in range(3)]
            return await asyncio.gather(*tasks)

    answers = asyncio.run(ask())
    assert all(answer.choices[0].finish_reason == "length" for answer in answers)
    refused = [line for line in limited.events("request") if line["status"] == 429]
    assert refused and {line["error"] for line in refused} == {"queue_full"}
    assert limited.metric("chatsmith_requests_refused_total", code="queue_full") == len(refused)


def test_what_could_never_come_in_is_a_mistake(limited: Any) -> None:
    with (
        OpenAI(base_url=f"{limited.url}/v1", api_key="x") as ai,
        pytest.raises(openai.BadRequestError) as caught,
    ):
        ai.chat.completions.create(model="tiny", messages=HELLO, n=2)
    assert caught.value.param == "n"


HEAD = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"


@pytest.mark.parametrize(
    ("said", "heard"),
    [
        (b"", b""),
        (HEAD, b""),
        (b"GET /health HTTP/1.1\r\n" + b"X: y\r\n" * 20_000, b" 431 "),
        (HEAD + b"Content-Length: 99\r\n\r\n{", b" 408 "),
        (b"\x16\x03\x01\x02\x00", b" 400 "),
    ],
    ids=["nothing", "half of the headers", "endless headers", "half of the body", "no HTTP"],
)
def test_what_never_becomes_a_request_is_not_awaited_for_ever(
    limited: Any, said: bytes, heard: bytes
) -> None:
    host, port = limited.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=120) as connection:
        connection.sendall(said)
        assert heard in connection.recv(4096)
        while connection.recv(4096):
            pass
    assert httpx.get(f"{limited.url}/health").status_code == 200


def test_a_slow_but_steady_client_is_served(limited: Any) -> None:
    """Keep-alive: each request on one connection has its own time to arrive."""
    with limited.client() as client:
        for _ in range(3):
            assert client.post("/v1/completions", json={"prompt": "a", "max_tokens": 1}).status_code == 200
            asyncio.run(asyncio.sleep(0.5))
