"""Files of the hub by huggingface_hub, unmodified, from a server of our own: what arrives, and what can go wrong."""

import time
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub
import pytest

from chatsmith.ingest import hub as downloads
from chatsmith.ingest.hub import download, list_repository
from chatsmith.runtime.errors import UserError
from tests.hub_server import LARGE, Hub, Trouble, git_blob, serving, sha256

LINES = b"one\ntwo\n" * 10
SHARD = bytes(range(256)) * (8 * LARGE // 256)
OTHER = SHARD[::-1]


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    """A hub with one data set, found by HF_ENDPOINT alone; no waiting, no token, no proxies."""
    with serving() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.address)
        for name in (
            "HF_TOKEN",
            "HUGGING_FACE_HUB_TOKEN",
            "http_proxy",
            "HTTP_PROXY",
            "all_proxy",
            "ALL_PROXY",
        ):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
        monkeypatch.setattr(time, "sleep", lambda seconds: None)
        hub.stall_seconds = 0.0
        hub.dataset("owner/text", {"data/a.parquet": SHARD, "data/b.parquet": OTHER, "README.md": LINES})
        yield hub


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def one_line(refusal: pytest.ExceptionInfo[UserError]) -> str:
    assert "\n" not in str(refusal.value)
    return str(refusal.value)


def test_a_listing_has_sizes_and_hashes_before_a_byte_has_come(hub: Hub):
    hub.page = 2  # which the client has to turn
    repository = list_repository("owner/text")
    assert [(file.path, file.size, file.sha256) for file in repository.files] == [
        ("README.md", len(LINES), ""),
        ("data/a.parquet", len(SHARD), sha256(SHARD)),
        ("data/b.parquet", len(OTHER), sha256(OTHER)),
    ]
    assert repository.files[0].blob == git_blob(LINES)
    assert repository.commit == hub.repos["datasets/owner/text"].commit
    assert not hub.sent("data/a.parquet")


def test_files_arrive_in_order_and_are_asked_for_once(hub: Hub, cache: Path):
    repository = list_repository("owner/text")
    paths = ["data/b.parquet", "README.md", "data/a.parquet"]
    for _ in range(2):
        found = list(download(repository, paths, cache=cache))
        assert [path.read_bytes() for path in found] == [OTHER, LINES, SHARD]
    assert [hub.sent(path) for path in paths] == [1, 1, 1]


def test_models_are_another_kind(hub: Hub, cache: Path):
    hub.repos["models/owner/small"] = hub.repos["datasets/owner/text"]
    (path,) = download(list_repository("owner/small", kind="model"), ["README.md"], cache=cache)
    assert path.read_bytes() == LINES
    with pytest.raises(UserError, match="no such dataset"):
        list_repository("owner/small")


def test_a_file_is_that_of_the_listed_commit_whatever_has_come_since(hub: Hub, cache: Path):
    repository = list_repository("owner/text")
    hub.repos["datasets/owner/text"].files["README.md"] = b"changed"
    (path,) = download(repository, ["README.md"], cache=cache)
    assert path.read_bytes() == LINES
    (path,) = download(list_repository("owner/text"), ["README.md"], cache=cache)
    assert path.read_bytes() == b"changed"


@pytest.mark.parametrize("kind", ["break", "stall", "busy"])
def test_a_connection_that_breaks_off_stalls_or_is_busy_goes_on(hub: Hub, cache: Path, kind: str):
    repository = list_repository("owner/text")
    hub.trouble["data/a.parquet"] = Trouble(kind, 2)
    (path,) = download(repository, ["data/a.parquet"], cache=cache)
    assert path.read_bytes() == SHARD


@pytest.mark.parametrize("kind", ["busy", "down"])
def test_a_listing_survives_a_busy_hub(hub: Hub, kind: str):
    hub.trouble["tree"] = Trouble(kind, 2)
    assert len(list_repository("owner/text").files) == 3


@pytest.mark.parametrize("kind", ["down", "busy"])
def test_a_hub_that_stays_out_of_order_is_one_line_and_nothing_half_written(hub: Hub, cache: Path, kind: str):
    repository = list_repository("owner/text")
    hub.trouble["data/b.parquet"] = Trouble(kind, 1000)
    with pytest.raises(UserError, match=r"owner/text cannot be fetched from the hub: .*(503|429)") as refusal:
        list(download(repository, ["data/a.parquet", "data/b.parquet"], cache=cache))
    one_line(refusal)
    assert not list(cache.rglob("*.incomplete"))
    hub.trouble.clear()
    found = list(download(repository, ["data/a.parquet", "data/b.parquet"], cache=cache))
    assert [path.read_bytes() for path in found] == [SHARD, OTHER]
    assert hub.sent("data/a.parquet") == 1, "what had arrived stayed"


@pytest.mark.parametrize("path", ["data/a.parquet", "README.md"])
def test_what_is_damaged_or_changed_on_the_way_is_not_kept(hub: Hub, cache: Path, path: str):
    """Of the same length, so that only the hash can tell; large files and small."""
    repository = list_repository("owner/text")
    hub.trouble[path] = Trouble("damage")
    with pytest.raises(UserError, match="not what the hub lists") as refusal:
        list(download(repository, [path], cache=cache))
    one_line(refusal)
    (found,) = download(repository, [path], cache=cache)
    assert found.read_bytes() == hub.repos["datasets/owner/text"].files[path]


