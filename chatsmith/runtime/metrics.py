"""The metrics of a run: one JSON object a line in metrics.jsonl, and optionally an experiment tracker.

A line is complete or absent: what a full disk cut is taken back at once, and what a killed process left half-written
is closed off by the next one, and dropped when training begins. It does not draw metrics.
"""

import contextlib
import importlib
import json
import math
import os
import secrets
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from chatsmith.runtime import atomic
from chatsmith.runtime.device import memory_figures
from chatsmith.runtime.errors import UserError

TRACKERS = ("wandb", "tensorboard", "trackio")
TRACKER_ID = "tracker.txt"
"""In a run directory: by what a tracker knows the run."""


TEXTS = ("sample", "shown")
"""Values of `MetricsLog.write` that are what a model wrote; a tracker gets them as text."""


class MetricsLog(contextlib.AbstractContextManager["MetricsLog"]):
    """Append lines to the file at `path` (metrics.jsonl of a run). `track` names an experiment tracker (None: none),
    which gets the `settings` by stage, too, and with each line the memory in use.

    With `waits`, lines that a full disk has no room for are kept for `catch_up`. Raises UserError if the tracker is
    unknown or not installed.
    """

    def __init__(
        self,
        path: Path,
        track: str | None = None,
        settings: Mapping[str, Any] | None = None,
        *,
        waits: bool = False,
    ) -> None:
        self._tracker = open_tracker(track, path.parent, settings) if track else None
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path, self._waits, self._unwritten = path, waits, b""
        # Unbuffered: what could not be written must not be tried again when the file is closed.
        self._file = path.open("ab", buffering=0)
        if path.stat().st_size and _last_byte(path) != b"\n":
            self._append(b"\n")

    def __exit__(self, *_: object) -> None:
        self.close()

    def write(self, *, stage: str, step: int, **values: Any) -> None:
        """Append one line. A value that is not finite is written as null: JSON has no NaN. Raises OSError, which names
        the file, where it cannot be written whole; then nothing of it stays."""
        record = {"stage": stage, "step": step, "time": round(time.time(), 3)}
        record.update({name: _finite_or_none(value) for name, value in values.items()})
        self._unwritten += (
            json.dumps(record, ensure_ascii=False, allow_nan=False).encode("utf-8", "replace") + b"\n"
        )
        self.catch_up()
        if self._tracker is not None:
            self._tracker.log(stage, step, _numbers(values) | memory_figures())
            for name in TEXTS:
                if text := values.get(name):
                    self._tracker.text(stage, step, name, text if isinstance(text, str) else _lines(text))

    @property
    def is_behind(self) -> bool:
        """Whether there are lines that had no room."""
        return bool(self._unwritten)

    def catch_up(self) -> bool:
        """Write what had no room before. Returns whether there was room."""
        try:
            self._append(self._unwritten)
        except OSError as error:
            if self._waits and error.errno in atomic.FULL:
                return False
            self._unwritten = b""
            raise
        self._unwritten = b""
        return True

    def drop(self, stage: str, after_step: int) -> None:
        """Take what `stage` wrote after step `after_step` out of the file. Raises UserError on a full disk."""
        drop_records(self._path, stage, after_step)
        self._file.close()
        self._file = self._path.open("ab", buffering=0)  # which may be another one now

    def _append(self, line: bytes) -> None:
        end = self._file.seek(0, os.SEEK_END)
        try:
            while line:
                line = line[self._file.write(line) :]
        except OSError as error:
            with contextlib.suppress(OSError):
                self._file.truncate(end)
            raise OSError(error.errno, error.strerror, str(self._path)) from error

    def close(self) -> None:
        """Close the file and the tracker. More than once is fine."""
        self._file.close()
        if self._tracker is not None:
            self._tracker.close()
            self._tracker = None


