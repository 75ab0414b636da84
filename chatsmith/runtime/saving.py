"""Around a save: room on the disk, for which all processes of a training wait together; and a command that runs after
it, beside training, to copy states to where this machine's end does not reach.
"""

import itertools
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

from chatsmith.runtime import atomic
from chatsmith.runtime.console import Reporter
from chatsmith.runtime.device import Runtime
from chatsmith.runtime.distributed import sum_number
from chatsmith.runtime.errors import UserError


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
        if not atomic.wait_for_room(folder, longest, reporter.notice, tries):
            raise UserError(
                f"the disk is full: a training state of {needed / 1e6:,.0f} MB has no room in {folder} "
                f"({free / 1e6:,.0f} MB are free); what was saved is kept: free space and repeat the command",
                setting="disk_wait",
            )


class AfterSave:
    """Runs the shell `command` for the newest folder in `folder` whose name is a number, one at a time.

    It finds that folder in $CHATSMITH_STATE and the run in $CHATSMITH_RUN, and may take its time: saves that come
    meanwhile wait, and of several the newest is taken. A command that fails is one line to `notice`. It is in a session
    of its own: Ctrl-C does not reach it, and it goes on when training ends.
    """

    def __init__(self, command: str, folder: Path, notice: Callable[[str], None]) -> None:
        self._command, self._folder, self._notice = command, folder, notice
        self._process: subprocess.Popen[bytes] | None = None
        self._done = self._newest()

    def look(self) -> None:
        """Start the command if there is something new, and say if it failed. Returns at once."""
        if self._process:
            code = self._process.poll()
            if code is None:
                return
            if code:
                self._notice(f"the command after a save failed with code {code}: {self._command}")
            self._process = None
        newest = self._newest()
        if newest > self._done:
            self._done = newest
            state = self._folder / f"{newest:06d}"
            places = {"CHATSMITH_STATE": str(state), "CHATSMITH_RUN": str(self._folder.parents[1])}
            self._process = subprocess.Popen(
                self._command,
                shell=True,
                env=os.environ | places,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )

    def _newest(self) -> int:
        names = os.listdir(self._folder) if self._folder.is_dir() else []
        return max((int(name) for name in names if name.isdigit()), default=0)
