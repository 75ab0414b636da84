"""The replies to one HTTP request while they are written: `async with` submits its jobs and cancels what is left.

Outputs of all jobs come in batches, in the order in which they happened. A reply that fails, an engine that is lost
and a deadline that has passed are raised as ApiErrors; the other replies of the request then end, too.
"""

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from chatsmith.serve.admission import Ticket
from chatsmith.serve.errors import ApiError, internal, invalid, overdue, unavailable
from chatsmith.serve.metrics import Metrics
from chatsmith.serve.protocol import Job, Output
from chatsmith.serve.replica import Replica
from chatsmith.serve.request_log import RequestRecord

NOT_FINITE = "not finite"
"""What the engine says of logits that are no numbers, which is no fault of a form."""

Batch = list[tuple[int, Output]]
"""Outputs, each with the number of the choice it belongs to."""


@dataclass
class _Choice:
    """One reply, as far as it is known."""

    prompt_tokens: int
    has_form: bool = False
    """Does a constraint say what the reply looks like?"""
    num_tokens: int = 0
    last_token_at: float | None = None
    is_over: bool = False


class Watch:
    """Measures a request, for metrics and log, and knows its deadlines."""

    def __init__(
        self,
        model: str,
        metrics: Metrics,
        record: RequestRecord,
        queue_seconds: float,
        request_seconds: float,
    ) -> None:
        self.record = record
        self.queue_seconds = queue_seconds
        self.request_seconds = request_seconds
        self._model = model
        self._metrics = metrics

    def came(self, choice: _Choice, output: Output) -> None:
        """An output was delivered."""
        now = time.monotonic()
        since_arrival = now - self.record.arrived
        if choice.last_token_at is None:
            self._metrics.reply_began(self._model, choice.prompt_tokens, since_arrival)
            if self.record.first_token_seconds is None:
                self.record.first_token_seconds = since_arrival
        seconds = None if choice.last_token_at is None else now - choice.last_token_at
        self._metrics.tokens_came(self._model, len(output.ids), seconds)
        choice.last_token_at = now
        choice.num_tokens += len(output.ids)
        if output.finish_reason is not None:
            self.ended(choice, output.finish_reason)

    def ended(self, choice: _Choice, reason: str) -> None:
        """A reply is over; `abort` if nobody waits for it any more."""
        choice.is_over = True
        seconds = time.monotonic() - self.record.arrived
        self._metrics.reply_ended(self._model, reason, choice.num_tokens, seconds)
        self.record.finish.append(reason)
        self.record.completion_tokens = (self.record.completion_tokens or 0) + choice.num_tokens


