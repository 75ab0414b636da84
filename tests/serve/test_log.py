"""The log: JSON alone, and nobody waits for whoever reads it."""

import errno
import io
import json
import logging
import sys
import threading
import time

import pytest

from chatsmith.runtime.console import Reporter
from chatsmith.serve import log
from chatsmith.serve.log import RequestRecord, log_event, log_failure, log_thread


class Stuck(io.StringIO):
    """A pipe whose reader has stopped reading, until it is told to go on."""

    def __init__(self) -> None:
        super().__init__()
        self.go_on = threading.Event()

    def write(self, text: str) -> int:
        self.go_on.wait(20)
        return super().write(text)


def test_a_reader_that_does_not_read_stops_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    stuck = Stuck()
    monkeypatch.setattr(sys, "stdout", stuck)
    monkeypatch.setattr(log, "MAX_PENDING", 5)
    with log_thread() as outbox:
        for number in range(100):
            log_event("test", number=number)  # would wait for ever
        stuck.go_on.set()
        while not outbox.queue.empty():  # type: ignore[attr-defined]
            time.sleep(0.001)
        log_event("last")
    lines = [json.loads(line) for line in stuck.getvalue().splitlines()]
    numbers = [line["number"] for line in lines if line["event"] == "test"]
    assert numbers == sorted(numbers) and numbers[0] == 0 and lines[-1]["event"] == "last"
    assert 0 < sum(line.get("lines_lost", 0) for line in lines) == 100 - len(numbers)


def test_a_full_disk_loses_lines_but_not_the_log(monkeypatch: pytest.MonkeyPatch) -> None:
    class Disk(io.StringIO):
        is_full = True

        def write(self, text: str) -> int:
            if self.is_full:
                raise OSError(errno.ENOSPC, "No space left on device")
            return super().write(text)

    disk = Disk()
    monkeypatch.setattr(sys, "stdout", disk)
    with log_thread() as outbox:
        for number in range(3):
            log_event("test", number=number)
        while outbox.writer.num_lost < 3:
            time.sleep(0.001)
        disk.is_full = False
        log_event("last")
    [line] = map(json.loads, disk.getvalue().splitlines())
    assert line["event"] == "last" and line["lines_lost"] == 3


def test_every_line_is_json_whatever_it_holds(capsys: pytest.CaptureFixture[str]) -> None:
    record = RequestRecord("id", "GET", '/"\n\u2028{', None, unknown_fields=["x" * 999] * 99)
    with log_thread():
        record.write()
        try:
            raise ValueError('two\nlines "quoted"')
        except ValueError as error:
            log_failure("failed", error, nothing=None)
        logging.getLogger("uvicorn.error").warning("a %s", "word")
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["event"] for line in lines] == ["request", "failed", "library"]
    assert len(lines[0]["unknown_fields"]) == 8 and len(lines[0]["unknown_fields"][0]) == 64
    assert "ValueError" in lines[1]["traceback"] and "nothing" not in lines[1]
    assert lines[2]["message"] == "a word"


def test_a_line_for_people_is_written_at_once() -> None:
    """Where both streams go into one file, a line of the log must not begin in the middle of another."""
    written: list[str] = []

    class Stream(io.StringIO):
        def write(self, text: str) -> int:
            written.append(text)
            return len(text)

    Reporter(json=True, stream=Stream()).line("Listening; loading tiny.")
    assert written == ["Listening; loading tiny.\n"]
