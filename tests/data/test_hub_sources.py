"""Data by name: shards of a hub through every stage that reads documents, against the hub of tests/hub_server.py."""

import io
import json
import random
import time
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from chatsmith.cli import main as cli
from chatsmith.data.dataset import load_manifest
from chatsmith.data.tokens import PROGRESS
from chatsmith.ingest import hub as downloads
from chatsmith.runtime.cache import shared_folder
from chatsmith.runtime.console import Reporter
from chatsmith.runtime.errors import UserError
from chatsmith.text.tokenizer import Tokenizer
from tests.hub_server import Hub, Trouble, serving

NAME = "owner/web"


def shard(seed: int, count: int = 120) -> bytes:
    """A parquet file large enough for LFS."""
    choose = random.Random(seed)
    words = ["fox", "tree", "ball", "red", "under", "runs", "home", "little", "asked", "where"]
    texts = [f"{seed} {number} " + " ".join(choose.choices(words, k=60)) for number in range(count)]
    file = io.BytesIO()
    pq.write_table(pa.table({"text": texts}), file, compression="none")
    return file.getvalue()


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    """A hub with a data set of four shards, its downloads and what runs share in places of the test's own."""
    with serving() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.address)
        for name in ("HF_TOKEN", "http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
        monkeypatch.setenv("CHATSMITH_CACHE", str(tmp_path / "cache"))
        waits = time.sleep
        monkeypatch.setattr(time, "sleep", lambda seconds: waits(min(seconds, 0.02)))
        hub.stall_seconds = 0.0
        shards = {f"shard_{number:05d}.parquet": shard(number) for number in range(4)}
        hub.dataset(NAME, {**shards, "README.md": b"# Not text to learn"})
        yield hub


def run(*argv: object) -> int:
    return cli.main([str(word) for word in argv], {})


def prepare(folder: Path, *names: str) -> int:
    return run("data", "prepare", folder, "--data", *names)


def pretrain(folder: Path) -> int:
    """Tokenizer and a few steps."""
    code = run("tokenizer", folder, "--vocab-size", 320, "--sample-megabytes", 0.001)
    small = ("--depth", 1, "--width", 64, "--sequence-length", 32, "--batch-tokens", 64, "--device", "cpu")
    return code or run("pretrain", folder, *small, "--tokens", 640, "--evaluations", 1, "--no-compile")


def test_a_range_of_shards_trains_and_is_validated_on_the_last_shard_of_the_listing(hub: Hub, tmp_path: Path):
    folder = tmp_path / "run"
    assert prepare(folder, f"hub:{NAME}[0:2]") == 0
    manifest = load_manifest(folder / "data")
    assert [file.path.name for file in manifest.documents.train] == [f"shard_0000{n}.parquet" for n in (0, 1)]
    assert [file.path.name for file in manifest.documents.validation] == ["shard_00003.parquet"]
    assert not hub.sent("shard_00001.parquet"), "it may come later"
    assert manifest.documents.validation_items == 120
    assert pretrain(folder) == 0
    assert not hub.sent("shard_00002.parquet") and not hub.sent("README.md")
    assert (folder / "pretrain" / "bundle").is_dir()
    texts = [document.text for document in manifest.read_documents("train")]
    assert len(texts) == 240 and not {text[:2] for text in texts} & {"3 "}


def test_one_more_shard_changes_neither_tokenizer_nor_published_tokens(hub: Hub, tmp_path: Path, capsys):
    folder = tmp_path / "run"
    assert prepare(folder, f"hub:{NAME}[0:1]") == 0 and pretrain(folder) == 0
    before = {path: path.read_bytes() for path in shared_folder("tokens").glob(f"*/{PROGRESS}")}
    tokenizer = Tokenizer.load(folder / "tokenizer").fingerprint
    fingerprint = load_manifest(folder / "data").fingerprint
    # Upstream grows as well: the new shard comes before the last one in the listing.
    hub.repos[f"datasets/{NAME}"].files["shard_00002b.parquet"] = shard(9)
    assert prepare(folder, f"hub:{NAME}[0:2]") == 0
    assert load_manifest(folder / "data").fingerprint != fingerprint
    capsys.readouterr()
    assert run("tokenizer", folder, "--vocab-size", 320, "--sample-megabytes", 0.001) == 0
    assert "up to date" in capsys.readouterr().out
    assert pretrain(folder) == 0
    assert Tokenizer.load(folder / "tokenizer").fingerprint == tokenizer
    after = {path: path.read_bytes() for path in shared_folder("tokens").glob(f"*/{PROGRESS}")}
    assert len(before) == 2 and len(after) == 3 and all(after[path] == before[path] for path in before)
    assert hub.sent("shard_00000.parquet") == hub.sent("shard_00003.parquet") == 1


def test_the_same_listing_is_up_to_date_and_asks_for_no_file(hub: Hub, tmp_path: Path, capsys):
    assert prepare(tmp_path / "run", f"hub:{NAME}[:2]") == 0
    capsys.readouterr()
    assert prepare(tmp_path / "run", f"hub:{NAME}[:2]") == 0
    assert "up to date" in capsys.readouterr().out


def test_another_run_shares_downloads_and_tokens(hub: Hub, tmp_path: Path):
    for name in ("one", "two"):
        assert prepare(tmp_path / name, f"hub:{NAME}[0:1]") == 0 and pretrain(tmp_path / name) == 0
    assert hub.sent("shard_00000.parquet") == 1
    assert len(list(shared_folder("tokens").glob(f"*/{PROGRESS}"))) == 2


def test_a_hub_that_cannot_be_reached_stops_what_is_new_and_nothing_that_is_here(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
):
    assert prepare(tmp_path / "run", f"hub:{NAME}[0:1]") == 0
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    capsys.readouterr()
    assert prepare(tmp_path / "run", f"hub:{NAME}[0:1]") == 0
    assert prepare(tmp_path / "other", f"hub:{NAME}[0:1]") == 0
    assert "listed before" in capsys.readouterr().out
    assert prepare(tmp_path / "new", f"hub:{NAME}[1:2]") == 2
    assert prepare(tmp_path / "new", "hub:owner/other") == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 2 and "cannot be fetched from the hub" in error
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("kind", "times"), [("break", 2), ("stall", 2), ("busy", 2), ("down", 1000), ("damage", 1)]
)
def test_trouble_on_the_way_is_survived_or_one_line_and_then_it_goes_on(
    hub: Hub, tmp_path: Path, kind: str, times: int, capsys
):
    hub.trouble["shard_00003.parquet"] = Trouble(kind, times)
    code = prepare(tmp_path / "run", f"hub:{NAME}[0:1]")
    error = capsys.readouterr().err
    assert (code, error.count("\n")) == ((0, 0) if kind in ("break", "stall", "busy") else (2, 1)), error
    hub.trouble.clear()
    assert prepare(tmp_path / "run", f"hub:{NAME}[0:1]") == 0
    assert load_manifest(tmp_path / "run" / "data").documents.validation_items == 120