def test_a_file_that_changes_under_its_commit_is_not_kept(hub: Hub, cache: Path):
    """As where a mirror replaces a file: the listing is another one's."""
    repository = list_repository("owner/text")
    hub.history[repository.commit].files["data/a.parquet"] = OTHER
    with pytest.raises(UserError, match="not what the hub lists"):
        list(download(repository, ["data/a.parquet"], cache=cache))


def test_private_and_gated_repositories_need_a_token(hub: Hub, cache: Path, monkeypatch: pytest.MonkeyPatch):
    hub.dataset("owner/mine", {"a.txt": LINES}, private=True)
    hub.dataset("owner/gated", {"a.txt": LINES}, gated=True)
    with pytest.raises(UserError, match="HF_TOKEN") as refusal:
        list_repository("owner/mine")
    one_line(refusal)
    with pytest.raises(UserError, match="grant access"):
        list_repository("owner/gated")
    monkeypatch.setenv("HF_TOKEN", hub.token)
    for name in ("owner/mine", "owner/gated"):
        (path,) = download(list_repository(name), ["a.txt"], cache=cache)
        assert path.read_bytes() == LINES


def test_what_is_not_there_is_named(hub: Hub, cache: Path):
    with pytest.raises(UserError, match="owner/nothing"):
        list_repository("owner/nothing")
    with pytest.raises(UserError, match="no such revision"):
        list_repository("owner/text", revision="f" * 40)
    with pytest.raises(UserError, match=r"no file data/c\.parquet"):
        list(download(list_repository("owner/text"), ["data/c.parquet"], cache=cache))


def test_a_dead_hub_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("CHATSMITH_CACHE", str(tmp_path))  # where no earlier listing is
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(UserError, match="cannot be fetched from the hub") as refusal:
        list_repository("owner/text")
    one_line(refusal)


def test_a_full_disk_is_named_and_nothing_is_half_written(
    hub: Hub, cache: Path, monkeypatch: pytest.MonkeyPatch
):
    repository = list_repository("owner/text")

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("huggingface_hub.file_download.http_get", full)
        with pytest.raises(UserError, match="disk is full"):
            list(download(repository, ["data/a.parquet"], cache=cache))
    assert not list(cache.rglob("*.incomplete"))
    (path,) = download(repository, ["data/a.parquet"], cache=cache)
    assert path.read_bytes() == SHARD


def test_a_folder_of_copies_can_stand_in_for_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HF_ENDPOINT", f"file://{tmp_path}")
    (tmp_path / "owner/text/data").mkdir(parents=True)
    (tmp_path / "owner/text/data/a.parquet").write_bytes(SHARD)
    repository = list_repository("owner/text")
    assert [(file.path, file.size) for file in repository.files] == [("data/a.parquet", len(SHARD))]
    assert list(download(repository, ["data/a.parquet"])) == [tmp_path / "owner/text/data/a.parquet"]
    with pytest.raises(UserError, match="no copy of owner/other"):
        list_repository("owner/other")


def test_the_cache_is_the_clients_own(hub: Hub, cache: Path):
    """Other programs find what we fetched, and we what they did."""
    repository = list_repository("owner/text")
    theirs = huggingface_hub.hf_hub_download(
        "owner/text", "README.md", repo_type="dataset", cache_dir=cache, endpoint=hub.address
    )
    (ours,) = download(repository, ["README.md"], cache=cache)
    assert ours == Path(theirs) and hub.sent("README.md") == 1


@pytest.fixture
def address(hub: Hub) -> str:
    hub.dataset("plain/files", {"x.bin": SHARD})
    repository = list_repository("plain/files")
    return f"{hub.address}/cdn/datasets/plain/files/{repository.commit}/x.bin"


@pytest.mark.parametrize("kind", ["break", "stall", "busy", "down"])
def test_a_plain_address_is_fetched_whatever_breaks_off(hub: Hub, address: str, kind: str):
    hub.trouble["x.bin"] = Trouble(kind, 2)
    assert downloads.fetch_address(address) == SHARD
    halves = [f"bytes={len(SHARD) // 2}-", f"bytes={len(SHARD) * 3 // 4}-"]
    assert hub.ranges == (halves if kind in ("break", "stall") else []), (
        "what has come is not asked for again"
    )


def test_a_plain_address_whose_file_has_changed_meanwhile_begins_anew(
    hub: Hub, address: str, monkeypatch: pytest.MonkeyPatch
):
    hub.trouble["x.bin"] = Trouble("break")
    commit = address.split("/")[-2]
    changed = hub.history[commit].files

    def change(seconds: float) -> None:
        hub.trouble.clear()
        changed["x.bin"] = OTHER

    monkeypatch.setattr(downloads.time, "sleep", change)
    assert downloads.fetch_address(address) == OTHER


def test_a_plain_address_that_has_nothing_is_asked_once(hub: Hub):
    with pytest.raises(UserError, match="404") as refusal:
        downloads.fetch_address(f"{hub.address}/nothing")
    one_line(refusal)