class Generation:
    """The replies to one request, under way."""

    def __init__(
        self,
        jobs: Sequence[Job],
        pick: Callable[[], Replica],
        admit: Callable[[], Ticket],
        watch: Watch,
        parameters: Mapping[str, str],
        open_ones: set["Generation"],
    ) -> None:
        """`pick` chooses an engine for a job, `admit` lets the request in; both may raise ApiError.

        Nothing is held before it is entered. `open_ones` is where this one is kept while it is open.
        """
        self._jobs = jobs
        self._pick = pick
        self._admit = admit
        self._ticket: Ticket | None = None
        self._watch = watch
        self._parameters = parameters
        self._open_ones = open_ones
        self._came = _Mailbox()
        self._num_over = 0
        self._submitted: list[tuple[Replica, int]] = []
        self._choices = [
            _Choice(len(job.prompt_ids), job.constraint is not None) for job in jobs for _ in range(job.n)
        ]
        watch.record.prompt_tokens = sum(len(job.prompt_ids) for job in jobs)

    async def __aenter__(self) -> Self:
        self._ticket = self._admit()
        self._open_ones.add(self)
        try:
            first_choice = 0
            for job in self._jobs:
                replica = self._pick()
                ear = _Ear(first_choice, self._came.put)
                self._submitted.append((replica, replica.submit(job, ear)))
                first_choice += job.n
        except BaseException:
            self._close("error")
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # What the server ends is an error; whoever leaves aborts.
        self._close("error" if isinstance(error, ApiError) else "abort")

    def abort(self, error: ApiError) -> None:
        """End it from outside: whoever reads the batches gets the error."""
        self._came.put(error)

    async def batches(self, idle_seconds: float | None = None) -> AsyncIterator[Batch]:
        """What has come since the last batch, until every reply is over; an empty batch after so long without.

        Raises ApiError for whatever ends the request otherwise.
        """
        came = self._came.items
        while self._num_over < len(self._choices):
            if not came:
                deadline = self._deadline()
                await self._came.wait(
                    deadline if idle_seconds is None else min(deadline, time.monotonic() + idle_seconds)
                )
            batch: Batch = []
            if not came:
                self._check_deadlines()
            while came:
                batch.append(self._taken(came.popleft()))
            yield batch

    def _deadline(self) -> float:
        watch = self._watch
        has_begun = watch.record.first_token_seconds is not None
        seconds = watch.request_seconds if has_begun else min(watch.queue_seconds, watch.request_seconds)
        return watch.record.arrived + seconds

    def _check_deadlines(self) -> None:
        if time.monotonic() < self._deadline():
            return
        watch = self._watch
        if watch.record.first_token_seconds is None and watch.queue_seconds < watch.request_seconds:
            raise unavailable(
                f"No engine was free within {watch.queue_seconds:g} seconds. Try again later.",
                "queue_timeout",
                max(1, min(60, round(watch.queue_seconds))),
            )
        raise overdue(watch.request_seconds)

    def _taken(self, item: "_Item") -> tuple[int, Output]:
        if isinstance(item, ApiError):
            ours = item.param or ""
            item.param = theirs = self._parameters.get(ours, item.param)
            if theirs and item.message.startswith(f"{ours} "):
                item.message = theirs + item.message.removeprefix(ours)
            raise item
        number, output = item
        choice = self._choices[number]
        assert self._ticket is not None
        if choice.last_token_at is None:
            self._ticket.begin()
        self._watch.came(choice, output)
        if choice.is_over:
            self._num_over += 1
            self._ticket.end()
        if output.finish_reason == "error":
            raise self._failure(choice, output.error or "The model failed.")
        return item

    def _failure(self, choice: _Choice, reason: str) -> ApiError:
        # A form may prove too complex while it is followed, which is the client's affair. 500 would be tried again.
        if choice.has_form and NOT_FINITE not in reason:
            param = self._parameters.get("constraint", "constraint")
            return invalid(f"{param} asks for a form that cannot be followed further: {reason}", param)
        return internal(reason, "generation_failed")

    def _close(self, reason: str) -> None:
        for replica, number in self._submitted:
            replica.cancel(number)
        for choice in self._choices:
            if not choice.is_over:
                self._watch.ended(choice, reason)
        if self._ticket is not None:
            self._ticket.close()
        self._came.close()
        self._open_ones.discard(self)


_Item = tuple[int, Output] | ApiError


class _Mailbox:
    """What has come for one reader, and is not read yet.

    It does what asyncio's queue and timeouts do, for a third of the time, which is spent for every token: the timer
    is not set anew each time, but looks, when it rings, whether it is time.
    """

    def __init__(self) -> None:
        self.items: deque[_Item] = deque()
        self._waiter: asyncio.Future[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._until = 0.0

    def put(self, item: _Item) -> None:
        """Add one, and wake the reader."""
        self.items.append(item)
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def wait(self, until: float) -> None:
        """Return when something is there, or at that time; the times of a mailbox never go back."""
        assert not self.items and until >= self._until
        self._until = until
        self._waiter = asyncio.get_running_loop().create_future()
        if self._timer is None:
            self._set_timer()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def close(self) -> None:
        """Nobody will read any more."""
        if self._timer is not None:
            self._timer.cancel()

    def _set_timer(self) -> None:
        seconds = max(0.0, self._until - time.monotonic())
        self._timer = asyncio.get_running_loop().call_later(seconds, self._ring)

    def _ring(self) -> None:
        self._timer = None
        if self._waiter is None or self._waiter.done():
            return
        if time.monotonic() < self._until:
            self._set_timer()
        else:
            self._waiter.set_result(None)


class _Ear:
    """Hears one job for its generation."""

    def __init__(self, first_choice: int, put: Callable[[_Item], None]) -> None:
        self._first_choice = first_choice
        self._put = put

    def hear(self, output: Output) -> None:
        self._put((self._first_choice + output.index, output))

    def fail(self, error: ApiError) -> None:
        self._put(error)