def test_a_shard_that_cannot_be_had_while_training_waits_for_it_is_one_line(hub: Hub, tmp_path: Path, capsys):
    folder = tmp_path / "run"
    assert prepare(folder, f"hub:{NAME}[0:3]") == 0
    assert run("tokenizer", folder, "--vocab-size", 320, "--sample-megabytes", 0.001) == 0
    manifest = load_manifest(folder / "data")
    downloads.fetch(manifest.documents.train, Reporter())  # which the tokenizer's stage has begun
    for file in manifest.documents.train[1:]:
        file.path.resolve().unlink()
        file.path.unlink()
    hub.trouble["shard_00001.parquet"] = Trouble("down", 1000)
    capsys.readouterr()
    with (
        pytest.raises(UserError, match="cannot be fetched from the hub") as refusal,
        downloads.open_tokens(
            folder / "tokens", manifest, Tokenizer.load(folder / "tokenizer"), "train"
        ) as cache,
    ):
        cache.wait_until_complete()
    assert "\n" not in str(refusal.value)
    hub.trouble.clear()
    with downloads.open_tokens(
        folder / "tokens", manifest, Tokenizer.load(folder / "tokenizer"), "train"
    ) as cache:
        cache.wait_until_complete()
        assert cache.num_windows == 3


def test_private_data_needs_a_token(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    hub.repos[f"datasets/{NAME}"].private = True
    assert prepare(tmp_path / "run", f"hub:{NAME}") == 2
    assert "HF_TOKEN" in capsys.readouterr().err and not (tmp_path / "run").exists()
    monkeypatch.setenv("HF_TOKEN", hub.token)
    assert prepare(tmp_path / "run", f"hub:{NAME}") == 0


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("hub:owner/nothing", "no such dataset"),
        (f"hub:{NAME}[7:9]", "names no data: there are 4"),
        (f"hub:{NAME}/elsewhere", "names no data"),
        ("hub:justaname", "write hub:OWNER/NAME"),
        (f"hub:{NAME}[a:b]", "write hub:OWNER/NAME"),
    ],
)
def test_unknown_names_are_one_line(hub: Hub, tmp_path: Path, name: str, message: str, capsys):
    assert prepare(tmp_path / "run", name) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1 and not (tmp_path / "run").exists()


