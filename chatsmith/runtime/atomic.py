"""Atomic writes: a reader sees the old file or folder or the new one, never half of either.

The new content is written beside its target, flushed to disk, then renamed over it; the parent directory is
flushed last, so that the rename itself survives a power cut. A full disk raises a `UserError`, as does whatever else
keeps the system from writing, and what was there before stays.

Also how files are read that people write by hand: recipes, keys, personas.

What is half-written is called `.NAME.PID.tmp`, and what has stepped aside for one rename `.NAME.PID.old`. A killed
process leaves them behind; `sweep` puts that right.
"""

import codecs
import ctypes
import errno
import itertools
import os
import re
import shutil
import time
import tomllib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from chatsmith.runtime.console import format_seconds
from chatsmith.runtime.errors import UserError

FULL = (errno.ENOSPC, errno.EDQUOT)
"""What the system says of a disk without room, or of a person's share of it."""

POLL_SECONDS = 1.0
"""How often a full disk is looked at."""

_LEFTOVER = re.compile(r"\.(?P<name>.+)\.(?P<pid>\d+)\.(?P<kind>tmp|old)")
_temporaries: set[Path] = set()
"""What this process is writing right now."""


def write_bytes(path: Path, content: bytes) -> None:
    """Replace `path` with `content`, atomically. Parent folders are made. Raises UserError on a full disk, or where a
    limit on file sizes or the device stops the writing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with _temporary(path) as temporary:
        with explained(path, temporary), temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        _flush(path.parent)


def write_text(path: Path, text: str) -> None:
    """Replace `path` with `text` in UTF-8, atomically. Raises UserError on a full disk."""
    write_bytes(path, text.encode("utf-8"))


def read_text(path: Path) -> str:
    """The text of a UTF-8 file, without a byte order mark. A pipe may give it (`<(command)`); a named pipe that nothing
    writes into is empty, and not waited for.

    Raises UserError for UTF-16, as PowerShell and Notepad may save it; OSError and UnicodeDecodeError as they are.
    """
    with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
        os.set_blocking(file.fileno(), True)
        content = file.read()
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise UserError(f"{path} is UTF-16 text; save it as UTF-8")
    return content.decode("utf-8-sig")


def read_toml(path: Path, kind: str) -> dict[str, Any]:
    """The content of a TOML file, a `kind` like "recipe". Raises UserError if it cannot be read, or is none."""
    try:
        return tomllib.loads(read_text(path))
    except OSError as error:
        raise UserError(f"the {kind} {path} cannot be read ({error.strerror})") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"the {kind} {path} is not valid TOML: {error}") from error


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Yield an empty temporary folder beside `path`; on a clean exit it becomes `path`, replacing it whole.

    On any exception the temporary folder is removed and `path` is left as it was. Raises UserError on a full
    disk, and where anything else stops the writing of a file in the folder; other errors of the block pass as they are.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with _temporary(path) as temporary:
        temporary.mkdir()
        with explained(path, temporary):
            yield temporary
            for file in temporary.rglob("*"):
                if file.is_file():
                    _flush(file)
        _flush(temporary)
        if path.exists():
            _exchange(temporary, path)
        else:
            temporary.rename(path)
        _flush(path.parent)


def remove_folder(path: Path) -> None:
    """Remove a folder: a kill meanwhile leaves it whole or gone, but for what `sweep` takes away."""
    if path.exists():
        with _temporary(path) as temporary:
            path.rename(temporary)


def sweep(*folders: Path) -> None:
    """Remove what killed processes left half-written in these folders, and bring back what had stepped aside for a
    replacement that never came. What a living process writes is left alone."""
    for path in (path for folder in folders for path in folder.glob(".*")):
        found = _LEFTOVER.fullmatch(path.name)
        if not found or _is_alive(int(found["pid"])):
            continue
        if found["kind"] == "old" and not path.with_name(found["name"]).exists():
            path.rename(path.with_name(found["name"]))
        else:
            _remove(path)


def remove_temporaries() -> None:
    """Remove what this process is writing right now: it is about to end on the spot."""
    for path in list(_temporaries):
        _remove(path)


@contextmanager
def _temporary(path: Path) -> Iterator[Path]:
    """A name beside `path` that is free, and free again afterwards."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    _remove(temporary)
    _temporaries.add(temporary)
    try:
        yield temporary
    finally:
        _remove(temporary)
        _temporaries.discard(temporary)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _is_alive(pid: int) -> bool:
    """Whether another process on this machine has this number."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return pid != os.getpid()


_renameat2 = getattr(ctypes.CDLL(None), "renameat2", None)  # Linux alone has it
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2


def _exchange(temporary: Path, path: Path) -> None:
    """Swap two folders: in one call where the system can (Linux), so that at every moment one of them is at `path`."""
    one, other = os.fsencode(temporary), os.fsencode(path)
    if _renameat2 and _renameat2(_AT_FDCWD, one, _AT_FDCWD, other, _RENAME_EXCHANGE) == 0:
        return
    retired = path.with_name(f".{path.name}.{os.getpid()}.old")
    path.rename(retired)  # a folder cannot be renamed over one that is not empty
    try:
        temporary.rename(path)
    except BaseException:
        retired.rename(path)
        raise
    _remove(retired)


Wait = Callable[[int], bool]
"""Is called where a disk is full, with how often it was before, and says whether to try again."""


def again_while_full(write: Callable[[], None], wait: Wait) -> None:
    """Call `write`, and where the disk is full once more, as long as `wait` says so. Raises OSError."""
    for tries in itertools.count():
        try:
            return write()
        except (OSError, UserError) as error:
            reason = error if isinstance(error, OSError) else error.__cause__
            if not isinstance(reason, OSError):
                raise
            if reason.errno not in FULL or not wait(tries):
                raise reason from error


def wait_for_room(folder: Path, longest: float, say: Callable[[str], object], tries: int) -> bool:
    """Wait a moment for room on the full disk of `folder`, and at the first of the `tries` say so; False after
    `longest` seconds."""
    if tries * POLL_SECONDS >= longest:
        return False
    if tries == 0:
        say(f"the disk is full: waiting up to {format_seconds(longest)} for room in {folder}")
    time.sleep(POLL_SECONDS)
    return True


@contextmanager
def explained(path: Path, temporary: Path) -> Iterator[None]:
    """Turn what the system says in a block that writes `temporary`, which will become `path`, into a UserError."""
    try:
        yield
    except OSError as error:
        kept = " and is as it was" if path.exists() else ""
        if error.errno in FULL:
            raise UserError(
                f"the disk is full: {path} was not written{kept}; free space and repeat the command"
            ) from error
        # In the block that fills a folder anything may happen, and what names no file of it is not about writing it.
        is_ours = not temporary.is_dir() or (
            isinstance(error.filename, str) and Path(error.filename).is_relative_to(temporary)
        )
        if error.errno == errno.EFBIG:
            raise UserError(
                f"{path} was not written{kept}: it is larger than files may be here ({error.strerror}); "
                "raise the limit (ulimit -f) and repeat the command"
            ) from error
        if is_ours:
            raise UserError(f"{path} was not written{kept}: {error.strerror}") from error
        raise


def _flush(path: Path) -> None:
    """Have a file, or the names in a folder, on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
