import errno
import os
from pathlib import Path

import pytest

from chatsmith.runtime import atomic
from chatsmith.runtime.errors import UserError


def test_failed_write_leaves_the_old_file_and_nothing_beside_it(tmp_path, monkeypatch):
    target = tmp_path / "file.json"
    atomic.write_text(target, "old")

    def full_disk(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(UserError, match="disk is full"):
        atomic.write_text(target, "new")
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_new_folder_replaces_the_old_one_whole(tmp_path):
    target = tmp_path / "bundle"
    for name in ("first", "second"):
        with atomic.new_folder(target) as folder:
            (folder / name).write_text(name)
            assert not (target / name).exists()
    assert [path.name for path in target.iterdir()] == ["second"]
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_interrupted_folder_leaves_the_old_one(tmp_path, error):
    target = tmp_path / "bundle"
    with atomic.new_folder(target) as folder:
        (folder / "kept").write_text("")
    with pytest.raises(error), atomic.new_folder(target) as folder:
        (folder / "half").write_text("")
        raise error
    assert [path.name for path in target.iterdir()] == ["kept"]
    assert list(tmp_path.iterdir()) == [target]


def test_full_disk_while_a_folder_is_filled_leaves_the_old_one(tmp_path):
    target = tmp_path / "bundle"
    with atomic.new_folder(target) as folder:
        (folder / "kept").write_text("")
    with (
        pytest.raises(UserError, match=r"the disk is full: .*bundle was not written"),
        atomic.new_folder(target) as folder,
    ):
        (folder / "half").write_text("")
        raise OSError(errno.ENOSPC, "No space left on device")
    assert [path.name for path in target.iterdir()] == ["kept"]
    assert list(tmp_path.iterdir()) == [target]


def test_other_errors_pass_as_they_are(tmp_path):
    with pytest.raises(PermissionError), atomic.new_folder(tmp_path / "bundle"):
        raise PermissionError(errno.EACCES, "Permission denied")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_take_its_place_gives_it_back(tmp_path, monkeypatch):
    """The old folder has stepped aside when the new one's rename fails."""
    target = tmp_path / "bundle"
    with atomic.new_folder(target) as folder:
        (folder / "kept").write_text("")
    rename = Path.rename

    def failing(self, other):
        if self.name.endswith(".tmp"):
            raise OSError(errno.EIO, "Input/output error")
        return rename(self, other)

    monkeypatch.setattr(Path, "rename", failing)
    with pytest.raises(OSError, match="Input/output"), atomic.new_folder(target) as folder:
        (folder / "new").write_text("")
    assert [path.name for path in target.iterdir()] == ["kept"]
    assert list(tmp_path.iterdir()) == [target]


def test_everything_is_on_disk_before_it_takes_its_place(tmp_path, monkeypatch):
    events: list[str] = []
    flush, rename = os.fsync, Path.rename
    monkeypatch.setattr(os, "fsync", lambda number: events.append("flush") or flush(number))
    monkeypatch.setattr(Path, "rename", lambda self, other: events.append("rename") or rename(self, other))
    with atomic.new_folder(tmp_path / "bundle") as folder:
        (folder / "deep").mkdir()
        (folder / "deep" / "file").write_text("x")
        (folder / "other").write_text("y")
    # two files and the new folder, then the rename, then the parent
    assert events == ["flush"] * 3 + ["rename", "flush"]


def test_text_is_written_as_utf_8_into_folders_made_for_it(tmp_path):
    target = tmp_path / "a" / "b" / "file.txt"
    atomic.write_text(target, "größer\n")
    assert target.read_bytes() == "größer\n".encode()
    assert list(target.parent.iterdir()) == [target]


def test_an_error_of_a_file_that_is_written_names_what_was_to_be_written(tmp_path, monkeypatch):
    with (
        pytest.raises(UserError, match="bundle was not written and is as it was: Input/output error"),
        atomic.new_folder(tmp_path / "bundle") as folder,
    ):
        raise OSError(errno.EIO, "Input/output error", str(folder / "weights"))

    def broken_disk(descriptor):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fsync", broken_disk)
    with pytest.raises(UserError, match=r"file\.json was not written and is as it was: Input/output error"):
        atomic.write_text(tmp_path / "file.json", "x")
