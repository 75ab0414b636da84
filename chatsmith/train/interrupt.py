"""Ctrl-C and SIGTERM while training: finish the step, save, and only then stop."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

from chatsmith.runtime.errors import UserError


class TrainingStoppedError(KeyboardInterrupt):
    """Training was asked to stop, and its state is saved. Its text says how to go on."""


class NonFiniteLossError(UserError):
    """The loss became NaN or infinite; the last saved state and the last good bundle are intact."""


ACKNOWLEDGED = (
    "chatsmith: finishing this step, then saving and stopping; Ctrl-C once more stops at once, without saving"
)


class StopRequest:
    """Whether someone asked to stop. True once they did."""

    def __init__(self) -> None:
        self.received = False

    def __bool__(self) -> bool:
        return self.received


@contextmanager
def stop_request(silent: bool = False) -> Iterator[StopRequest]:
    """Turn the first SIGINT or SIGTERM of the block into a request, and acknowledge it on standard error unless
    `silent`; a second SIGINT interrupts at once.

    Signals can only be caught in the main thread; elsewhere the request simply never comes.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return

    def receive(number: int, frame: FrameType | None) -> None:
        if request.received and number == signal.SIGINT:
            raise KeyboardInterrupt
        if not request.received and not silent:
            _acknowledge()
        request.received = True

    before = {number: signal.signal(number, receive) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _acknowledge() -> None:
    # Written to the descriptor itself: the signal may have come in the middle of a print, which can't be entered twice.
    # On a terminal the line begins below the progress bar and the ^C.
    start = "\n" if os.isatty(2) else ""
    with suppress(OSError):  # whether anyone reads it or not, the step is finished
        os.write(2, f"{start}{ACKNOWLEDGED}\n".encode())