def test_a_shard_that_is_no_parquet_is_named_before_training(hub: Hub, tmp_path: Path, capsys):
    hub.repos[f"datasets/{NAME}"].files["shard_00000.parquet"] = b"<html>" * 5000
    assert prepare(tmp_path / "run", f"hub:{NAME}[0:2]") == 2
    error = capsys.readouterr().err
    assert "shard_00000.parquet is not a readable parquet file" in error and error.count("\n") == 1
    hub.repos[f"datasets/{NAME}"].files["shard_00000.parquet"] = shard(0)
    assert prepare(tmp_path / "run", f"hub:{NAME}[0:2]") == 0


def test_a_file_that_changes_upstream_changes_the_data_and_nothing_else(hub: Hub, tmp_path: Path):
    folder = tmp_path / "run"
    assert prepare(folder, f"hub:{NAME}[0:2]") == 0
    before = load_manifest(folder / "data").documents
    hub.repos[f"datasets/{NAME}"].files["shard_00001.parquet"] = shard(77)
    assert prepare(folder, f"hub:{NAME}[0:2]") == 0
    after = load_manifest(folder / "data").documents
    assert [a.sha256 == b.sha256 for a, b in zip(after.train, before.train, strict=True)] == [True, False]
    assert hub.sent("shard_00000.parquet") == 1


def test_files_called_validation_and_test_are_what_they_are_called(hub: Hub):
    names = (
        "train-00000-of-00002",
        "train-00001-of-00002",
        "validation-00000-of-00001",
        "test-00000-of-00001",
    )
    hub.dataset("owner/split", {f"data/{name}.parquet": shard(number) for number, name in enumerate(names)})
    found = downloads.find_shards("hub:owner/split")
    assert [file.path.name for file in found.files] == [f"{name}.parquet" for name in names[:2]]
    assert [file.path.name for file in found.validation] == [f"{names[2]}.parquet"]


def test_a_single_file_is_read_and_split_by_content(hub: Hub, tmp_path: Path):
    hub.dataset("owner/one", {"all.jsonl": b"".join(b'{"text": "text %d"}\n' % n for n in range(300))})
    assert prepare(tmp_path / "run", "hub:owner/one") == 0
    documents = load_manifest(tmp_path / "run" / "data").documents
    assert documents.method == "content" and documents.train_items + documents.validation_items == 300


def test_a_folder_of_copies_stands_in_for_the_hub(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    copies = tmp_path / "copies" / NAME
    copies.mkdir(parents=True)
    for path, content in hub.repos[f"datasets/{NAME}"].files.items():
        (copies / path).write_bytes(content)
    monkeypatch.setenv("HF_ENDPOINT", f"file://{tmp_path / 'copies'}")
    assert prepare(tmp_path / "run", f"hub:{NAME}[0:2]") == 0
    documents = load_manifest(tmp_path / "run" / "data").documents
    assert (documents.train_items, documents.validation_items) == (240, 120) and not hub.asked


def test_download_alone_fetches_and_says_where(hub: Hub, tmp_path: Path, capsys):
    assert run("data", "download", f"hub:{NAME}[0:2]") == 0
    assert "3 files" in capsys.readouterr().out
    assert [hub.sent(f"shard_0000{number}.parquet") for number in range(4)] == [1, 1, 0, 1]
    assert run("data", "download", "coer") == 2 and run("data", "download") == 2
    assert "did you mean core" in capsys.readouterr().err


def test_the_cache_of_tokens_is_listed_and_pruned(hub: Hub, tmp_path: Path, capsys):
    folder = tmp_path / "run"
    assert prepare(folder, f"hub:{NAME}[0:1]") == 0 and pretrain(folder) == 0
    capsys.readouterr()
    assert run("data", "cache", "--json") == 0
    parts = json.loads(capsys.readouterr().out)["parts"]
    assert {part["name"] for part in parts} == {
        "shard_00000.parquet (train)",
        "shard_00003.parquet (validation)",
    }
    assert run("data", "cache", "--prune-days", 1) == 0
    assert len(list(shared_folder("tokens").glob("*/"))) == 2
    manifest, tokenizer = load_manifest(folder / "data"), Tokenizer.load(folder / "tokenizer")
    with downloads.open_tokens(folder / "tokens", manifest, tokenizer, "train"):
        assert run("data", "cache", "--prune-days", 0) == 2
    assert run("data", "cache", "--prune-days", 0) == 0
    assert not list(shared_folder("tokens").glob("*/"))
    assert pretrain(folder) == 0
