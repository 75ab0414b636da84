"""States of a run on disk: tensors and facts, written by all processes beside what they do, whole or not at all.

    state/000007/tensors.safetensors    what process 0 owns; tensors.1.safetensors: process 1, and so on
    state/000007/state.json             sizes and SHA-256 of these, the facts, and a SHA-256 of all that
    state/000008/...                    the newest, and the one before

A thread writes it (`StateWriter`), from a copy: training waits for the copy alone. Every save is a new folder that
appears whole or not at all. States may belong to several runs, told apart by the fact `key`: the saves of one leave the
newest state of the others. What is in a state is decided in `train.checkpoint`.

Around a save: room on the disk, for which all processes of a training wait together; and a command that runs after it,
beside training, to copy states to where this machine's end does not reach.
"""

import contextlib
import itertools
import json
import os
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from chatsmith.runtime import atomic
from chatsmith.runtime.atomic import new_folder
from chatsmith.runtime.console import Reporter
from chatsmith.runtime.device import Runtime
from chatsmith.runtime.distributed import main_number, sum_number, sum_numbers
from chatsmith.runtime.errors import UserError
from chatsmith.runtime.sealed import DamagedFileError, Seal, content_hash, read_tensors, write_tensors

STATE_FORMAT_VERSION = 2  # 1 had a single file of tensors, and no hash of the facts
_FACTS = "state.json"
POLL_SECONDS = 0.02
"""How often processes look for the parts of others."""


class TrainingState(NamedTuple):
    """Tensors by name, on the CPU, and the facts saved with them."""

    tensors: dict[str, Tensor]
    facts: dict[str, Any]


class SavedState(NamedTuple):
    """Where a state is, and its facts; its tensors have not been looked at."""

    folder: Path
    facts: dict[str, Any]


class StateWriter:
    """Writes the states of a run to `folder` in a thread, one at a time; every process writes its own part.

    What fails there is raised by the next call: UserError on a full disk. Then the states saved earlier are as they
    were, as they are after a kill at any moment: a state gets its name when it is whole.
    """

    def __init__(self, folder: Path, runtime: Runtime) -> None:
        self.runtime = runtime
        self._folder = folder
        self._thread = ThreadPoolExecutor(1, "state writer")
        self._written: Future[None] | None = None
        self._copies: dict[str, Tensor] = {}
        self._is_given_up = threading.Event()

    def begin(self, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
        """Copy `tensors`, which may change afterwards, and let the thread write them as the newest state; the complete
        one before it is kept, older ones are removed. All processes call it, after the same step.

        `facts` (of the main process; the others' are ignored) must be JSON; of the states with another `key` among them
        the newest complete one is kept. Waits for the state before, if that is still being written.
        """
        self.finish()
        self._copies = copies = {
            name: _copied(tensor, self._copies.get(name)) for name, tensor in tensors.items()
        }
        self.runtime.synchronize()
        saved = _saved(self._folder)
        newest = self._folder / f"{int(saved[-1].name) + 1 if saved else 1:06d}"
        with ExitStack() as opened:
            if self.runtime.is_main:
                opened.enter_context(new_folder(newest))
            number, owner = (
                int(main_number(value, self.runtime)) for value in (int(newest.name), os.getpid())
            )
            folder = self._folder / f".{number:06d}.{owner}.tmp"  # which the main process has made
            if not self.runtime.is_main:
                opened.enter_context(atomic.explained(newest, folder))
            arguments = (folder, copies, dict(facts), opened.pop_all())
        self._written = self._thread.submit(self._write, *arguments)

    @property
    def has_failed(self) -> bool:
        """Whether what was begun has failed; `finish` raises why."""
        written = self._written
        return written is not None and written.done() and written.exception() is not None

    def finish(self, even_incomplete: bool = False) -> None:
        """Wait until what was begun is written. All processes call it, and it fails in all where it fails in one; with
        `even_incomplete`, a process calls it alone and does not wait for other processes' parts."""
        written, self._written = self._written, None
        if even_incomplete:
            self._is_given_up.set()
        elif written is not None and self.runtime.world_size > 1:
            self._wait_with_others(written)
        if written is not None:
            written.result()

    def _wait_with_others(self, written: Future[None]) -> None:
        counts, is_failed = {"left": 1.0, "failed": 0.0}, False
        while counts["left"] and not counts["failed"]:  # asking notices one that was killed, too
            time.sleep(POLL_SECONDS)
            is_failed = written.done() and written.exception() is not None
            counts = sum_numbers({"left": not written.done(), "failed": is_failed}, self.runtime)
        if counts["failed"] and not is_failed:
            raise UserError("another process could not write its part of the training state, and says why")

    def _write(
        self, folder: Path, tensors: dict[str, Tensor], facts: dict[str, Any], opened: ExitStack
    ) -> None:
        with opened:
            name = _part_name(self.runtime.rank)
            seals = {name: write_tensors(folder / name, tensors).to_json()}
            if not self.runtime.is_main:
                (folder / f"{name}.tmp").write_text(json.dumps(seals), encoding="utf-8")
                # Nothing in the folder after this: the main process takes it away as soon as it sees the last file.
                (folder / f"{name}.tmp").replace(folder / f"{name}.json")
                return
            for rank in range(1, self.runtime.world_size):
                path = folder / f"{_part_name(rank)}.json"
                while not path.exists():
                    if self._is_given_up.wait(POLL_SECONDS):
                        raise UserError("training ended before all processes had written their state")
                seals |= json.loads(path.read_bytes())
                path.unlink()
            stored = {"format_version": STATE_FORMAT_VERSION, "files": seals, "facts": facts}
            stored["sha256"] = content_hash(stored)
            (folder / _FACTS).write_text(json.dumps(stored, indent=1), encoding="utf-8")
        _remove_older(self._folder)


def _part_name(rank: int) -> str:
    return f"tensors.{rank}.safetensors" if rank else "tensors.safetensors"


def _copied(tensor: Tensor, former: Tensor | None) -> Tensor:
    """On the CPU, for good; from a GPU into page-locked memory, while the device goes on. In the memory of a `former`
    copy, where it has the same shape: fresh pages take five times as long as copying (docs/lab-log.md)."""
    pins = tensor.device.type == "cuda"
    if former is None or former.shape != tensor.shape or former.dtype != tensor.dtype:
        former = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=pins)
    return former.copy_(tensor.detach(), non_blocking=pins)


