import errno
import os

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
