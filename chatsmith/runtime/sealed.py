"""Files that prove they are what was written: tensors and JSON, with their size and SHA-256.

Bundles and training states are made of them. They are not written atomically: the folder that they are in is.
"""

import errno
import hashlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
    """Write tensors of any device to a safetensors file at `path`, not atomically. Returns its seal.

    Raises OSError on a full disk, above a limit on file sizes and the like.
    """
    path.touch()
    # By the umask; what the library puts in its place can be read by the owner alone.
    mode = path.stat().st_mode
    try:
        on_cpu = {name: tensor.detach().to("cpu").contiguous() for name, tensor in tensors.items()}
        safetensors.torch.save_file(on_cpu, path)
    except SafetensorError as error:  # which has the system's number in its text alone
        number = int(match[1]) if (match := re.search(r"(?:os error|code:) (\d+)", str(error))) else errno.EIO
        raise OSError(number, os.strerror(number), str(path)) from error
    path.chmod(mode)
    return seal_of(path)


def read_tensors(path: Path, seal: Seal) -> dict[str, torch.Tensor]:
    """Read a file written by `write_tensors` to CPU tensors. Raises DamagedFileError unless as sealed."""
    check_seal(path, seal)
    try:
        return safetensors.torch.load_file(path)
    except SafetensorError as error:
        raise DamagedFileError(f"{path} is not a safetensors file ({error})") from error


def content_hash(config: Mapping[str, Any]) -> str:
    """SHA-256 of what is JSON, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(config, sort_keys=True).encode("utf-8")).hexdigest()
