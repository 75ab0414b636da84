"""The way of one request, without a server: deadlines, failures, and what is given back whatever happens."""

import asyncio
import time
from collections.abc import Callable
from contextlib import aclosing
from typing import Any, cast

import pytest

from chatsmith.engine.request import Constraint
from chatsmith.serve.admission import Limits
from chatsmith.serve.engine_client import EngineClient, Events
from chatsmith.serve.errors import ApiError, invalid
from chatsmith.serve.ipc import Job, ModelInfo, Output
from chatsmith.serve.log import RequestRecord
from chatsmith.serve.metrics import Metrics
from chatsmith.serve.models import LoadedModel, ServedModel
from chatsmith.serve.protocol import Defaults
from chatsmith.text.tokenizer import Tokenizer

INFO = ModelInfo("", 256, 320, 1, {}, "f", num_blocks=256, block_size=16, max_running=8, description="")


class Engine:
    """Stands in for the engine's process: it sends only what a test lets it send."""

    is_ready = True
    num_open = 0

    def __init__(self) -> None:
        self.jobs: list[tuple[Events, int]] = []
        self.cancelled: list[int] = []
        self.begins_at_once = False

    def submit(self, job: Job, events: Events, first_choice: int) -> int:
        self.jobs.append((events, first_choice))
        if self.begins_at_once:
            events.put_nowait(Output(len(self.jobs) - 1, first_choice, (5,)))
        return len(self.jobs) - 1

    def cancel(self, number: int) -> None:
        self.cancelled.append(number)


class Case:
    """A request for `n` replies to each of `num_jobs` prompts."""

    def __init__(
        self,
        n: int = 1,
        num_jobs: int = 1,
        queue_seconds: float = 9,
        request_seconds: float = 9,
        constraint: Constraint | None = None,
    ) -> None:
        self.engine = Engine()
        self.model = ServedModel(
            "m", [], Limits(), Metrics(), queue_seconds=queue_seconds, request_seconds=request_seconds
        )
        self.model.engines = [cast(EngineClient, self.engine)]
        self.model._loaded = LoadedModel(INFO, cast(Tokenizer, None), Defaults())
        self.record = RequestRecord("id", "POST", "/", None)
        jobs = [Job((1, 2, 3), n=n, constraint=constraint) for _ in range(num_jobs)]
        self.outputs = self.model.generate(jobs, self.record, {"constraint": "tools"})

    def send(self, job: int = 0, index: int = 0, finish: Any = None, error: str | None = None) -> None:
        events, first_choice = self.engine.jobs[job]
        events.put_nowait(Output(job, first_choice + index, (5,), finish_reason=finish, error=error))

    async def read(self, script: Callable[[], None] | None = None) -> list[list[Output]]:
        if script is not None:
            asyncio.get_running_loop().call_soon(script)
        async with aclosing(self.outputs) as batches:
            return [batch async for batch in batches]

    def is_clean(self) -> bool:
        a = self.model.admission
        return a.num_open == 0 and a.waiting_tokens == 0 and not self.model.open


def failure(case: Case, script: Callable[[], None] | None = None) -> ApiError:
    with pytest.raises(ApiError) as caught:
        asyncio.run(case.read(script))
    assert case.is_clean()
    assert case.engine.cancelled == list(range(len(case.engine.jobs)))
    return caught.value


def test_choices_are_numbered_over_prompts_and_replies() -> None:
    case = Case(n=2, num_jobs=2)

    def script() -> None:
        for job in (0, 1):
            for index in (0, 1):
                case.send(job, index, "stop")

    batches = asyncio.run(case.read(script))
    assert [output.index for batch in batches for output in batch] == [0, 1, 2, 3]
    assert case.is_clean() and case.record.finish == ["stop"] * 4
    assert case.record.completion_tokens == 4


def test_a_reply_that_does_not_begin_in_time_is_given_up() -> None:
    error = failure(Case(queue_seconds=0.05))
    assert (error.status, error.code) == (503, "queue_timeout") and error.retry_after


def test_a_reply_that_does_not_end_in_time_is_given_up() -> None:
    case = Case(queue_seconds=0.05, request_seconds=0.2)
    case.engine.begins_at_once = True  # so only the longer deadline counts
    error = failure(case)
    assert (error.status, error.code) == (504, "deadline_exceeded")
    assert time.monotonic() - case.record.arrived >= 0.2


def test_one_reply_that_fails_ends_the_request() -> None:
    case = Case(n=2)
    error = failure(
        case, lambda: case.send(finish="error", error="the model's logits are not finite numbers")
    )
    assert (error.status, error.type) == (500, "server_error") and "finite" in error.message


def test_a_grammar_that_proves_too_complex_is_the_clients_mistake() -> None:
    case = Case(constraint=Constraint.json_schema({"type": "object"}))
    error = failure(case, lambda: case.send(finish="error", error="parser error: Too many items"))
    assert (error.status, error.param, error.code) == (400, "tools", "invalid_value")
    case = Case(constraint=Constraint.json_schema({"type": "object"}))
    error = failure(
        case, lambda: case.send(finish="error", error="the model's logits are not finite numbers")
    )
    assert (error.status, error.code) == (500, "generation_failed")


def test_what_the_engine_refuses_is_named_as_in_the_request() -> None:
    case = Case()
    error = failure(
        case, lambda: case.engine.jobs[0][0].put_nowait(invalid("constraint is bad", "constraint"))
    )
    assert (error.status, error.param, error.message) == (400, "tools", "tools is bad")


def test_stopping_the_server_ends_it_from_outside() -> None:
    case = Case()

    def abort() -> None:
        for events in case.model.open:
            events.put_nowait(invalid("enough"))

    error = failure(case, abort)
    assert error.message == "enough"
    assert case.record.finish == ["error"]


def test_whoever_leaves_aborts() -> None:
    case = Case(n=2)

    async def leave() -> None:
        reading = asyncio.create_task(case.read(case.send))
        await asyncio.sleep(0.02)
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)

    asyncio.run(leave())
    assert case.is_clean() and case.engine.cancelled == [0]
    assert case.record.finish == ["abort", "abort"]


def test_nothing_is_held_before_it_begins_or_when_there_is_no_room() -> None:
    case = Case(n=9)
    assert case.is_clean()
    case.model.admission.limits = Limits(queue_requests=0)
    with pytest.raises(ApiError):
        asyncio.run(case.read())
    assert case.is_clean() and case.engine.jobs == []
