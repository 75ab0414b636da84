"""The front's handle on an engine process, without one: what it says when nothing is heard any more."""

import asyncio
from typing import Any

import pytest

from chatsmith.serve.errors import ApiError
from chatsmith.serve.protocol import Figures, Job, Output, Setup
from chatsmith.serve.replica import STALL_SECONDS, Replica


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


def test_an_engine_that_says_nothing_counts_as_dead_once_it_has_work(changes: list[Figures]) -> None:
    async def check() -> None:
        replica = await ready_replica(changes)
        replica._heard_at -= 2 * STALL_SECONDS
        assert replica.is_healthy, "idle engines are silent"
        replica.submit(Job((1,)), Ear())
        assert replica.is_healthy, "the wait begins with the work"
        replica._heard_at -= 2 * STALL_SECONDS
        assert not replica.is_healthy
        replica._take(step())
        assert replica.is_healthy

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
