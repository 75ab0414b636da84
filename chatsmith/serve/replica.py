"""The front's handle on one engine process: start it, speak to it, and start it again when it dies.

Whoever submits a job gives a listener, which hears of every output until the job is over, refused, or lost because
the process ended. Nothing here blocks: the socket is read by the event loop.
"""

import asyncio
import os
import socket
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Literal, Protocol

from chatsmith.runtime.errors import UserError
from chatsmith.serve.errors import ApiError, internal, invalid, unavailable
from chatsmith.serve.protocol import (
    Closed,
    Figures,
    Job,
    Message,
    ModelInfo,
    Output,
    Setup,
    encode,
    read_message,
)
from chatsmith.serve.request_log import log_event

State = Literal["loading", "ready", "down", "stopped"]

STALL_SECONDS = 120.0
"""An engine with work that says nothing for so long counts as dead and is killed: a step takes seconds at worst."""

STOP_SECONDS = 5.0
GOOD_SECONDS = 60.0
"""An engine that lived for so long is restarted at once; one that dies sooner has to wait, longer every time."""

MAX_PAUSE = 30.0
FIRST_GUESS = 5
"""Seconds a load takes, until one was timed."""


class Listener(Protocol):
    """Hears of one job."""

    def hear(self, output: Output) -> None:
        """One of the job's replies has come further."""
        ...

    def fail(self, error: ApiError) -> None:
        """The job will not be finished."""
        ...


