"""A tensor file is read back exactly or not at all."""

import errno
import resource
from pathlib import Path

import pytest
import safetensors.torch
import torch
from safetensors import SafetensorError

from chatsmith.bundle import DamagedFileError, Seal, read_tensors, write_tensors
from chatsmith.runtime.atomic import new_folder
from chatsmith.runtime.errors import UserError


def test_a_file_holds_the_same_bytes_whatever_the_order_of_its_tensors(tmp_path: Path) -> None:
    one, two = torch.randn(3), torch.randn(4)
    first = write_tensors(tmp_path / "first", {"one": one, "two": two})
    second = write_tensors(tmp_path / "second", {"two": two, "one": one})
    assert first == second


@pytest.mark.parametrize("kept", [0, 1, 7, 20, -1])
def test_every_cut_is_noticed(tmp_path: Path, kept: int) -> None:
    path = tmp_path / "weights"
    seal = write_tensors(path, {"one": torch.randn(3)})
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(DamagedFileError, match="cut off"):
        read_tensors(path, seal)


def test_a_changed_byte_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "weights"
    seal = write_tensors(path, {"one": torch.zeros(3)})
    path.write_bytes(path.read_bytes()[:-1] + b"\x01")
    with pytest.raises(DamagedFileError, match="changed"):
        read_tensors(path, seal)


def test_a_full_disk_is_reported_as_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # What safetensors 0.8 says on a full tmpfs, word for word.
    message = "Error while serializing: I/O error: No space left on device (os error 28)"

    def full(*_: object) -> None:
        raise SafetensorError(message)

    monkeypatch.setattr(safetensors.torch, "save_file", full)
    with pytest.raises(OSError) as raised:
        write_tensors(tmp_path / "weights", {"one": torch.zeros(3)})
    assert raised.value.errno == errno.ENOSPC


def test_a_limit_on_file_sizes_is_one_line_that_names_the_file_and_the_reason(tmp_path: Path) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with (
            pytest.raises(UserError, match=r"state was not written .*File too large.*ulimit -f"),
            new_folder(tmp_path / "state") as folder,
        ):
            write_tensors(folder / "weights", {"one": torch.zeros(1000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("message", "number"),
    [("I/O error: Input/output error (os error 5)", errno.EIO), ("disk quota exceeded", errno.ENOSPC)],
)
def test_an_error_of_the_system_is_told_as_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, message: str, number: int
) -> None:
    def fails(*_: object) -> None:
        raise SafetensorError(message)

    monkeypatch.setattr(safetensors.torch, "save_file", fails)
    with pytest.raises(OSError, match="weights") as raised:
        write_tensors(tmp_path / "weights", {"one": torch.zeros(3)})
    assert raised.value.errno == number


@pytest.mark.parametrize("stored", [None, {}, {"bytes": "3", "sha256": "a"}, {"bytes": 3}, [3, "a"]])
def test_a_seal_that_is_none_is_refused(stored: object) -> None:
    with pytest.raises(ValueError, match="SHA-256"):
        Seal.from_json(stored)
