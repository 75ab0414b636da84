"""One command in several processes, with the environment that torchrun would give them.

Not torchrun itself: it ends the other processes as soon as one has ended, in the middle of a save if need be, and its
own exit code and traceback take the place of theirs. Here a signal reaches every process once, those that are saving
are waited for, and what the command exits with is what its first failing process exited with.
"""

import contextlib
import ctypes
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from torch.distributed import TCPStore  # pyright: ignore[reportPrivateImportUsage]

from chatsmith.runtime.errors import UserError
from chatsmith.runtime.signals import receiving

STOPPED = 130
PATIENCE = 600.0
"""Seconds for the others where one was stopped by a signal: they may be writing gigabytes."""
GRACE = 20.0
"""Seconds for the others where one failed: they may have the same to say, or wait for it for ever."""
FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
PORT = 29_500
LONGEST_STAGE = timedelta(days=30)


@dataclass(frozen=True)
class Place:
    """Which of several machines this is, and where the first one is reached."""

    nodes: int = 1
    node: int = 0
    address: str = "127.0.0.1"
    port: int = 0
    """0: any that is free, on a single machine."""


def find_place(environ: Mapping[str, str], nodes: int = 0) -> Place:
    """The place that Slurm or torchrun (one process a machine) gave this process; one machine where neither did.

    `nodes`, unless 0, is how many machines there must be. Raises UserError where the environment says otherwise.
    """

    def first(*names: str) -> str:
        return next((environ[name] for name in names if environ.get(name)), "")

    if int(environ.get("LOCAL_WORLD_SIZE", environ.get("WORLD_SIZE", "1"))) > 1:
        raise UserError(
            "chatsmith run starts its processes itself: start it once on each machine, not once for each GPU"
        )
    found = int(first("PET_NNODES", "GROUP_WORLD_SIZE", "NNODES", "SLURM_NNODES") or 1)
    if nodes == 1 or (found == 1 and not nodes):
        return Place()
    # The first of node[01-04,09] is node01.
    host = re.match(r"([^\[,]*)(?:\[(\d+))?", environ.get("SLURM_JOB_NODELIST", ""))
    address = first("PET_MASTER_ADDR", "MASTER_ADDR") or "".join(host.groups("") if host else "")
    node = first("PET_NODE_RANK", "GROUP_RANK", "NODE_RANK", "SLURM_NODEID")
    if found != (nodes or found) or not address or not node:
        raise UserError(
            f"for {nodes or found} machines the environment must say where this one belongs: start chatsmith run "
            "with srun, one task a machine, or set NNODES, NODE_RANK and MASTER_ADDR",
            setting="nodes",
        )
    return Place(found, int(node), address, int(first("PET_MASTER_PORT", "MASTER_PORT") or PORT))


class Machines:
    """Where there are several machines, the first one leads: the others begin a stage when it does."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self._store = None
        if place.nodes > 1:
            self._store = TCPStore(
                place.address,
                place.port,
                is_master=not place.node,
                timeout=LONGEST_STAGE,
                wait_for_workers=False,
            )

    def begin(self, stage: str) -> None:
        """Let the other machines begin, or wait for the first one. Raises UserError where it has ended."""
        if self._store is None:
            return
        try:
            if self.place.node == 0:
                self._store.set(stage, "begin")
            else:
                self._store.get(stage)
        except RuntimeError as error:
            raise UserError(f"the first machine ended before the stage {stage}: its log says why") from error


def launch(argv: Sequence[str], processes: int, place: Place, environ: Mapping[str, str]) -> None:
    """Run `argv` in `processes` processes on this machine and wait for them. The first one speaks; what the others
    write on standard error is shown where one of them fails alone.

    Raises SystemExit with the exit code of the process that failed first, and UserError where the system killed it.
    """
    with contextlib.ExitStack() as opened:
        port = place.port + 1 if place.port else _free_port()
        folder = Path(opened.enter_context(tempfile.TemporaryDirectory()))
        children: list[subprocess.Popen[Any]] = []
        received: list[int] = []

        def forward(number: int, _: object) -> None:
            received.append(number)
            for child in children:
                if child.poll() is None:
                    child.send_signal(number)

        opened.enter_context(receiving(FORWARDED, forward))
        for local_rank in range(processes):
            rank = {
                "RANK": place.node * processes + local_rank,
                "LOCAL_RANK": local_rank,
                "WORLD_SIZE": place.nodes * processes,
                "LOCAL_WORLD_SIZE": processes,
                "MASTER_ADDR": place.address,
                "MASTER_PORT": port,
            }
            options: dict[str, Any] = {}
            if local_rank or place.node:
                errors = opened.enter_context((folder / str(local_rank)).open("wb"))
                options = {"stdout": subprocess.DEVNULL, "stderr": errors}
            children.append(
                subprocess.Popen(
                    argv,
                    env={**environ, **{name: str(value) for name, value in rank.items()}},
                    stdin=subprocess.DEVNULL,
                    start_new_session=True,  # a terminal's Ctrl-C comes through this process, once
                    preexec_fn=_ends_with_its_parent if sys.platform == "linux" else None,
                    **options,
                )
            )
        try:
            failed = _wait(children, received)
        finally:
            for child in children:
                if child.poll() is None:
                    child.kill()
                    child.wait()
        if failed is None:
            return
        code, last_word = children[failed].returncode, folder / str(failed)
        if code != children[0].returncode and last_word.exists():
            sys.stderr.write(last_word.read_text("utf-8", "replace"))
        if code < 0 and not received:
            raise UserError(
                f"process {failed} was killed ({signal.Signals(-code).name}), most often for want of memory; the same "
                "command goes on from the last checkpoint"
            )
        raise SystemExit(STOPPED if received else code)


def _wait(children: Sequence[subprocess.Popen[Any]], received: Sequence[int]) -> int | None:
    """Wait until all have ended; returns which failed first, if any. Where one has, the others get some time to end by
    themselves, and then a SIGTERM, and are left to be killed."""
    failed, deadline, asked = None, float("inf"), False
    while None in [child.poll() for child in children]:
        if failed is None:
            failed = next((rank for rank, child in enumerate(children) if child.returncode), None)
            if failed is not None:
                is_stop = received or children[failed].returncode == STOPPED
                deadline = time.monotonic() + (PATIENCE if is_stop else GRACE)
        if time.monotonic() > deadline:
            if asked:
                break
            for child in children:
                if child.poll() is None:
                    child.terminate()
            asked, deadline = True, time.monotonic() + GRACE
        time.sleep(0.05)
    if failed is None:
        failed = next((rank for rank, child in enumerate(children) if child.returncode), None)
    return failed


def _ends_with_its_parent() -> None:
    """Linux sends this process a SIGTERM when the one that started it has died, however that happened: it saves."""
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]
