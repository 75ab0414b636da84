"""A load client for any OpenAI-compatible server: streams chats, and notes when each token came.

Closed loop: so many clients, each sends its next request when the last is answered; it finds the most a server can do.
Open loop: requests come at random (a Poisson process) whether or not the server keeps up, as people do; times count
from when a request was due, so that a server which falls behind cannot hide it (coordinated omission, G. Tene).

HTTP is spoken here with plain sockets: the client must cost next to nothing beside the server it measures, and needs
nothing installed.
"""

import asyncio
import json
import math
import random
import ssl
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import SplitResult, urlsplit

CONNECT_SECONDS = 30.0
SILENCE_SECONDS = 120.0
"""A stream that says nothing for so long has failed."""

_Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]

WORDS = (
    "the",
    "cat",
    "sat",
    "on",
    "a",
    "mat",
    "while",
    "two",
    "dogs",
    "saw",
    "what",
    "is",
    "left",
    "of",
    "seven",
)


@dataclass(frozen=True)
class Target:
    """Where requests go, and what they ask for."""

    url: str
    """Of the server, without /v1."""
    model: str | None
    api_key: str | None = None
    prompt_words: int = 64
    reply_tokens: int = 128
    ignore_end: bool = True
    """Ask for replies of full length (`ignore_eos`), which not every server knows."""

    def body(self, number: int) -> dict[str, Any]:
        """Request number so-and-so: no two prompts begin alike, so no cache helps."""
        chance = random.Random(number)
        text = f"{number} " + " ".join(chance.choices(WORDS, k=self.prompt_words))
        body: dict[str, Any] = {
            "messages": [{"role": "user", "content": text}],
            "max_tokens": self.reply_tokens,
            "temperature": 1,
            "seed": number,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        return (
            body
            | ({"model": self.model} if self.model else {})
            | ({"ignore_eos": True} if self.ignore_end else {})
        )


@dataclass
class Timing:
    """What became of one request. Times in seconds since it was due."""

    first_token: float | None = None
    gaps: list[float] = field(default_factory=list)
    """Between one piece of the reply and the next."""
    total: float = 0.0
    tokens: int = 0
    prompt_tokens: int = 0
    error: str | None = None
    """Why it failed; None if it ended as it should."""


async def closed_loop(
    target: Target, clients: int, is_over: Callable[[int], bool], on_end: Callable[[Timing], None]
) -> list[Timing]:
    """`clients` requests at any time, until `is_over(number of the next request)`."""
    timings: list[Timing] = []
    numbers = iter(range(10**9))

    async def one_client(idle: list[_Connection]) -> None:
        for number in numbers:
            if is_over(number):
                return
            timings.append(await ask(target, number, time.perf_counter(), idle))
            on_end(timings[-1])

    with _kept_open() as idle:
        await asyncio.gather(*(one_client(idle) for _ in range(clients)))
    return timings


async def open_loop(
    target: Target, rate: float, is_over: Callable[[int], bool], on_end: Callable[[Timing], None]
) -> list[Timing]:
    """Requests at `rate` a second on average, until `is_over(number of the next request)`."""
    timings: list[Timing] = []
    chance = random.Random(0)

    async def one_request(number: int, due: float) -> None:
        timings.append(await ask(target, number, due, idle))
        on_end(timings[-1])

    due = time.perf_counter()
    with _kept_open() as idle:
        async with asyncio.TaskGroup() as group:
            for number in range(10**9):
                due += chance.expovariate(rate)
                await asyncio.sleep(max(0.0, due - time.perf_counter()))
                if is_over(number):
                    break
                group.create_task(one_request(number, due))
    return timings


async def ask(target: Target, number: int, due: float, idle: "list[_Connection] | None" = None) -> Timing:
    """Stream the reply to one request. What goes wrong is noted, not raised.

    `idle` are connections that wait for a next request, as other clients keep them; None: one for this request alone.
    """
    timing = Timing()
    last = renewed = due
    finished = False
    try:
        async with asyncio.timeout(SILENCE_SECONDS) as patience:
            async for data in _events(target, target.body(number), idle):
                now = time.perf_counter()
                if data == b"[DONE]":
                    finished = True  # the end of the answer is still to come
                    continue
                chunk = json.loads(data)
                if "error" in chunk:
                    raise ConnectionError(f"error event: {chunk['error'].get('code')}")
                if usage := chunk.get("usage"):
                    timing.tokens, timing.prompt_tokens = usage["completion_tokens"], usage["prompt_tokens"]
                if not any(choice["delta"].get("content") for choice in chunk["choices"]):
                    continue
                if timing.first_token is None:
                    timing.first_token = now - due
                else:
                    timing.gaps.append(now - last)
                if now - renewed > 1:  # to set the timer for every token would cost as much as to read it
                    renewed = now
                    patience.reschedule(asyncio.get_running_loop().time() + SILENCE_SECONDS)
                last = now
        if not finished:
            raise ConnectionError("the stream ended without [DONE]")
    except (OSError, TimeoutError, ValueError, KeyError, EOFError) as error:
        timing.error = str(error) or type(error).__name__
    timing.total = time.perf_counter() - due
    timing.tokens = timing.tokens or len(timing.gaps) + (timing.first_token is not None)
    return timing


def summarize(timings: Sequence[Timing], seconds: float) -> dict[str, Any]:
    """Figures of a run that took so long: counts, tokens a second, percentiles in milliseconds."""
    good = [timing for timing in timings if timing.error is None]
    errors: dict[str, int] = {}
    for timing in timings:
        if timing.error is not None:
            errors[timing.error[:100]] = errors.get(timing.error[:100], 0) + 1
    first = [timing.first_token for timing in good if timing.first_token is not None]
    return {
        "requests": len(timings),
        "errors": len(timings) - len(good),
        "error_kinds": errors,
        "seconds": seconds,
        "requests_per_second": len(good) / seconds,
        "tokens": sum(timing.tokens for timing in good),
        "tokens_per_second": sum(timing.tokens for timing in good) / seconds,
        "prompt_tokens": sum(timing.prompt_tokens for timing in good),
        "ttft_ms": _percentiles(first),
        "itl_ms": _percentiles([gap for timing in good for gap in timing.gaps]),
        "total_ms": _percentiles([timing.total for timing in good]),
    }


def _percentiles(seconds: Sequence[float]) -> dict[str, float]:
    ordered = sorted(seconds)
    if not ordered:
        return {}
    ranks = {"p50": 0.5, "p90": 0.9, "p99": 0.99}
    found = {name: ordered[math.ceil(share * len(ordered)) - 1] for name, share in ranks.items()}
    return {name: 1000 * value for name, value in {**found, "max": ordered[-1]}.items()}


@contextmanager
def _kept_open() -> Iterator[list[_Connection]]:
    """A list for idle connections, which are closed in the end."""
    idle: list[_Connection] = []
    try:
        yield idle
    finally:
        for _, writer in idle:
            writer.close()


async def _events(
    target: Target, body: dict[str, Any], idle: list[_Connection] | None
) -> AsyncIterator[bytes]:
    """The data of each event of a streamed answer. Raises OSError for any answer but success."""
    parts = urlsplit(target.url)
    request = _request(parts.path.rstrip("/"), parts.netloc, target.api_key, body)
    while idle and idle[-1][0].at_eof():
        idle.pop()[1].close()
    connection = idle.pop() if idle else await _connected(parts)
    reader, writer = connection
    is_reusable = False
    try:
        writer.write(request)
        status, is_chunked = await _head(reader)
        if status != 200:
            raise ConnectionError(f"status {status}")
        rest = b""
        async for piece in _body(reader, is_chunked):
            *lines, rest = (rest + piece).split(b"\n")
            for line in lines:
                if line.startswith(b"data:"):
                    yield line.removeprefix(b"data:").strip()
        is_reusable = is_chunked  # else the end of the answer was that of the connection
    finally:
        if is_reusable and idle is not None:
            idle.append(connection)
        else:
            writer.close()


async def _connected(parts: SplitResult) -> _Connection:
    is_tls = parts.scheme == "https"
    host, port = parts.hostname or "localhost", parts.port or (443 if is_tls else 80)
    async with asyncio.timeout(CONNECT_SECONDS):
        context = ssl.create_default_context() if is_tls else None
        return await asyncio.open_connection(host, port, ssl=context)


def _request(path: str, host: str, api_key: str | None, body: dict[str, Any]) -> bytes:
    content = json.dumps(body).encode()
    lines = [
        f"POST {path}/v1/chat/completions HTTP/1.1",
        f"Host: {host}",
        "Content-Type: application/json",
        f"Content-Length: {len(content)}",
        *([f"Authorization: Bearer {api_key}"] if api_key else []),
    ]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + content


async def _head(reader: asyncio.StreamReader) -> tuple[int, bool]:
    """Status, and whether the body comes in chunks."""
    status = int((await reader.readline()).split()[1:2][0])
    is_chunked = False
    while (line := await reader.readline()).strip():
        is_chunked |= line.lower().startswith(b"transfer-encoding:") and b"chunked" in line.lower()
    return status, is_chunked


async def _body(reader: asyncio.StreamReader, is_chunked: bool) -> AsyncIterator[bytes]:
    """The body in pieces, as they arrive. Raises EOFError if it is cut off."""
    rest, is_over = b"", not is_chunked
    while data := await reader.read(1 << 16):
        if not is_chunked:
            yield data
            continue
        piece, rest, is_over = _unframed(rest + data)
        if piece:
            yield piece
        if is_over:
            return
    if not is_over:
        raise EOFError("the connection was cut off")


def _unframed(data: bytes) -> tuple[bytes, bytes, bool]:
    """What whole chunks hold, what is left of the data, and whether the last chunk was among them."""
    pieces: list[bytes] = []
    start = 0
    while (end := data.find(b"\r\n", start)) >= 0:
        size = int(data[start:end].split(b";")[0], 16)
        if size == 0:
            return b"".join(pieces), b"", True
        if end + size + 4 > len(data):
            break
        pieces.append(data[end + 2 : end + 2 + size])
        start = end + size + 4
    return b"".join(pieces), data[start:], False
