"""The memory that a container may take counts, not only what its machine has."""

from pathlib import Path

import pytest
import torch

from chatsmith.runtime import device
from chatsmith.runtime.device import free_memory, left_by_groups

GIB = 2**30


def group(folder: Path, names: tuple[str, str], limit: str, used: int, cached: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / names[0]).write_text(f"{limit}\n")
    (folder / names[1]).write_text(f"{used}\n")
    (folder / "memory.stat").write_text(f"anon 1\ninactive_file {cached}\n")


@pytest.mark.parametrize(("line", "kind"), [("0::/a/b", ""), ("4:memory:/a/b", "memory")])
def test_the_tightest_group_around_the_process_counts(tmp_path: Path, line: str, kind: str) -> None:
    names = device.CGROUP_FILES[kind]
    (tmp_path / "cgroup").write_text(f"9:name=systemd:/\n{line}\n")
    root = tmp_path / "fs" / kind
    group(root / "a" / "b", names, "max", GIB, 0)
    group(root / "a", names, str(4 * GIB), 3 * GIB, GIB // 2)
    group(root, names, str(64 * GIB), 5 * GIB, 0)
    assert list(left_by_groups(tmp_path / "cgroup", tmp_path / "fs")) == [3 * GIB // 2, 59 * GIB]


def test_groups_out_of_sight_limit_nothing(tmp_path: Path) -> None:
    """As in a container that sees its own group at the root, under another name; or on a system without any."""
    (tmp_path / "cgroup").write_text("0::/host/name\n")
    group(tmp_path / "fs", device.CGROUP_FILES[""], str(GIB), 2 * GIB, 0)
    assert list(left_by_groups(tmp_path / "cgroup", tmp_path / "fs")) == [0], "over its limit already"
    assert list(left_by_groups(tmp_path / "none", tmp_path / "fs")) == []


def test_free_memory_is_what_the_groups_leave(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = torch.device("cpu")
    monkeypatch.setattr(device, "left_by_groups", lambda *_: iter(()))
    unlimited = free_memory(cpu)
    assert unlimited > 0
    monkeypatch.setattr(device, "left_by_groups", lambda *_: iter((unlimited * 2, 12_345)))
    assert free_memory(cpu) == 12_345
