"""The front's handle on an engine process, without one: what it says when nothing is heard any more."""

import asyncio
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from chatsmith.engine.request import RequestError, Sampling
from chatsmith.serve import replica as replica_module
from chatsmith.serve.errors import ApiError
from chatsmith.serve.protocol import Figures, Job, Output, Setup
from chatsmith.serve.replica import STALL_SECONDS, Replica
from chatsmith.serve.worker import _reason


class Ear:
    def __init__(self) -> None:
        self.heard: list[Output] = []
        self.errors: list[ApiError] = []

    def hear(self, output: Output) -> None:
        self.heard.append(output)

    def fail(self, error: ApiError) -> None:
        self.errors.append(error)


@pytest.fixture
def changes() -> list[Figures]:
    return []


async def ready_replica(changes: list[Figures]) -> Replica:
    replica = Replica("m", Setup("x"), lambda replica, before: changes.append(before))
    replica.state = "ready"
    return replica


def step(*outputs: Output) -> dict[str, Any]:
    return {"type": "step", "outputs": [one.to_json() for one in outputs], "figures": {}}


def test_an_engine_that_says_nothing_counts_as_dead_once_it_has_work(
    changes: list[Figures], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def check() -> None:
        replica = await ready_replica(changes)
        now = time.monotonic()

        def after(stalls: float) -> bool:
            """Is it healthy so many times the patience from now?"""
            monkeypatch.setattr(time, "monotonic", lambda: now + stalls * STALL_SECONDS)
            return replica.is_healthy

        assert after(2), "idle engines are silent"
        number = replica.submit(Job((1,)), Ear())
        assert after(2.5), "the wait begins with the work"
        replica.cancel(number)
        assert not after(4), "that nobody waits any more is no answer"
        replica._take(step())
        assert after(5) and after(9)
        replica.submit(Job((1,)), Ear())
        replica._take(step())
        assert after(9.5) and not after(11)

    asyncio.run(check())


def test_open_replies_are_counted_through_every_way_to_end(changes: list[Figures]) -> None:
    async def check() -> None:
        replica = await ready_replica(changes)
        one, two, three, four = Ear(), Ear(), Ear(), Ear()
        first, second, third, _ = (replica.submit(Job((1,), n=2), ear) for ear in (one, two, three, four))
        assert replica.num_open == 8
        replica._take(step(Output(first, 0, finish_reason="stop")))
        assert replica.num_open == 7
        replica._take(step(Output(first, 1, (4,), finish_reason="length")))
        replica.cancel(second)
        replica._take(step(Output(second, 0, (4,))))  # was on its way
        replica._take({"type": "refused", "job": third, "message": "no", "parameter": "stop", "code": "c"})
        assert replica.num_open == 2
        replica._crashed("killed")
        assert replica.num_open == 0 and not replica.is_healthy and not replica.is_ready
        assert [len(one.heard), len(two.heard)] == [2, 0]
        assert [error.param for error in three.errors] == ["stop"]
        assert [error.code for error in four.errors] == ["engine_crashed"]
        assert one.errors == two.errors == []

    asyncio.run(check())
    assert changes


def test_a_job_that_cannot_be_begun_is_refused_and_says_whose_mistake_it_is(changes: list[Figures]) -> None:
    async def check() -> None:
        replica = await ready_replica(changes)
        ears = [Ear(), Ear(), Ear()]
        for ear, error in zip(
            ears, (RequestError("no", parameter="stop"), ValueError("too big"), KeyError("?")), strict=True
        ):
            number = replica.submit(Job((1,)), ear)
            constraint = {"kind": "lark"} if isinstance(error, ValueError) else None
            replica._take({"type": "refused", "job": number, **_reason(error, {"constraint": constraint})})
        told = [(ear.errors[0].status, ear.errors[0].param) for ear in ears]
        assert told == [(400, "stop"), (400, "constraint"), (500, None)]
        assert "?" not in ears[2].errors[0].message and replica.num_open == 0

    asyncio.run(check())


def test_a_question_is_answered_or_fails_with_the_engine(changes: list[Figures]) -> None:
    async def check() -> None:
        replica = await ready_replica(changes)
        asked = [asyncio.create_task(replica.count_cached([1, 2])) for _ in range(2)]
        await asyncio.sleep(0)
        replica._take({"type": "cached", "question": 1, "count": 16})
        assert await asked[0] == 16
        replica._crashed("killed")
        with pytest.raises(ApiError):
            await asked[1]

    asyncio.run(check())


def test_an_engine_that_hangs_is_killed_and_started_again(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A real one, stopped in the middle of its work."""
    monkeypatch.setattr(replica_module, "STALL_SECONDS", 1.0)

    async def check() -> None:
        replica = Replica("m", Setup(str(bundle), device="cpu", threads=1, kv_tokens=512), lambda *_: None)
        running = asyncio.create_task(replica.run())
        try:
            async with asyncio.timeout(100):
                await replica.loaded
                first, ear = replica.pid, Ear()
                assert first is not None
                os.kill(first, signal.SIGSTOP)
                replica.submit(Job((1, 2, 3), Sampling(max_tokens=3)), ear)
                while not (ear.errors and replica.is_ready):
                    await asyncio.sleep(0.02)
                assert [error.code for error in ear.errors] == ["engine_crashed"]
                assert replica.pid != first and replica.num_crashes == 1
                again = Ear()
                replica.submit(Job((1, 2, 3), Sampling(max_tokens=3, ignore_end=True)), again)
                while not (again.heard and again.heard[-1].finish_reason):
                    await asyncio.sleep(0.02)
        finally:
            await replica.stop()
            await running

    asyncio.run(check())
