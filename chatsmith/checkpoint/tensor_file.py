"""One safetensors file with its size and SHA-256, written and read back with every byte checked.

Does not know what the tensors mean, and does not write atomically by itself: callers write inside
`runtime.atomic.new_folder`.
"""

import errno
import hashlib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import safetensors.torch
import torch
from safetensors import SafetensorError


class DamagedFileError(ValueError):
    """A file is missing, cut off or altered. The message says which and how, not yet what to do."""


@dataclass(frozen=True)
class Seal:
    """What a finished file was: its size in bytes and the SHA-256 of its content, in hex."""

    size: int
    sha256: str

    def to_json(self) -> dict[str, int | str]:
        return {"bytes": self.size, "sha256": self.sha256}

    @classmethod
    def from_json(cls, stored: object) -> "Seal":
        """Raises ValueError if `stored` is not what `to_json` gives."""
        match stored:
            case {"bytes": int(size), "sha256": str(sha256)}:
                return cls(size, sha256)
        raise ValueError(f"expected a size and a SHA-256, found {stored!r}")


def seal_of(path: Path) -> Seal:
    """Measure the file at `path`, reading it once."""
    with path.open("rb") as file:
        return Seal(path.stat().st_size, hashlib.file_digest(file, "sha256").hexdigest())


def check_seal(path: Path, seal: Seal) -> None:
    """Raise DamagedFileError unless the file at `path` is, byte for byte, the one that was sealed."""
    if not path.is_file():
        raise DamagedFileError(f"{path} is missing")
    size = path.stat().st_size
    if size < seal.size:
        raise DamagedFileError(f"{path} is cut off: {size:,} of {seal.size:,} bytes are there")
    if seal_of(path) != seal:
        raise DamagedFileError(f"{path} is not the file that was saved: its content has changed")


def write_tensors(path: Path, tensors: Mapping[str, torch.Tensor]) -> Seal:
    """Write tensors of any device to a new safetensors file at `path`. Returns its seal.

    Raises OSError on a full disk, above a limit on file sizes and the like, as an ordinary file would.
    """
    on_cpu = {name: tensor.detach().to("cpu").contiguous() for name, tensor in tensors.items()}
    try:
        safetensors.torch.save_file(on_cpu, path)
    except SafetensorError as error:
        if number := _errno_of(error):
            raise OSError(number, os.strerror(number), str(path)) from error
        raise
    _share(path)
    return seal_of(path)


def _errno_of(error: SafetensorError) -> int | None:
    """The system's number for what went wrong, if that is what `error` is about: safetensors reports every I/O error
    with its own exception, which is no OSError, and has the number in its text alone."""
    if number := re.search(r"\(os error (\d+)\)", str(error)):
        return int(number[1])
    return errno.ENOSPC if "No space left" in str(error) or "quota exceeded" in str(error) else None


def _share(path: Path) -> None:
    """Give `path` the access rights that an ordinary new file gets: safetensors makes it for its owner alone."""
    ordinary = path.with_name(f".{path.name}.rights")
    ordinary.touch()
    path.chmod(ordinary.stat().st_mode)
    ordinary.unlink()


def read_tensors(path: Path, seal: Seal) -> dict[str, torch.Tensor]:
    """Read a file written by `write_tensors` to CPU tensors. Raises DamagedFileError unless as sealed."""
    check_seal(path, seal)
    try:
        return safetensors.torch.load_file(path)
    except SafetensorError as error:
        raise DamagedFileError(f"{path} is not a safetensors file ({error})") from error
