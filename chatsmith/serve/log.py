"""The server's log: JSON lines on stdout, one a request, and one for whatever else happens.

Prompts and replies are not in it unless asked for, keys never: a key appears by its name. Everything a person reads
at start-up goes to stderr instead, so that stdout is JSON alone.
"""

import json
import logging
import queue
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from logging.handlers import QueueHandler, QueueListener
from typing import Any

MAX_NAMES = 8
MAX_PENDING = 10_000
"""Lines that may wait to be written."""

STOP_SECONDS = 3
"""In the end the process waits this long for whoever reads the log."""

_logger = logging.getLogger("chatsmith.serve")


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
    _logger.log(logging.getLevelNamesMapping()[level.upper()], event, extra={"fields": fields})


def log_failure(event: str, error: BaseException, **fields: Any) -> None:
    """A fault of ours, with its traceback: for the log alone."""
    log_event(event, "error", **fields, traceback="".join(traceback.format_exception(error)))


def _fields(record: logging.LogRecord) -> dict[str, Any] | None:
    """What `log_event` put into a record; None for a library's."""
    return getattr(record, "fields", None)


class JSONFormatter(logging.Formatter):
    """A record as a line of JSON, whether it comes from this server or from a library."""

    def format(self, record: logging.LogRecord) -> str:
        """One line, without its end."""
        at = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        line: dict[str, Any] = {"time": at, "level": record.levelname.lower(), "event": record.getMessage()}
        fields = _fields(record)
        if fields is not None:
            line |= fields
        else:
            line |= {"event": "library", "logger": record.name, "message": record.getMessage()}
            if record.exc_info:
                line |= {"level": "error", "traceback": self.formatException(record.exc_info)}
        return json.dumps({name: value for name, value in line.items() if value is not None})


class _Outbox(QueueHandler):
    """Hands lines to the thread that writes them; never waits. What does not fit is lost and counted."""

    def __init__(self, lines: "queue.Queue[Any]") -> None:
        super().__init__(lines)
        self.setFormatter(JSONFormatter())
        self.num_lost = 0

    def prepare(self, record: logging.LogRecord) -> logging.LogRecord:
        """The record, as the text of its line."""
        if self.num_lost and (fields := _fields(record)) is not None:
            fields["lines_lost"] = self.num_lost
        return super().prepare(record)

    def enqueue(self, record: logging.LogRecord) -> None:
        """Put the line into the queue, if there is room."""
        try:
            self.queue.put_nowait(record)
            self.num_lost -= (_fields(record) or {}).get("lines_lost", 0)
        except queue.Full:
            self.num_lost += 1


class _Writer(logging.StreamHandler[Any]):
    """Writes lines to stdout. A full disk loses lines, which are counted; a closed pipe is no reason to stop."""

    def __init__(self, outbox: _Outbox) -> None:
        super().__init__(sys.stdout)
        self._outbox = outbox

    def handleError(self, record: logging.LogRecord) -> None:
        """The line could not be written."""
        if not isinstance(sys.exc_info()[1], BrokenPipeError | ValueError):
            self._outbox.num_lost += 1 + (_fields(record) or {}).get("lines_lost", 0)


@contextmanager
def log_thread() -> Iterator[_Outbox]:
    """Within it, a thread of its own writes the log: a reader that has stopped reading must not stop the server."""
    lines: queue.Queue[Any] = queue.Queue(MAX_PENDING)
    outbox = _Outbox(lines)
    listener = QueueListener(lines, _Writer(outbox))
    loggers = [_logger, logging.getLogger("uvicorn"), logging.getLogger("asyncio")]
    for logger in loggers:
        logger.handlers, logger.propagate = [outbox], False
        logger.setLevel(logging.INFO if logger is _logger else logging.WARNING)
    listener.start()
    try:
        yield outbox
    finally:
        for logger in loggers:
            logger.handlers = []
        ending = threading.Thread(target=_end, args=(listener, lines), daemon=True)
        ending.start()
        ending.join(STOP_SECONDS)


def _end(listener: QueueListener, lines: "queue.Queue[Any]") -> None:
    while lines.full():  # whoever reads the log may have stopped
        time.sleep(0.01)
    listener.stop()
