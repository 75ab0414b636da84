"""A tensor file is read back exactly or not at all."""

import errno
import os
import resource
from pathlib import Path

import pytest
import safetensors.torch
import torch
from safetensors import SafetensorError

from chatsmith.runtime.atomic import new_folder
from chatsmith.runtime.errors import UserError
from chatsmith.runtime.sealed import DamagedFileError, Seal, read_tensors, seal_of, write_tensors


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


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EDQUOT])
@pytest.mark.parametrize(
    "words", ["I/O error: {text} (os error {number})", "IoError(Os {{ code: {number}, kind: Other }})"]
)
def test_an_error_of_the_system_names_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, words: str
) -> None:
    def full(*_: object) -> None:
        raise SafetensorError(
            "Error while serializing: " + words.format(number=number, text=os.strerror(number))
        )

    monkeypatch.setattr(safetensors.torch, "save_file", full)
    with pytest.raises(OSError, match="weights") as raised:
        write_tensors(tmp_path / "weights", {"one": torch.zeros(3)})
    assert raised.value.errno == number


def test_who_may_read_the_file_is_for_the_umask_to_say(tmp_path: Path) -> None:
    write_tensors(tmp_path / "weights", {"one": torch.zeros(3)})
    (tmp_path / "other").touch()
    assert (tmp_path / "weights").stat().st_mode == (tmp_path / "other").stat().st_mode


def test_a_file_is_byte_for_byte_what_safetensors_writes(tmp_path: Path) -> None:
    tensors = {
        "b": torch.randn(3, 2),
        "a.long": torch.tensor(7),
        "empty": torch.zeros(0, 5),
        "half": torch.randn(5).bfloat16(),
        "other half": torch.randn(5).half(),
        "bytes": torch.arange(5, dtype=torch.uint8),
        "double": torch.randn(3).double(),
        "int": torch.arange(3, dtype=torch.int32),
        'é"x\n': torch.ones(2),
        "turned": torch.randn(2, 3).t(),
    }
    seal = write_tensors(tmp_path / "ours", tensors)
    safetensors.torch.save_file(
        {name: one.contiguous() for name, one in tensors.items()}, tmp_path / "theirs"
    )
    assert (tmp_path / "ours").read_bytes() == (tmp_path / "theirs").read_bytes()
    assert seal == seal_of(tmp_path / "ours")
    assert read_tensors(tmp_path / "ours", seal).keys() == tensors.keys()


def test_a_limit_on_file_sizes_is_one_line_that_names_the_file_and_the_reason(tmp_path: Path) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with (
            pytest.raises(UserError, match=r"state was not written.*File too large.*ulimit -f"),
            new_folder(tmp_path / "state") as folder,
        ):
            write_tensors(folder / "weights", {"one": torch.zeros(1000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("stored", [None, {}, {"bytes": "3", "sha256": "a"}, {"bytes": 3}, [3, "a"]])
def test_a_seal_that_is_none_is_refused(stored: object) -> None:
    with pytest.raises(ValueError, match="SHA-256"):
        Seal.from_json(stored)
