"""Hundreds of requests at once, a third of which leave at random moments: afterwards the server is as before.

CHATSMITH_TEST_CHAOS says how many; without it few enough for every day.
"""

import asyncio
import os
import random
from typing import Any

import httpx
import pytest

from chatsmith.engine.engine import Engine
from chatsmith.engine.request import Request, SamplingParams

NUM_REQUESTS = int(os.environ.get("CHATSMITH_TEST_CHAOS", "60"))


async def one_request(client: httpx.AsyncClient, number: int, chance: random.Random) -> str:
    body: dict[str, Any] = {
        "messages": [{"role": "user", "content": "hello " * chance.randrange(1, 15) + str(number % 7)}],
        "max_tokens": chance.randrange(1, 120),
        "temperature": chance.choice([0, 1]),
        "seed": number,
        "stream": chance.random() < 0.6,
        "ignore_eos": chance.random() < 0.5,
    }
    if number % 3 == 1:
        body |= {"stop": ["e", "the", "�"][: chance.randrange(1, 4)], "n": chance.randrange(2, 4)}
    if number % 10 == 2:
        body |= {"logprobs": True, "top_logprobs": 3}
    if number % 10 == 4:
        body |= {"response_format": {"type": "json_object"}}
    patience = chance.uniform(0, 1.5) if number % 3 == 0 else 120
    try:
        async with asyncio.timeout(patience):
            if not body["stream"]:
                response = await client.post("/v1/chat/completions", json=body)
                return "ended" if response.status_code == 200 else f"status {response.status_code}"
            last = ""
            async with client.stream("POST", "/v1/chat/completions", json=body) as response:
                async for line in response.aiter_lines():
                    last = line or last
            return "ended" if last == "data: [DONE]" else f"silence after {last}"
    except TimeoutError:
        return "left"


@pytest.mark.slow
def test_chaos_leaves_nothing_behind(server: Any, engine: Engine) -> None:
    async def all_of_them() -> list[str]:
        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(base_url=server.url, timeout=None, limits=limits) as client:
            requests = [one_request(client, n, random.Random(n)) for n in range(NUM_REQUESTS)]
            return await asyncio.gather(*requests)

    outcomes = asyncio.run(all_of_them())
    assert set(outcomes) <= {"ended", "left"}, [one for one in outcomes if one not in ("ended", "left")]
    assert sum(one == "ended" for one in outcomes) >= NUM_REQUESTS // 2
    server.wait_until_idle(30)
    with server.client() as client:
        body = {
            "prompt": [9, 8, 7],
            "max_tokens": 20,
            "seed": 5,
            "ignore_eos": True,
            "return_token_ids": True,
        }
        fresh = client.post("/v1/completions", json=body).json()
        [expected] = engine.generate(
            [Request((9, 8, 7), SamplingParams(max_tokens=20, seed=5, ignore_end=True))]
        )
        assert fresh["choices"][0]["token_ids"] == list(expected.ids)
        assert client.get("/health").status_code == 200
