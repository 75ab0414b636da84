"""A full disk: all processes of a training wait for room together."""

import itertools
import shutil
import time
from collections.abc import Callable
from pathlib import Path

from chatsmith.runtime.console import Reporter, format_seconds
from chatsmith.runtime.device import Runtime
from chatsmith.runtime.distributed import sum_number
from chatsmith.runtime.errors import UserError

POLL_SECONDS = 1.0
"""How often a full disk is looked at."""


def wait_for_room(
    folder: Path,
    needed: int,
    longest: float,
    catch_up: Callable[[], bool],
    runtime: Runtime,
    reporter: Reporter,
) -> None:
    """Return when the disk of the run whose stage keeps its states in `folder` has room for `needed` bytes, and
    `catch_up` has written what it has. All processes call it and wait together, up to `longest` seconds; no collective
    takes longer than a look at the disk. Raises UserError after that."""
    for tries in itertools.count():
        free = shutil.disk_usage(folder.parents[1]).free
        is_full = runtime.is_main and (not catch_up() or free < needed)
        if not sum_number(float(is_full), runtime):
            return
        if tries * POLL_SECONDS >= longest:
            raise UserError(
                f"the disk is full: a training state of {needed / 1e6:,.0f} MB has no room in {folder} "
                f"({free / 1e6:,.0f} MB are free); what was saved is kept: free space and repeat the command",
                setting="disk_wait",
            )
        if tries == 0:
            reporter.notice(f"the disk is full: waiting up to {format_seconds(longest)} for room")
        time.sleep(POLL_SECONDS)
