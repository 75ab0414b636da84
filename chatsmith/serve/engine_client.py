"""The API server's end of one engine process: start it, talk to it, and start it again when it dies.

The outputs of a job go into the queue that it was submitted with, until the job is over; an ApiError in the queue says
that it was refused, or lost because the process ended. Nothing here blocks: the event loop reads the socket.
"""

import asyncio
import os
import socket
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from chatsmith.engine.request import EngineStats
from chatsmith.runtime.errors import UserError
from chatsmith.serve import ipc
from chatsmith.serve.errors import ApiError, invalid, known
from chatsmith.serve.log import log_event
from chatsmith.serve.metrics import Metrics
from chatsmith.serve.tools import explain_refusal

State = Literal["loading", "ready", "down", "stopped"]
Events = asyncio.Queue[ipc.Output | ApiError | None]

STALL_SECONDS = 120.0
"""An engine with work that sends nothing for this long counts as dead and is killed: a step takes seconds at worst."""

STOP_SECONDS = 5.0
GOOD_SECONDS = 60.0
"""An engine that lived for this long is restarted at once; one that dies sooner has to wait, longer every time."""

MAX_PAUSE = 30.0
FIRST_GUESS = 5
"""Seconds a load takes, until one was timed."""


@dataclass
class _OpenJob:
    events: Events
    first_choice: int
    job: ipc.Job
    num_open: int
    """Replies that are not over."""


