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
    """What is known about one HTTP request, filled in as it is handled: the fields of its line, in their order."""

    request_id: str
    method: str
    path: str
    client: str | None
    status: int | None = None
    seconds: float = 0.0
    """Until the end."""
    key: str | None = None
    model: str | None = None
    stream: bool | None = None
    user: str | None = None
    prompt_tokens: int | None = None
    cached_tokens: int | None = None
    completion_tokens: int | None = None
    ttft: float | None = None
    """Seconds to the first token."""
    finish: list[str] = field(default_factory=list)
    """A reason for each reply that is over."""
    error: str | None = None
    """The code of an error, in a stream too."""
    unknown_fields: list[str] = field(default_factory=list)
    prompt: str | None = None
    reply: Callable[[], str] | None = None
    arrived: float = field(default_factory=time.monotonic)

    def write(self) -> None:
        """The line of a request that is over."""
        fields = vars(self) | {
            "seconds": round(time.monotonic() - self.arrived, 4),
            "ttft": self.ttft and round(self.ttft, 4),
            "finish": ",".join(self.finish) or None,
            "unknown_fields": [name[:64] for name in self.unknown_fields[:MAX_NAMES]] or None,
            "reply": self.reply() if self.reply else None,
        }
        del fields["arrived"]
        log_event("request", **fields)


def log_event(event: str, level: str = "info", **fields: Any) -> None:
    """One line of the log. Fields that are None are left out."""
    _logger.log(logging.getLevelNamesMapping()[level.upper()], event, extra={"fields": fields})


def log_failure(event: str, error: BaseException, **fields: Any) -> None:
    """A fault of ours, with its traceback: for the log alone."""
    log_event(event, "error", **fields, traceback="".join(traceback.format_exception(error)))


class _Writer(logging.Handler):
    """Writes records to stdout, as JSON. Counts the lines that were lost, and says so in the next one."""

    num_lost = 0

    def emit(self, record: logging.LogRecord) -> None:
        """One line, from this server or from a library."""
        at = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        line: dict[str, Any] = {"time": at, "level": record.levelname.lower(), "event": record.getMessage()}
        library = {"event": "library", "logger": record.name, "message": record.getMessage()}
        line |= getattr(record, "fields", library)
        lost = self.num_lost
        line["lines_lost"] = lost or None
        try:
            text = json.dumps({name: value for name, value in line.items() if value is not None})
            sys.stdout.write(text + "\n")
            sys.stdout.flush()
            self.num_lost -= lost
        except (BrokenPipeError, ValueError):
            pass  # nobody reads the log any more, which is no reason to stop serving
        except OSError:  # a full disk may have room again
            self.num_lost += 1


class _Outbox(QueueHandler):
    """Hands records to the thread that writes them; never waits. What does not fit is lost."""

    def __init__(self, records: "queue.Queue[Any]", writer: _Writer) -> None:
        super().__init__(records)
        self.writer = writer

    def enqueue(self, record: logging.LogRecord) -> None:
        """Put the record into the queue, if there is room."""
        try:
            self.queue.put_nowait(record)
        except queue.Full:
            self.writer.num_lost += 1


@contextmanager
def log_thread() -> Iterator[_Outbox]:
    """Within it, a thread of its own writes the log: a reader that has stopped reading must not stop the server."""
    records: queue.Queue[Any] = queue.Queue(MAX_PENDING)
    outbox = _Outbox(records, _Writer())
    listener = QueueListener(records, outbox.writer)
    loggers = [_logger, logging.getLogger("uvicorn"), logging.getLogger("asyncio")]
    for logger in loggers:
        logger.handlers, logger.propagate = [outbox], False
        logger.setLevel(logging.INFO if logger is _logger else logging.WARNING)

    def end() -> None:
        while records.full():
            time.sleep(0.01)
        listener.stop()

    listener.start()
    try:
        yield outbox
    finally:
        for logger in loggers:
            logger.handlers = []
        ending = threading.Thread(target=end, daemon=True)
        ending.start()
        ending.join(STOP_SECONDS)
