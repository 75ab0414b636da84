"""Atomic writes: a reader sees the old file or folder or the new one, never half of either.

The new content is written beside its target, flushed to disk, then renamed over it; the parent directory is
flushed last, so that the rename itself survives a power cut. A full disk raises a `UserError`, as does whatever else
keeps the system from writing, and what was there before stays.
"""

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from chatsmith.runtime.errors import UserError


def write_bytes(path: Path, content: bytes) -> None:
    """Replace `path` with `content`, atomically. Parent folders are made. Raises UserError on a full disk, or where a
    limit on file sizes or the device stops the writing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with explained(path, temporary), temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        _flush_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Replace `path` with `text` in UTF-8, atomically. Raises UserError on a full disk."""
    write_bytes(path, text.encode("utf-8"))


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Yield an empty temporary folder beside `path`; on a clean exit it becomes `path`, replacing it whole.

    On any exception the temporary folder is removed and `path` is left as it was. Raises UserError on a full
    disk, and where anything else stops the writing of a file in the folder; other errors of the block pass as they are.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    retired = path.with_name(f".{path.name}.{os.getpid()}.old")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        with explained(path, temporary):
            yield temporary
            for file in temporary.rglob("*"):
                if file.is_file():
                    _flush_file(file)
        _flush_folder(temporary)
        if path.exists():
            # A folder cannot be renamed over a non-empty one, so the old one steps aside for one rename.
            path.rename(retired)
        temporary.rename(path)
        _flush_folder(path.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        if retired.exists() and not path.exists():
            retired.rename(path)
        shutil.rmtree(retired, ignore_errors=True)


@contextmanager
def explained(path: Path, temporary: Path) -> Iterator[None]:
    """Turn what the system says in a block that writes `temporary`, which will become `path`, into a UserError."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise UserError(
                f"the disk is full: {path} was not written and is as it was; free space and repeat the command"
            ) from error
        # In the block that fills a folder anything may happen, and what names no file of it is not about writing it.
        is_ours = not temporary.is_dir() or (
            isinstance(error.filename, str) and Path(error.filename).is_relative_to(temporary)
        )
        if error.errno == errno.EFBIG:
            raise UserError(
                f"{path} was not written and is as it was: it is larger than files may be here ({error.strerror}); "
                "raise the limit (ulimit -f) and repeat the command"
            ) from error
        if is_ours:
            raise UserError(f"{path} was not written and is as it was: {error.strerror}") from error
        raise


def _flush_file(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _flush_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
