"""The replies to one request, without a server: deadlines, failures, and what is given back whatever happens."""

import asyncio
import time
from typing import Any, cast

import pytest

from chatsmith.engine.request import Constraint
from chatsmith.serve.admission import Admission, Limits
from chatsmith.serve.errors import ApiError, invalid
from chatsmith.serve.generation import Batch, Generation, Watch
from chatsmith.serve.metrics import Metrics
from chatsmith.serve.protocol import Job, Output
from chatsmith.serve.replica import Listener, Replica
from chatsmith.serve.request_log import RequestRecord


class Engine:
    """Stands for the engine's process: it says only what a test lets it say."""

    def __init__(self) -> None:
        self.listeners: list[Listener] = []
        self.cancelled: list[int] = []

    def submit(self, job: Job, listener: Listener) -> int:
        self.listeners.append(listener)
        return len(self.listeners) - 1

    def cancel(self, number: int) -> None:
        self.cancelled.append(number)


class Case:
    """A generation of `n` replies to each of `num_jobs` prompts."""

    def __init__(
        self,
        n: int = 1,
        num_jobs: int = 1,
        queue_seconds: float = 9,
        request_seconds: float = 9,
        constraint: Constraint | None = None,
    ) -> None:
        self.engine = Engine()
        self.admission = Admission(Limits(), time.monotonic)
        self.record = RequestRecord("id", "POST", "/", None)
        self.open: set[Generation] = set()
        jobs = [Job((1, 2, 3), n=n, constraint=constraint) for _ in range(num_jobs)]
        self.generation = Generation(
            jobs,
            lambda: cast(Replica, self.engine),
            lambda: self.admission.admit("a", n * num_jobs, 3 * num_jobs),
            Watch("m", Metrics(), self.record, queue_seconds, request_seconds),
            {"constraint": "tools"},
            self.open,
        )

    def say(self, job: int = 0, index: int = 0, finish: Any = None, error: str | None = None) -> None:
        self.engine.listeners[job].hear(Output(job, index, (5,), finish_reason=finish, error=error))

    async def read(self, idle_seconds: float | None = None, script: Any = None) -> list[Batch]:
        async with self.generation:
            if script is not None:
                asyncio.get_running_loop().call_soon(script)
            return [batch async for batch in self.generation.batches(idle_seconds)]

    def is_clean(self) -> bool:
        a = self.admission
        return a.num_open == 0 and a.waiting_tokens == 0 and not self.open


def failure(case: Case, script: Any = None) -> ApiError:
    with pytest.raises(ApiError) as caught:
        asyncio.run(case.read(script=script))
    assert case.is_clean()
    assert case.engine.cancelled == list(range(len(case.engine.listeners)))
    return caught.value


def test_choices_are_numbered_over_prompts_and_replies() -> None:
    case = Case(n=2, num_jobs=2)

    def script() -> None:
        for job in (0, 1):
            for index in (0, 1):
                case.say(job, index, "stop")

    batches = asyncio.run(case.read(script=script))
    assert [number for batch in batches for number, _ in batch] == [0, 1, 2, 3]
    assert case.is_clean() and case.record.finish == ["stop"] * 4
    assert case.record.completion_tokens == 4


def test_a_reply_that_does_not_begin_in_time_is_given_up() -> None:
    error = failure(Case(queue_seconds=0.05))
    assert (error.status, error.code) == (503, "queue_timeout") and error.retry_after


def test_a_reply_that_does_not_end_in_time_is_given_up() -> None:
    case = Case(queue_seconds=0.05, request_seconds=0.2)
    error = failure(case, case.say)  # it begins, so only the longer deadline counts
    assert (error.status, error.code) == (504, "deadline_exceeded")
    assert time.monotonic() - case.record.arrived >= 0.2


def test_one_reply_that_fails_ends_the_request() -> None:
    case = Case(n=2)
    error = failure(case, lambda: case.say(finish="error", error="the model's logits are not finite numbers"))
    assert (error.status, error.type) == (500, "server_error") and "finite" in error.message


def test_a_form_that_proves_too_complex_is_the_clients_mistake() -> None:
    case = Case(constraint=Constraint.json_object())
    error = failure(case, lambda: case.say(finish="error", error="parser error: Too many items"))
    assert (error.status, error.param, error.code) == (400, "tools", "invalid_value")
    case = Case(constraint=Constraint.json_object())
    error = failure(case, lambda: case.say(finish="error", error="the model's logits are not finite numbers"))
    assert (error.status, error.code) == (500, "generation_failed")


def test_what_the_engine_refuses_is_named_as_in_the_request() -> None:
    case = Case()
    error = failure(case, lambda: case.engine.listeners[0].fail(invalid("no grammar", "constraint")))
    assert (error.status, error.param) == (400, "tools")


def test_aborting_ends_it_from_outside() -> None:
    case = Case()
    error = failure(case, lambda: case.generation.abort(invalid("enough")))
    assert error.message == "enough"
    assert case.record.finish == ["error"]


def test_whoever_leaves_aborts() -> None:
    case = Case(n=2)

    async def leave() -> None:
        reading = asyncio.create_task(case.read(script=case.say))
        await asyncio.sleep(0.02)
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)

    asyncio.run(leave())
    assert case.is_clean() and case.engine.cancelled == [0]
    assert case.record.finish == ["abort", "abort"]


def test_silence_is_told_as_empty_batches() -> None:
    case = Case()

    def script() -> None:
        asyncio.get_running_loop().call_later(0.12, lambda: case.say(finish="stop"))

    batches = asyncio.run(case.read(idle_seconds=0.03, script=script))
    assert batches[0] == [] and len(batches[-1]) == 1


def test_nothing_is_held_before_it_begins_or_when_there_is_no_room() -> None:
    case = Case()
    assert case.is_clean()
    case.admission.limits = Limits(queue_requests=0)
    busy = case.admission
    with pytest.raises(ApiError):
        asyncio.run(case.read())
    assert busy.num_open == 0 and not case.open and case.engine.listeners == []