class Replica:
    """One engine process of a model."""

    def __init__(self, model: str, setup: Setup, on_change: Callable[["Replica", Figures], None]) -> None:
        """`on_change` is called when the engine's figures or its state have changed, with the figures before."""
        self.state: State = "loading"
        self.info: ModelInfo | None = None
        self.figures = Figures()
        self.num_open = 0
        """Replies submitted and not over."""
        self.pid: int | None = None
        self.num_crashes = 0
        self.loaded: asyncio.Future[ModelInfo] = asyncio.get_running_loop().create_future()
        """Done when the model is loaded for the first time; a UserError if it cannot be."""
        self._model = model
        self._setup = setup
        self._on_change = on_change
        self._listeners: dict[int, tuple[Listener, int]] = {}
        self._questions: dict[int, asyncio.Future[int]] = {}
        self._next_id = 0
        self._writer: asyncio.StreamWriter | None = None
        self._process: asyncio.subprocess.Process | None = None
        self._owes_since: float | None = None
        """Since when the engine has had something to answer; None if it has nothing."""
        self._load_seconds: float | None = None

    @property
    def is_ready(self) -> bool:
        """Does it take jobs?"""
        return self.state == "ready"

    @property
    def is_healthy(self) -> bool:
        """False from a crash until it is ready again, and while it does not answer."""
        return self.state != "down" and not self._is_stalled

    @property
    def _is_stalled(self) -> bool:
        return self._owes_since is not None and time.monotonic() - self._owes_since > STALL_SECONDS

    @property
    def retry_after(self) -> int:
        """Seconds until it may be ready."""
        return max(1, round(self._load_seconds or FIRST_GUESS))

    def submit(self, job: Job, listener: Listener) -> int:
        """Queue a job; the number names it for `cancel`. Must be ready."""
        assert self.is_ready
        number = self._number()
        self._listeners[number] = (listener, job.n)
        self.num_open += job.n
        self._ask({"type": "submit", "job": number, **job.to_json()})
        return number

    def cancel(self, number: int) -> None:
        """Give up what is left of a job. Nothing more is heard of it."""
        if self._forget(number) and self.is_ready:
            self._ask({"type": "cancel", "job": number})

    async def count_cached(self, prompt_ids: Sequence[int]) -> int:
        """How many ids of a prompt the prefix cache holds now. Raises ApiError if the engine is lost."""
        assert self.is_ready
        number = self._number()
        answer: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._questions[number] = answer
        self._ask({"type": "count_cached", "question": number, "prompt_ids": list(prompt_ids)})
        return await answer

    async def run(self) -> None:
        """Keep a process running until `stop`. Returns early if the model cannot be loaded the first time."""
        pause = 0.0
        while self.state != "stopped":
            started = time.monotonic()
            try:
                reason: Exception = await self._live()
            except OSError as error:  # no memory or no process to be had
                reason = error
            if self.state == "stopped":
                return
            if isinstance(reason, UserError) and not self.loaded.done():
                self.state = "stopped"
                self.loaded.set_exception(reason)
                return
            self._crashed(str(reason))
            pause = 0.0 if time.monotonic() - started > GOOD_SECONDS else min(max(1.0, 2 * pause), MAX_PAUSE)
            await asyncio.sleep(pause)

    async def stop(self) -> None:
        """End the process. What it was still doing is lost."""
        was_ready, self.state = self.is_ready, "stopped"
        process = self._process
        if process is None or process.returncode is not None:
            return
        if was_ready:
            self._send({"type": "stop"})
        else:
            process.kill()  # it is loading, and would not hear
        try:
            await asyncio.wait_for(process.wait(), STOP_SECONDS)
        except TimeoutError:
            process.kill()
            await process.wait()

    async def _live(self) -> Exception:
        """One life of the process. Returns why it ended."""
        ours, theirs = socket.socketpair()
        started = time.monotonic()
        # Threads that wait for each other spin for milliseconds by default. If other work holds the core of one, the
        # others take theirs from whoever could do something. Measured on two cores, the kindergarten's model, two
        # threads, 16 requests at once: 26,600 tokens a second if they spin, 22,600 if they spin a thousand times
        # and then sleep, 8,600 if they sleep at once; beside a training 900, 6,000 and 16,300.
        environment = {"GOMP_SPINCOUNT": "1000", **os.environ}
        if self._setup.threads:
            environment["OMP_NUM_THREADS"] = str(self._setup.threads)
        try:
            self._process = process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "chatsmith.serve.worker", str(theirs.fileno())),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=sys.stderr.fileno(),
                pass_fds=[theirs.fileno()],
                env=environment,
                # Its own session: Ctrl-C in a terminal is for the front, which finishes replies first.
                start_new_session=True,
            )
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        self.pid = process.pid
        reader, self._writer = await asyncio.open_connection(sock=ours)
        self._send({"type": "setup", "setup": asdict(self._setup)})
        watching = asyncio.create_task(self._kill_if_stalled(process))
        try:
            while True:
                message = await read_message(reader)
                if message["type"] == "failed":
                    return UserError(message["message"])
                if message["type"] == "ready":
                    self._load_seconds = time.monotonic() - started
                self._take(message)
        except Closed:
            return RuntimeError(f"the engine's process ended (exit code {await process.wait()})")
        finally:
            watching.cancel()
            self._writer.close()
            self._writer = None

    async def _kill_if_stalled(self, process: asyncio.subprocess.Process) -> None:
        """What has stalled would never end by itself, and so never be started again."""
        while not self._is_stalled:
            await asyncio.sleep(STALL_SECONDS / 8)
        log_event("engine_stalled", level="error", model=self._model, replica=self._setup.index)
        process.kill()

    def _take(self, message: Message) -> None:
        before = self.figures
        kind = message["type"]
        if kind == "step":
            self.figures = Figures(**message["figures"])
            for content in message["outputs"]:
                self._hear(Output.from_json(content))
        elif kind == "refused":
            self._refused(message)
        elif kind == "cached":
            if (question := self._questions.pop(message["question"], None)) and not question.done():
                question.set_result(message["count"])
        else:
            assert kind == "ready", kind
            self._ready(ModelInfo(**message["info"]))
        self._owes_since = time.monotonic() if self._listeners or self._questions else None
        if kind != "step" or self.figures != before:
            self._on_change(self, before)

    def _ready(self, info: ModelInfo) -> None:
        self.info, self.state, self.figures = info, "ready", Figures(num_free_blocks=info.num_blocks)
        log_event("engine_ready", model=self._model, replica=self._setup.index, pid=self.pid)
        if not self.loaded.done():
            self.loaded.set_result(info)

    def _hear(self, output: Output) -> None:
        entry = self._listeners.get(output.job)
        if entry is None:
            return  # cancelled, while this was on its way
        listener, left = entry
        if output.finish_reason is not None:
            self.num_open -= 1
            self._listeners[output.job] = (listener, left - 1)
            if left == 1:
                del self._listeners[output.job]
        listener.hear(output)

    def _refused(self, message: Message) -> None:
        entry = self._listeners.get(message["job"])
        self._forget(message["job"])
        if entry is None:
            return
        if message["message"] is None:
            entry[0].fail(internal())
        else:
            entry[0].fail(invalid(message["message"], message["parameter"], message["code"]))

    def _crashed(self, reason: str) -> None:
        before = self.figures
        self._owes_since = None
        self.state, self.figures, self.num_crashes = "down", Figures(), self.num_crashes + 1
        log_event(
            "engine_crashed", level="error", model=self._model, replica=self._setup.index, reason=reason
        )
        listeners = [listener for listener, _ in self._listeners.values()]
        self._listeners.clear()
        self.num_open = 0
        for question in self._questions.values():
            if not question.done():
                question.set_exception(self._lost())
        self._questions.clear()
        for listener in listeners:
            listener.fail(self._lost())
        self._on_change(self, before)

    def _lost(self) -> ApiError:
        # One for each listener: an exception that is raised in several places gathers all their tracebacks.
        return unavailable(
            "The engine stopped while it worked on this request, and is being restarted. Try again.",
            "engine_crashed",
            self.retry_after,
        )

    def _forget(self, number: int) -> bool:
        entry = self._listeners.pop(number, None)
        if entry is None:
            return False
        self.num_open -= entry[1]
        return True

    def _number(self) -> int:
        self._next_id += 1
        return self._next_id

    def _ask(self, message: Message) -> None:
        """Send what the engine answers at its next step. A cancelled job, too: nobody else may be waiting."""
        if self._owes_since is None:
            self._owes_since = time.monotonic()
        self._send(message)

    def _send(self, message: Message) -> None:
        if self._writer is not None:
            self._writer.write(encode(message))