def load_state(folder: Path, notice: Callable[[str], object], key: str | None = None) -> TrainingState | None:
    """The newest complete state in `folder`, with `key` the newest of that run; None if none was ever saved there.

    A damaged one is passed over for the one before, and `notice` gets a line about it.
    Raises UserError if all candidates are damaged (of a damaged state the key may be unknown), or if a newer chatsmith
    saved one of them.
    """
    is_damaged = False
    for candidate in reversed(_saved(folder)):
        try:
            seals, facts = _read_facts(candidate)
            if key is None or facts.get("key") == key:
                parts = [read_tensors(candidate / name, seal) for name, seal in seals.items()]
                return TrainingState({name: value for part in parts for name, value in part.items()}, facts)
        except DamagedFileError as error:
            is_damaged = True
            notice(f"A damaged training state is passed over: {error}.")
    if is_damaged:
        raise UserError(
            f"every training state in {folder} that this stage could resume from is damaged; delete that folder to "
            "start it over"
        )
    return None


def saved_states(folder: Path) -> list[SavedState]:
    """The states in `folder`, in the order they were saved; those whose facts cannot be read are left out.

    Raises UserError if a newer chatsmith saved one of them.
    """
    found = []
    for candidate in _saved(folder):
        with contextlib.suppress(DamagedFileError):
            found.append(SavedState(candidate, _read_facts(candidate)[1]))
    return found


def _saved(folder: Path) -> list[Path]:
    """Folders of states in the order they were saved; unfinished ones have other names and are left out."""
    if not folder.is_dir():
        return []
    numbered = [path for path in folder.iterdir() if path.is_dir() and path.name.isdigit()]
    return sorted(numbered, key=lambda path: int(path.name))


def _read_facts(folder: Path) -> tuple[dict[str, Seal], dict[str, Any]]:
    """The seals of the files of tensors, and the facts."""
    path = folder / _FACTS
    try:
        stored = json.loads(path.read_bytes())
        version, facts = int(stored["format_version"]), stored["facts"]
        files = {_part_name(0): stored["tensors"]} if version == 1 else stored["files"]
        seals = {name: Seal.from_json(seal) for name, seal in files.items()}
        is_whole = version == 1 or stored.pop("sha256") == content_hash(stored)
    except FileNotFoundError as error:
        raise DamagedFileError(f"{path} is missing") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DamagedFileError(f"{path} is damaged") from error
    if version > STATE_FORMAT_VERSION:
        raise UserError(
            f"{folder} was saved by a newer chatsmith (state format {version}, this one reads up to "
            f"{STATE_FORMAT_VERSION}): upgrade chatsmith, or delete the folder {folder.parent} to start over"
        )
    if not is_whole:
        raise DamagedFileError(f"{path} is not what was saved: its content has changed")
    return seals, facts


def _remove_older(folder: Path) -> None:
    """Remove all states but the newest, which is complete, and before it the newest complete one of each run; and what
    a killed process may have left half-written."""
    *earlier, newest = _saved(folder)
    kept, runs = {newest}, set[object]()
    for path in reversed(earlier):
        with contextlib.suppress(ValueError, FileNotFoundError):
            seals, facts = _read_facts(path)
            # In full length: contents are checked when one is loaded.
            is_whole = all((path / name).stat().st_size == seal.size for name, seal in seals.items())
            if is_whole and facts.get("key") not in runs:
                runs.add(facts.get("key"))
                kept.add(path)
    for path in folder.iterdir():
        is_left_behind = path.name.startswith(".") and path.name.endswith((".tmp", ".old"))
        if path.is_dir() and path not in kept and (path.name.isdigit() or is_left_behind):
            if path.name.isdigit():  # under another name first: a kill must not leave half a state
                path = path.rename(folder / f".{path.name}.old")
            shutil.rmtree(path, ignore_errors=True)


# ---- around a save ----


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