def drop_records(path: Path, stage: str, after_step: int) -> None:
    """Take what `stage` wrote after step `after_step` out of the file at `path`, and every line that is no JSON object:
    what a crash or a full disk left. The file is replaced whole, or left alone where nothing is to go.

    Raises UserError on a full disk.
    """
    if not path.exists():
        return
    lines = path.read_bytes().splitlines(keepends=True)
    kept = [line for line in lines if _stays(line, stage, after_step)]
    if len(kept) < len(lines) or (lines and not lines[-1].endswith(b"\n")):
        atomic.write_bytes(path, b"".join(line.rstrip(b"\n") + b"\n" for line in kept))


def records_of(path: Path, stage: str, up_to_step: int) -> bytes:
    """The lines that `stage` wrote up to step `up_to_step` into the file at `path`; nothing if there is none."""
    lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
    own = [line for line in lines if _stays(line, stage, up_to_step) and not _stays(line, stage, -1)]
    return b"".join(line.rstrip(b"\n") + b"\n" for line in own)


def open_tracker(
    name: str, run: Path, settings: Mapping[str, Any] | None = None
) -> "_WandbLike | _TensorBoard":
    """The tracker called `name` for the run directory `run`, whose name there stays the same in all sessions;
    `settings` are by stage. Raises UserError if it cannot be used."""
    if name not in TRACKERS:
        raise UserError(f"there is no tracker {name!r}; choose one of {', '.join(TRACKERS)}")
    try:
        if name == "tensorboard":
            return _TensorBoard(importlib.import_module("torch.utils.tensorboard"), run, settings or {})
        return _WandbLike(importlib.import_module(name), name, run, settings or {})
    except ImportError as error:
        raise UserError(f"tracking with {name} needs a package: pip install 'chatsmith[{name}]'") from error


class _WandbLike:
    """wandb, and trackio, which has the same functions. Steps of different stages would collide in their one
    global step, so the step is a figure of its own."""

    def __init__(self, module: Any, name: str, run: Path, settings: Mapping[str, Any]) -> None:
        kept = run / TRACKER_ID
        if not kept.exists():
            run.mkdir(parents=True, exist_ok=True)
            atomic.write_text(kept, secrets.token_hex(4))
        # trackio knows a run by its name alone.
        id = kept.read_text(encoding="utf-8").strip()
        which = {"name": run.name, "id": id} if name == "wandb" else {"name": f"{run.name}-{id}"}
        self._run = module.init(project="chatsmith", **which, resume="allow", config=dict(settings))

    def log(self, stage: str, step: int, values: dict[str, float]) -> None:
        self._run.log({f"{stage}/step": step} | {f"{stage}/{name}": value for name, value in values.items()})

    def text(self, stage: str, step: int, name: str, text: str) -> None:
        self._run.log({f"{stage}/step": step, f"{stage}/{name}": text})

    def close(self) -> None:
        self._run.finish()


class _TensorBoard:
    def __init__(self, module: Any, run: Path, settings: Mapping[str, Any]) -> None:
        self._writer = module.SummaryWriter(log_dir=str(run / "tensorboard"))
        for stage, values in settings.items():
            self.text(stage, 0, "settings", "\n".join(f"    {name} = {one}" for name, one in values.items()))

    def log(self, stage: str, step: int, values: dict[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(f"{stage}/{name}", value, step)

    def text(self, stage: str, step: int, name: str, text: str) -> None:
        self._writer.add_text(f"{stage}/{name}", text, step)

    def close(self) -> None:
        self._writer.close()


def _last_byte(path: Path) -> bytes:
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read()


def _stays(line: bytes, stage: str, after_step: int) -> bool:
    try:
        record = json.loads(line)
    except ValueError:
        return False
    if not isinstance(record, dict):
        return False
    step = record.get("step")
    return record.get("stage") != stage or not isinstance(step, int) or step <= after_step


def _finite_or_none(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _lines(replies: Sequence[Mapping[str, Any]]) -> str:
    return "\n".join(", ".join(f"{name}: {value}" for name, value in reply.items()) for reply in replies)


def _numbers(values: dict[str, Any]) -> dict[str, float]:
    return {
        name: value
        for name, value in values.items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    }
