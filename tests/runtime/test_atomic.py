import contextlib
import errno
import itertools
import os
import shutil
import sys
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
    """The old folder has stepped aside when the new one's rename fails, where the system cannot swap two."""
    monkeypatch.setattr(atomic, "_renameat2", None)
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
        pytest.raises(UserError, match="bundle was not written: Input/output error"),
        atomic.new_folder(tmp_path / "bundle") as folder,
    ):
        raise OSError(errno.EIO, "Input/output error", str(folder / "weights"))

    def broken_disk(descriptor):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fsync", broken_disk)
    with pytest.raises(UserError, match=r"file\.json was not written: Input/output error"):
        atomic.write_text(tmp_path / "file.json", "x")


def test_a_folder_is_replaced_in_one_call_where_the_system_can(tmp_path, monkeypatch):
    """Between two renames a reader would find neither."""
    target = tmp_path / "bundle"
    with atomic.new_folder(target) as folder:
        (folder / "old").write_text("")
    monkeypatch.setattr(Path, "rename", None)
    with atomic.new_folder(target) as folder:
        (folder / "new").write_text("")
    assert [path.name for path in target.iterdir()] == ["new"]
    assert list(tmp_path.iterdir()) == [target]


DYING = """
import os, signal, sys
from pathlib import Path
from chatsmith.runtime import atomic
target, moment, swaps = Path(sys.argv[1]), sys.argv[2], sys.argv[3] == "swaps"
if not swaps:
    atomic._renameat2 = None
calls = []
def die_at(name, function):
    def call(*arguments, **options):
        calls.append(name)
        if len(calls) == int(moment):
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*arguments, **options)
    return call
with atomic.new_folder(target) as folder:
    (folder / "weights").write_text("old")
for owner, name in ((Path, "rename"), (os, "fsync"), (Path, "mkdir"), (os, "rmdir"), (os, "unlink")):
    setattr(owner, name, die_at(name, getattr(owner, name)))
with atomic.new_folder(target) as folder:
    (folder / "weights").write_text("new")
    atomic.write_text(folder / "more", "x")
atomic.remove_folder(target)
"""


@pytest.mark.parametrize("swaps", ["swaps", "does not swap"])
def test_a_kill_at_any_moment_leaves_the_old_folder_the_new_one_or_none_once_swept(tmp_path, swaps):
    """None only once it is being removed. What the dead process left goes; what a living one writes stays."""
    living = tmp_path / f".other.{os.getppid()}.tmp"
    found = []
    for moment in range(1, 40):
        child = os.fork()
        if child == 0:
            with open(os.devnull, "w") as null, contextlib.redirect_stderr(null):
                sys.argv = ["dying", str(tmp_path / "bundle"), str(moment), swaps]
                exec(DYING, {})
            os._exit(0)
        status = os.waitpid(child, 0)[1]
        living.touch()
        atomic.sweep(tmp_path)
        there = sorted(path.name for path in tmp_path.iterdir())
        assert there in ([living.name, "bundle"], [living.name]), (moment, there)
        found.append((tmp_path / "bundle" / "weights").read_text() if "bundle" in there else None)
        shutil.rmtree(tmp_path / "bundle", ignore_errors=True)
        if status == 0:
            break
    assert status == 0 and len(found) > 10
    assert [kind for kind, _ in itertools.groupby(found)] == ["old", "new", None]
