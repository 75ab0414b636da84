"""The API server's end of an engine process, without one: stalls, crashes, refusals, and what is counted as open."""

import asyncio
import os
import signal
import time
from pathlib import Path

import pytest

from chatsmith.engine.request import Constraint, EngineStats, RequestError, SamplingParams
from chatsmith.serve import engine_client as engine_client_module
from chatsmith.serve.engine_client import STALL_SECONDS, EngineClient, Events
from chatsmith.serve.engine_process import refusal
from chatsmith.serve.errors import ApiError
from chatsmith.serve.ipc import Cached, EngineSettings, Job, Output, Refused, Step, Submit
from chatsmith.serve.metrics import Metrics


async def ready_engine() -> EngineClient:
    engine = EngineClient("m", EngineSettings("x"), Metrics())
    engine.state = "ready"
    return engine


def step(*outputs: Output) -> Step:
    return Step(list(outputs), EngineStats())


def taken(events: Events) -> list[Output | ApiError | None]:
    return [events.get_nowait() for _ in range(events.qsize())]


def test_an_engine_that_sends_nothing_counts_as_dead_once_it_has_work(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def check() -> None:
        engine = await ready_engine()
        now = time.monotonic()

        def after(stalls: float) -> bool:
            """Is it healthy this many times the limit from now?"""
            monkeypatch.setattr(time, "monotonic", lambda: now + stalls * STALL_SECONDS)
            return engine.is_healthy

        assert after(2), "idle engines are silent"
        number = engine.submit(Job((1,)), Events())
        assert after(2.5), "the wait begins with the work"
        engine.cancel(number)
        assert not after(4), "that nobody waits any more is no answer"
        engine._receive(step())
        assert after(5) and after(9)
        engine.submit(Job((1,)), Events())
        engine._receive(step())
        assert after(9.5) and not after(11)

    asyncio.run(check())


def test_open_replies_are_counted_through_every_way_to_end() -> None:
    async def check() -> None:
        engine = await ready_engine()
        one, two, three, four = Events(), Events(), Events(), Events()
        first, second, third, _ = (
            engine.submit(Job((1,), n=2), events) for events in (one, two, three, four)
        )
        assert engine.num_open == 8
        engine._receive(step(Output(first, 0, finish_reason="stop")))
        assert engine.num_open == 7
        engine._receive(step(Output(first, 1, (4,), finish_reason="length")))
        engine.cancel(second)
        engine._receive(step(Output(second, 0, (4,))))  # was on its way
        engine._receive(Refused(third, "no", "stop", "c"))
        assert engine.num_open == 2
        engine._crashed("killed")
        assert engine.num_open == 0 and not engine.is_healthy and not engine.is_ready
        assert [output.finish_reason for output in taken(one) if isinstance(output, Output)] == [
            "stop",
            "length",
        ]
        assert taken(two) == []
        assert [error.param for error in taken(three) if isinstance(error, ApiError)] == ["stop"]
        assert [error.code for error in taken(four) if isinstance(error, ApiError)] == ["engine_crashed"]

    asyncio.run(check())


def test_a_job_that_cannot_be_begun_is_refused_and_says_whose_mistake_it_is() -> None:
    async def check() -> None:
        engine = await ready_engine()
        reported: list[ApiError] = []
        for error in (RequestError("no", parameter="stop"), ValueError("too big"), KeyError("?")):
            events = Events()
            constraint = Constraint("lark", "x") if isinstance(error, ValueError) else None
            job = Job((1,), constraint=constraint)
            engine._receive(refusal(error, Submit(engine.submit(job, events), job)))
            [refused] = taken(events)
            assert isinstance(refused, ApiError)
            reported.append(refused)
        assert [(one.status, one.param) for one in reported] == [
            (400, "stop"),
            (400, "constraint"),
            (500, None),
        ]
        assert "?" not in reported[2].message and engine.num_open == 0

    asyncio.run(check())


def test_a_question_is_answered_or_fails_with_the_engine() -> None:
    async def check() -> None:
        engine = await ready_engine()
        asked = [asyncio.create_task(engine.count_cached([1, 2], "")) for _ in range(2)]
        await asyncio.sleep(0)
        engine._receive(Cached(1, 16))
        assert await asked[0] == 16
        engine._crashed("killed")
        with pytest.raises(ApiError):
            await asked[1]

    asyncio.run(check())


def test_an_engine_that_hangs_is_killed_and_started_again(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A real one, stopped in the middle of its work."""
    monkeypatch.setattr(engine_client_module, "STALL_SECONDS", 1.0)

    async def check() -> None:
        settings = EngineSettings(str(bundle), device="cpu", threads=1, kv_tokens=512)
        engine = EngineClient("m", settings, Metrics())
        running = asyncio.create_task(engine.run())
        try:
            async with asyncio.timeout(100):
                await engine.loaded
                first, events = engine.pid, Events()
                assert first is not None
                os.kill(first, signal.SIGSTOP)
                engine.submit(Job((1, 2, 3), SamplingParams(max_tokens=3)), events)
                error = await events.get()
                assert isinstance(error, ApiError) and error.code == "engine_crashed"
                while not engine.is_ready:
                    await asyncio.sleep(0.02)
                assert engine.pid != first
                engine.submit(Job((1, 2, 3), SamplingParams(max_tokens=3, ignore_end=True)), events)
                while True:
                    output = await events.get()
                    assert isinstance(output, Output)
                    if output.finish_reason:
                        break
        finally:
            await engine.stop()
            await running

    asyncio.run(check())
