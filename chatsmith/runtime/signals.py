"""Ctrl-C and SIGTERM: acknowledged at once, whatever the process is doing, and obeyed soon.

Python runs its signal handlers between two steps of the main thread, which a call into C can hold up for minutes. So a
thread reads the signals' numbers from a pipe and acknowledges them; the handler then raises StoppedError, and where
it does not get to within GRACE_SECONDS, the thread ends the process. Training asks for the end of a step instead:
`stop_request`.
"""

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from types import FrameType

from chatsmith.runtime import atomic
from chatsmith.runtime.rank import is_main

SIGNALS = (signal.SIGINT, signal.SIGTERM)
GRACE_SECONDS = 10.0
AGAIN_SECONDS = 0.05
STOPPING = "chatsmith: stopping"
FINISHING_STEP = (
    "chatsmith: finishing this step, then saving and stopping; Ctrl-C once more stops at once, without saving"
)


class StoppedError(KeyboardInterrupt):
    """The command was asked to stop by the signal `number`. Its text, if any, says how to go on."""

    def __init__(self, message: str = "", number: int = signal.SIGINT) -> None:
        super().__init__(message)
        self.code = 128 + number
        """What a shell reports for a process that this signal ended."""


class StopRequest:
    """Whether someone asked to stop, and how."""

    def __init__(self, text: str, silent: bool) -> None:
        self.received = 0
        """The number of the signal."""
        self.interrupts = False
        """Whether a signal is to raise StoppedError where it arrives."""
        self._text, self._unsaid = text, threading.Semaphore(0 if silent else 1)

    def acknowledge(self) -> None:
        """Say so, once."""
        # Written to the descriptor itself: the signal may have come in the middle of a print, which can't be entered
        # twice. On a terminal the line begins below the progress bar and the ^C.
        if self._unsaid.acquire(blocking=False):
            start = "\n" if os.isatty(2) else ""
            with suppress(OSError):  # whether anyone reads it or not
                os.write(2, f"{start}{self._text}\n".encode())


_at_once = _request = StopRequest(STOPPING, silent=not is_main())


def install() -> None:
    """From now on, signals end this process as the module describes. For the main thread."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    threading.Thread(target=_watch, args=(reading,), daemon=True).start()
    for number in SIGNALS:
        signal.signal(number, _interrupt)
    sys.unraisablehook = _again


@contextmanager
def receiving(
    numbers: Sequence[signal.Signals], receive: Callable[[int, FrameType | None], object]
) -> Iterator[bool]:
    """Hand the signals of these numbers to `receive` within the block.

    They can only be caught in the main thread; elsewhere it yields False, and none ever comes.
    """
    is_main_thread = threading.current_thread() is threading.main_thread()
    before = {number: signal.signal(number, receive) for number in numbers if is_main_thread}
    try:
        yield is_main_thread
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def stop_request(silent: bool = False) -> Iterator[StopRequest]:
    """Turn the first SIGINT or SIGTERM of the block into a request, and acknowledge it on standard error unless
    `silent`; a second SIGINT interrupts at once."""
    global _request
    request = StopRequest(FINISHING_STEP, silent)

    def receive(number: int, frame: FrameType | None) -> None:
        if request.received and number == signal.SIGINT:
            raise KeyboardInterrupt
        request.received = request.received or number
        request.acknowledge()
        if request.interrupts:
            raise StoppedError(number=number)

    with receiving(SIGNALS, receive) as is_received:
        _request = request if is_received else _request
        try:
            yield request
        finally:
            _request = _at_once if is_received else _request


def _interrupt(number: int, frame: FrameType | None) -> None:
    _at_once.acknowledge()
    raise StoppedError(number=number)


def _again(ignored: "sys.UnraisableHookArgs") -> None:
    """Raise StoppedError once more where Python ignored it, in a callback of the garbage collector."""
    if not isinstance(ignored.exc_value, StoppedError):
        sys.__unraisablehook__(ignored)
        return
    timer = threading.Timer(AGAIN_SECONDS, os.kill, (os.getpid(), ignored.exc_value.code - 128))
    timer.daemon = True
    timer.start()


def _watch(reading: int) -> None:
    seen = 0
    while data := os.read(reading, 1):
        number, request = data[0], _request
        if number not in SIGNALS:
            continue
        seen += 1
        request.acknowledge()
        if request is _at_once or (seen > 1 and number == signal.SIGINT):
            timer = threading.Timer(GRACE_SECONDS, _end, (number,))
            timer.daemon = True
            timer.start()


def _end(number: int) -> None:
    atomic.remove_temporaries()
    os._exit(128 + number)
