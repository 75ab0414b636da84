"""The server's log: JSON lines on stdout, one a request, and one for whatever else happens.

Prompts and replies are not in it unless asked for, keys never: a key appears by its name. Everything a person reads
at start-up goes to stderr instead, so that stdout is JSON alone.
"""

import contextlib
import json
import logging
import queue
import sys
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Self

MAX_NAMES = 8
MAX_PENDING = 10_000
"""Lines that may wait to be written."""


@dataclass
class RequestRecord:
    """What is known about one HTTP request, filled in as it is handled."""

    id: str
    method: str
    path: str
    client: str | None
    arrived: float = field(default_factory=time.monotonic)
    key: str | None = None
    model: str | None = None
    is_stream: bool = False
    user: str | None = None
    unknown_fields: list[str] = field(default_factory=list)
    prompt_tokens: int | None = None
    cached_tokens: int | None = None
    completion_tokens: int | None = None
    first_token_seconds: float | None = None
    finish: list[str] = field(default_factory=list)
    """A reason for each reply that is over."""
    status: int | None = None
    error: str | None = None
    """The code of an error, in a stream too."""
    prompt: str | None = None
    reply: Callable[[], str] | None = None

    def write(self) -> None:
        """The line of a request that is over."""
        fields: dict[str, Any] = {
            "request_id": self.id,
            "method": self.method,
            "path": self.path,
            "client": self.client,
            "status": self.status,
            "seconds": round(time.monotonic() - self.arrived, 4),
            "key": self.key,
            "model": self.model,
            "stream": self.is_stream or None,
            "user": self.user,
            "prompt_tokens": self.prompt_tokens,
            "cached_tokens": self.cached_tokens,
            "completion_tokens": self.completion_tokens,
            "ttft": None if self.first_token_seconds is None else round(self.first_token_seconds, 4),
            "finish": ",".join(self.finish) or None,
            "error": self.error,
            "unknown_fields": [name[:64] for name in self.unknown_fields[:MAX_NAMES]] or None,
            "prompt": self.prompt,
            "reply": self.reply() if self.reply else None,
        }
        log_event("request", **fields)


def log_event(event: str, level: str = "info", **fields: Any) -> None:
    """One line of the log. Fields that are None are left out."""
    line = {"time": datetime.now(UTC).isoformat(timespec="milliseconds"), "level": level, "event": event}
    line |= {name: value for name, value in fields.items() if value is not None}
    if _apart is None:
        _write(line)
    else:
        _apart.put(line)


class LogThread:
    """Within it, a thread of its own writes the log: a reader that has stopped reading must not stop the server.

    What does not fit into its queue is lost, and how much that was is told.
    """

    def __init__(self) -> None:
        self._lines: queue.Queue[dict[str, Any] | None] = queue.Queue(MAX_PENDING)
        self._thread = threading.Thread(target=self._write_all, name="log", daemon=True)
        self._num_lost = 0

    def __enter__(self) -> Self:
        global _apart
        _apart = self
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        global _apart
        _apart = None
        with contextlib.suppress(queue.Full):
            self._lines.put(None, timeout=1)
        self._thread.join(timeout=2)

    def put(self, line: dict[str, Any]) -> None:
        """Hand a line over; never waits."""
        try:
            self._lines.put_nowait(line | ({"lines_lost": self._num_lost} if self._num_lost else {}))
            self._num_lost = 0
        except queue.Full:
            self._num_lost += 1

    def _write_all(self) -> None:
        while (line := self._lines.get()) is not None:
            try:
                _write(line)
            except OSError:  # a full disk may have room again
                self._num_lost += 1 + line.get("lines_lost", 0)


_apart: LogThread | None = None


def _write(line: dict[str, Any]) -> None:
    # Nobody may read the log any more; that is no reason to stop serving.
    with contextlib.suppress(BrokenPipeError, ValueError):
        sys.stdout.write(json.dumps(line) + "\n")
        sys.stdout.flush()


def log_failure(event: str, error: BaseException, **fields: Any) -> None:
    """A fault of ours, with its traceback: for the log alone."""
    lines = traceback.format_exception(error)
    log_event(event, level="error", **fields, traceback="".join(lines))


class JSONHandler(logging.Handler):
    """Turns what libraries log into lines of this log."""

    def emit(self, record: logging.LogRecord) -> None:
        """One record."""
        fields = {"logger": record.name, "message": record.getMessage()}
        if record.exc_info and record.exc_info[1] is not None:
            log_failure("library", record.exc_info[1], **fields)
        else:
            log_event("library", level=record.levelname.lower(), **fields)
