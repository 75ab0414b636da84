"""A server under load: streams chats to a running server of the OpenAI API, and prints figures.

    python bench/serve.py http://127.0.0.1:8000 --clients 16 --seconds 60
    python bench/serve.py http://127.0.0.1:8000 --rate 5 --seconds 300

Open loop (--rate): requests come at random (a Poisson process) whether or not the server keeps up, as people's do, and
times count from when a request was due, so that a server which falls behind cannot hide it (coordinated omission,
G. Tene). Closed loop (--clients): each client sends its next request when the last is answered, which finds the most a
server can do. HTTP is spoken with plain streams: the client must cost next to nothing beside the server it measures.
"""

import argparse
import asyncio
import json
import math
import random
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

SILENCE_SECONDS = 120.0
"""A stream without an event for this long has failed."""

WORDS = [
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
    "seven",
    "of",
    "what",
    "is",
    "left",
]


@dataclass
class Timing:
    """One request. Times in seconds since it was due."""

    first_token: float | None = None
    gaps: list[float] = field(default_factory=list)
    """Between one piece of the reply and the next."""
    total: float = 0.0
    tokens: int = 0
    error: str | None = None


def body(options: argparse.Namespace, number: int) -> dict[str, Any]:
    """Request number `number`: no two prompts begin alike, so no cache helps."""
    text = f"{number} " + " ".join(random.Random(number).choices(WORDS, k=options.prompt_words))
    return {
        "messages": [{"role": "user", "content": text}],
        "max_tokens": options.reply_tokens,
        "seed": number,
        "stream": True,
        "stream_options": {"include_usage": True},
        **({"model": options.model} if options.model else {}),
        "ignore_eos": True,
    }


async def ask(options: argparse.Namespace, url: str, number: int, due: float) -> Timing:
    """Stream the reply to one request. What goes wrong is noted, not raised."""
    timing, last, is_done = Timing(), due, False
    writer = None
    try:
        parts = urlsplit(url)
        reader, writer = await asyncio.open_connection(parts.hostname, parts.port or 80, limit=1 << 20)
        content = json.dumps(body(options, number)).encode()
        head = (
            f"POST {parts.path.rstrip('/')}/v1/chat/completions HTTP/1.1\r\nHost: {parts.netloc}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\nConnection: close\r\n"
        )
        head += f"Authorization: Bearer {options.api_key}\r\n" if options.api_key else ""
        writer.write(head.encode() + b"\r\n" + content)
        status = (await reader.readline()).split()[1]
        if status != b"200":
            raise OSError(f"status {status.decode()}")
        while line := await asyncio.wait_for(reader.readline(), SILENCE_SECONDS):
            if not line.startswith(b"data:"):
                continue  # headers, the frames of chunks, comments
            data = line.removeprefix(b"data:").strip()
            if data == b"[DONE]":
                is_done = True
                continue
            chunk = json.loads(data)
            if "error" in chunk:
                raise OSError(f"error event: {chunk['error'].get('code')}")
            if usage := chunk.get("usage"):
                timing.tokens = usage["completion_tokens"]
            if any(choice["delta"].get("content") for choice in chunk["choices"]):
                now = time.perf_counter()
                if timing.first_token is None:
                    timing.first_token = now - due
                else:
                    timing.gaps.append(now - last)
                last = now
        if not is_done:
            raise OSError("the stream ended without [DONE]")
    except (OSError, ValueError, LookupError) as error:
        timing.error = str(error) or type(error).__name__
    finally:
        if writer is not None:
            writer.close()
    timing.total = time.perf_counter() - due
    return timing


async def load(options: argparse.Namespace, url: str) -> list[Timing]:
    """Requests until the time is up or all are sent."""
    started = time.perf_counter()
    numbers = iter(range(options.requests or sys.maxsize))
    timings: list[Timing] = []

    async def client() -> None:
        for number in numbers:
            if not options.requests and time.perf_counter() - started >= options.seconds:
                return
            timings.append(await ask(options, url, number, time.perf_counter()))

    async def arrival(number: int, due: float) -> None:
        timings.append(await ask(options, url, number, due))

    async with asyncio.TaskGroup() as group:
        if options.rate:
            chance, due = random.Random(0), started
            for number in numbers:
                due += chance.expovariate(options.rate)
                if not options.requests and due - started >= options.seconds:
                    break
                await asyncio.sleep(max(0.0, due - time.perf_counter()))
                group.create_task(arrival(number, due))
        else:
            for _ in range(options.clients):
                group.create_task(client())
    return timings


def summarize(timings: Sequence[Timing], seconds: float) -> dict[str, Any]:
    """Counts, rates, and percentiles in milliseconds."""
    good = [timing for timing in timings if timing.error is None]
    tokens = sum(timing.tokens for timing in good)
    return {
        "requests": len(timings),
        "errors": dict(Counter(timing.error[:100] for timing in timings if timing.error is not None)),
        "requests_per_second": len(good) / seconds,
        "tokens": tokens,
        "tokens_per_second": tokens / seconds,
        "first_token_ms": percentiles([one.first_token for one in good if one.first_token is not None]),
        "between_tokens_ms": percentiles([gap for one in good for gap in one.gaps]),
        "total_ms": percentiles([one.total for one in good]),
    }


def percentiles(seconds: Sequence[float]) -> dict[str, float]:
    """Values that occurred, so many hundredths of which are no larger."""
    ordered = sorted(seconds)
    ranks = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "max": 1.0}
    return {
        name: round(1000 * ordered[math.ceil(share * len(ordered)) - 1], 2)
        for name, share in ranks.items()
        if ordered
    }


def main() -> None:
    """Measure, and print one JSON object."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("url", help="the server: http://HOST:PORT, without /v1")
    parser.add_argument("--model", help="the model's name; default: the server's first")
    parser.add_argument("--api-key")
    parser.add_argument("--clients", type=int, default=16, help="closed loop: this many clients")
    parser.add_argument("--rate", type=float, default=0, help="open loop instead: requests a second")
    parser.add_argument("--requests", type=int, default=0, help="how many; default: as --seconds allow")
    parser.add_argument("--seconds", type=float, default=30)
    parser.add_argument("--prompt-words", type=int, default=32)
    parser.add_argument("--reply-tokens", type=int, default=64)
    options = parser.parse_args()
    url = options.url.rstrip("/").removesuffix("/v1")
    started = time.perf_counter()
    timings = asyncio.run(load(options, url))
    print(json.dumps({"url": url, **summarize(timings, time.perf_counter() - started)}, indent=1))


if __name__ == "__main__":
    main()