class EngineClient:
    """One engine process of a model."""

    def __init__(self, model: str, settings: ipc.EngineSettings, metrics: Metrics) -> None:
        self.state: State = "loading"
        self.info: ipc.ModelInfo | None = None
        self.stats = EngineStats()
        self.pid: int | None = None
        self.loaded: asyncio.Future[ipc.ModelInfo] = asyncio.get_running_loop().create_future()
        """Done when the model is loaded for the first time; a UserError if it cannot be."""
        self._model = model
        self._settings = settings
        self._metrics = metrics
        self._jobs: dict[int, _OpenJob] = {}
        self._questions: dict[int, asyncio.Future[int]] = {}
        self._last_number = 0
        self._writer: asyncio.StreamWriter | None = None
        self._process: asyncio.subprocess.Process | None = None
        self._waiting_since: float | None = None
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
    def num_open(self) -> int:
        """Replies submitted and not over."""
        return sum(job.num_open for job in self._jobs.values())

    @property
    def _is_stalled(self) -> bool:
        return self._waiting_since is not None and time.monotonic() - self._waiting_since > STALL_SECONDS

    @property
    def retry_after(self) -> int:
        """Seconds until it may be ready."""
        return max(1, round(self._load_seconds or FIRST_GUESS))

    def submit(self, job: ipc.Job, events: Events, first_choice: int = 0) -> int:
        """Queue a job, its replies numbered from `first_choice`. The result names it for `cancel`. Must be ready."""
        assert self.is_ready
        self._last_number += 1
        self._jobs[self._last_number] = _OpenJob(events, first_choice, job, job.n)
        self._ask(ipc.Submit(self._last_number, job))
        return self._last_number

    def cancel(self, number: int) -> None:
        """Give up what is left of a job. No more outputs of it will come."""
        if self._jobs.pop(number, None) is not None and self.is_ready:
            self._ask(ipc.Cancel(number))

    async def count_cached(self, prompt_ids: Sequence[int], adapter: str) -> int:
        """How many ids of a prompt the prefix cache holds now. Raises ApiError if the engine is lost."""
        assert self.is_ready
        self._last_number += 1
        answer: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._questions[self._last_number] = answer
        self._ask(ipc.CountCached(self._last_number, tuple(prompt_ids), adapter))
        return await answer

    async def run(self) -> None:
        """Keep a process running until `stop`. Returns early if the model cannot be loaded the first time."""
        pause = 0.0
        while self.state != "stopped":
            started = time.monotonic()
            try:
                reason: Exception = await self._run_process()
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
            self._send(ipc.Stop())
        else:
            process.kill()  # it is loading, and would not read a message
        try:
            await asyncio.wait_for(process.wait(), STOP_SECONDS)
        except TimeoutError:
            process.kill()
            await process.wait()

    async def _run_process(self) -> Exception:
        """Start the process and read what it sends until it ends. Returns why it ended."""
        ours, theirs = socket.socketpair()
        started = time.monotonic()
        # Threads that wait for each other spin for milliseconds by default. If other work holds the core of one, the
        # others take theirs from whoever could do something. Measured on two cores, the kindergarten's model, two
        # threads, 16 requests at once: 26,600 tokens a second if they spin, 22,600 if they spin a thousand times
        # and then sleep, 8,600 if they sleep at once; beside a training run 900, 6,000 and 16,300.
        environment = {"GOMP_SPINCOUNT": "1000", **os.environ}
        if self._settings.threads:
            environment["OMP_NUM_THREADS"] = str(self._settings.threads)
        try:
            self._process = process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "chatsmith.serve.engine_process", str(theirs.fileno())),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=sys.stderr.fileno(),
                pass_fds=[theirs.fileno()],
                env=environment,
                # Its own session: Ctrl-C in a terminal is for the API server, which finishes replies first.
                start_new_session=True,
            )
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        self.pid = process.pid
        reader, self._writer = await asyncio.open_connection(sock=ours)
        self._send(self._settings)
        watching = asyncio.create_task(self._kill_if_stalled(process))
        try:
            while True:
                report = await ipc.read_report(reader)
                if isinstance(report, ipc.Failed):
                    return UserError(report.message)
                if isinstance(report, ipc.Ready):
                    self._load_seconds = time.monotonic() - started
                self._receive(report)
        except ipc.Closed:
            return RuntimeError(f"the engine's process ended (exit code {await process.wait()})")
        finally:
            watching.cancel()
            self._writer.close()
            self._writer = None

    async def _kill_if_stalled(self, process: asyncio.subprocess.Process) -> None:
        """What has stalled would never end by itself, and so never be started again."""
        while not self._is_stalled:
            await asyncio.sleep(STALL_SECONDS / 8)
        log_event("engine_stalled", level="error", model=self._model, replica=self._settings.index)
        process.kill()

    def _receive(self, report: ipc.Report) -> None:
        if isinstance(report, ipc.Step):
            if report.stats != self.stats:
                self._metrics.engine_stepped(self._model, self.stats, report.stats)
                self.stats = report.stats
            for output in report.outputs:
                self._deliver(output)
        elif isinstance(report, ipc.Refused):
            if (refused := self._jobs.pop(report.number, None)) is not None:
                message = explain_refusal(report.message, refused.job.constraint)
                error = (
                    invalid(message, report.parameter, report.code)
                    if report.code
                    else known("internal_error")
                )
                refused.events.put_nowait(error)
        elif isinstance(report, ipc.Cached):
            if (question := self._questions.pop(report.number, None)) and not question.done():
                question.set_result(report.count)
        elif isinstance(report, ipc.Ready):
            self.info, self.state = report.info, "ready"
            self.stats = EngineStats(num_free_blocks=report.info.num_blocks)
            log_event("engine_ready", model=self._model, replica=self._settings.index, pid=self.pid)
            if not self.loaded.done():
                self.loaded.set_result(report.info)
        self._waiting_since = time.monotonic() if self._jobs or self._questions else None

    def _deliver(self, output: ipc.Output) -> None:
        job = self._jobs.get(output.job)
        if job is None:
            return  # cancelled, while this was on its way
        if output.finish_reason is not None:
            job.num_open -= 1
            if not job.num_open:
                del self._jobs[output.job]
        output.index += job.first_choice
        job.events.put_nowait(output)

    def _crashed(self, reason: str) -> None:
        log_event(
            "engine_crashed", level="error", model=self._model, replica=self._settings.index, reason=reason
        )
        self.state, self.stats = "down", EngineStats()
        self._waiting_since = None
        if self.info is not None:
            self._metrics.at("engine_crashes", self._model).inc()
        # An error for each: an exception that is raised in several places collects all their tracebacks.
        for question in self._questions.values():
            if not question.done():
                question.set_exception(self._lost())
        for job in self._jobs.values():
            job.events.put_nowait(self._lost())
        self._questions.clear()
        self._jobs.clear()

    def _lost(self) -> ApiError:
        return known("engine_crashed", retry_after=self.retry_after)

    def _ask(self, command: ipc.Command) -> None:
        """Send what the engine answers at its next step. Cancel, too: nobody else may be waiting."""
        if self._waiting_since is None:
            self._waiting_since = time.monotonic()
        self._send(command)

    def _send(self, command: ipc.Command) -> None:
        if self._writer is not None:
            self._writer.write(ipc.encode(command))
