"""The token cache: the right ids, published window by window, and no way of failing that hangs a reader."""

import json
import shutil
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from chatsmith.data import tokens as token_cache
from chatsmith.data.dataset import load_manifest
from chatsmith.data.documents import Document
from chatsmith.data.tokens import (
    IDS,
    LOG,
    OFFSETS,
    PROGRESS,
    CacheWriter,
    TokenCache,
    part_end,
)
from chatsmith.ingest import tokenizing
from chatsmith.ingest.forms import write_documents
from chatsmith.ingest.survey import survey
from chatsmith.ingest.tokenizing import JOB, build, open_token_cache
from chatsmith.runtime.errors import UserError
from chatsmith.text.tokenizer import Tokenizer

TEXTS = ["The little fox.", "Where is my red ball?", "Grün 🙂 <|bos|> text", "It is under the tree."] * 5


@pytest.fixture
def run(tmp_path: Path, tokenizer: Tokenizer) -> Path:
    (tmp_path / "data").mkdir()
    write_documents(tmp_path / "data" / "train.parquet", TEXTS)
    write_documents(tmp_path / "data" / "validation.parquet", ["A held-out text."])
    survey([tmp_path / "data" / "train.parquet"], validation=[tmp_path / "data" / "validation.parquet"]).save(
        tmp_path / "data"
    )
    tokenizer.save(tmp_path / "tokenizer")
    return tmp_path


def opened(run: Path, split="train", **options) -> TokenCache:
    tokenizer = Tokenizer.load(run / "tokenizer")
    return open_token_cache(run / "tokens", load_manifest(run / "data"), tokenizer, split, **options)


def part_in(run: Path, split="train") -> Path:
    """The folder of the cache's only part."""
    (progress,) = (run / "tokens" / split).glob(f"*/{PROGRESS}")
    return progress.parent


def documents_in(cache: TokenCache) -> list[list[int]]:
    cache.wait_until_complete()
    found = []
    for window in range(cache.num_windows):
        offsets = cache.window_offsets(window)
        found += [cache.read(first, end).tolist() for first, end in pairwise(offsets)]
    return found


def documents(texts: list[str]) -> list[Document]:
    return [Document(text, "here") for text in texts]


def test_a_worker_fills_the_cache_with_every_document_s_ids(run, tokenizer):
    with opened(run) as cache:
        assert documents_in(cache) == [tokenizer.encode(text) for text in TEXTS]
        assert cache.bos_id == tokenizer.bos_id
        ids = cache.read(0, cache.num_ids)
        assert not np.isin(ids, [tokenizer.bos_id]).any(), "packing adds <|bos|>, and text cannot"
    with opened(run, "validation") as cache:
        assert documents_in(cache) == [tokenizer.encode("A held-out text.")]


def test_a_complete_cache_is_opened_without_a_worker(run):
    with opened(run) as cache:
        cache.wait_until_complete()
    (run / "tokens" / "train" / LOG).unlink()
    with opened(run) as cache:
        assert cache.is_complete
        assert not (run / "tokens" / "train" / LOG).exists()


def test_other_data_or_another_tokenizer_rebuild_the_cache(run, tokenizer):
    with opened(run) as cache:
        documents_in(cache)
    write_documents(run / "data" / "train.parquet", ["A new text."])
    survey([run / "data" / "train.parquet"], validation=[run / "data" / "validation.parquet"]).save(
        run / "data"
    )
    with opened(run) as cache:
        assert documents_in(cache) == [tokenizer.encode("A new text.")]


@pytest.mark.parametrize("damage", ["gone", "short"])
def test_a_damaged_cache_is_rebuilt(run, damage):
    with opened(run) as cache:
        expected = documents_in(cache)
    ids = part_in(run) / IDS
    ids.unlink() if damage == "gone" else ids.write_bytes(ids.read_bytes()[:-2])
    with opened(run) as cache:
        assert documents_in(cache) == expected


def test_the_worker_s_user_errors_reach_the_reader(run):
    with opened(run) as cache:
        cache.wait_until_complete()
    (part_in(run) / PROGRESS).unlink()
    (run / "data" / "train.parquet").write_bytes(b"PAR1 but not really")
    manifest = json.loads((run / "data" / "manifest.json").read_text())
    status = (run / "data" / "train.parquet").stat()
    manifest["documents"]["train"][0] |= {"bytes": status.st_size, "modified_ns": status.st_mtime_ns}
    (run / "data" / "manifest.json").write_text(json.dumps(manifest))
    for _ in range(2):  # the second time, the first one's error must not stand in the way of trying again
        with (
            opened(run) as cache,
            pytest.raises(UserError, match=r"train\.parquet is not a readable parquet"),
        ):
            cache.wait_for_window(0)


def test_a_worker_that_dies_is_an_error_and_not_a_hang(run, monkeypatch):
    monkeypatch.setattr(tokenizing.sys, "executable", "/bin/false")
    with opened(run) as cache, pytest.raises(UserError, match=r"ended with code 1.*Repeat the command"):
        cache.wait_for_window(0)


def test_a_reader_without_a_worker_does_not_wait_for_ever(tmp_path, monkeypatch):
    monkeypatch.setattr(token_cache, "_STALLED_SECONDS", 0.1)
    with pytest.raises(UserError, match="no new tokens"):
        TokenCache(tmp_path, "key").wait_for_window(0)


def test_an_interrupted_build_goes_on_where_it_stopped(tmp_path, tokenizer, monkeypatch):
    monkeypatch.setattr(tokenizing, "WINDOW_DOCUMENTS", 3)
    encoded: list[str] = []

    def encode(text: str) -> list[int]:
        if len(encoded) == 10:
            raise KeyboardInterrupt
        encoded.append(text)
        return tokenizer.encode(text)

    def writer() -> CacheWriter:
        return CacheWriter(tmp_path, "key", bos_id=tokenizer.bos_id, vocab_size=tokenizer.vocab_size)

    with pytest.raises(KeyboardInterrupt):
        build(writer(), documents(TEXTS), encode)
    with (tmp_path / IDS).open("ab") as file:
        file.write(b"half a window")
    cache = TokenCache(tmp_path, "key")
    assert cache.num_windows == 3 and not cache.is_complete

    encoded_before = len(encoded) - 1  # the tenth was in the window that was lost
    build(writer(), documents(TEXTS), tokenizer.encode)
    assert encoded_before == cache.progress[0].documents[-1]
    assert documents_in(TokenCache(tmp_path, "key")) == [tokenizer.encode(text) for text in TEXTS]


def test_windows_are_published_before_the_cache_is_complete(tmp_path, tokenizer):
    writer = CacheWriter(tmp_path, "key", bos_id=0, vocab_size=300)
    cache = TokenCache(tmp_path, "key")
    writer.add_window([[1, 2], [], [3]])
    assert cache.wait_for_window(0)
    assert cache.read(0, cache.num_ids).tolist() == [1, 2, 3] and cache.window_offsets(0).tolist() == [
        0,
        2,
        2,
        3,
    ]
    assert not cache.is_complete
    writer.add_window([[4]])
    writer.finish()
    assert cache.wait_for_window(1) and not cache.wait_for_window(2)
    assert cache.read(0, cache.num_ids).tolist() == [1, 2, 3, 4] and cache.window_offsets(1).tolist() == [
        3,
        4,
    ]


def test_windows_end_after_a_number_of_documents_or_characters(monkeypatch):
    monkeypatch.setattr(tokenizing, "WINDOW_DOCUMENTS", 3)
    monkeypatch.setattr(tokenizing, "WINDOW_CHARACTERS", 10)
    texts = ["a", "b", "c", "d", "x" * 20, "e", "f" * 9, "g"]
    grouped = [[d.text[0] for d in window] for window in tokenizing.windows(documents(texts))]
    assert grouped == [["a", "b", "c"], ["d", "x"], ["e", "f"], ["g"]]


def test_large_vocabularies_keep_their_ids(tmp_path):
    writer = CacheWriter(tmp_path, "key", bos_id=0, vocab_size=100_000)
    writer.add_window([[70_000, 99_999]])
    assert TokenCache(tmp_path, "key").read(0, 2).tolist() == [70_000, 99_999]


def test_threads_do_not_change_the_order(tmp_path, tokenizer):
    for folder, threads in ((tmp_path / "one", 1), (tmp_path / "four", 4)):
        build(
            CacheWriter(folder, "key", bos_id=0, vocab_size=400), documents(TEXTS), tokenizer.encode, threads
        )
    assert (tmp_path / "one" / IDS).read_bytes() == (tmp_path / "four" / IDS).read_bytes()


def worker_with(code: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the worker run `code` before it begins."""
    start = subprocess.Popen
    program = f"import sys; from pathlib import Path; from chatsmith.ingest import tokenizing\n{code}\n"
    program += "tokenizing.main(Path(sys.argv[1]), int(sys.argv[2]))"

    def changed(command, **options):
        assert command[1:4] == ["-P", "-m", "chatsmith.ingest.tokenizing"]
        return start([sys.executable, "-c", program, *command[4:]], **options)

    monkeypatch.setattr(tokenizing.subprocess, "Popen", changed)


def test_a_full_disk_is_one_line_for_the_reader(run, monkeypatch):
    full = "def full(*_): raise OSError(28, 'No space left on device')\nimport os\nos.fsync = full"
    worker_with(full, monkeypatch)
    with (
        opened(run) as cache,
        pytest.raises(UserError, match=r"disk is full|cannot grow \(No space") as caught,
    ):
        cache.wait_for_window(0)
    assert "\n" not in str(caught.value)


def test_a_killed_worker_is_one_line_for_the_reader(run, monkeypatch):
    worker_with("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", monkeypatch)
    with opened(run) as cache, pytest.raises(UserError, match=r"killed by signal 9 .*Repeat the command"):
        cache.wait_for_window(0)


def test_a_worker_that_is_killed_as_it_publishes_leaves_nothing_behind(run, monkeypatch):
    worker_with(
        "import os, signal\nPath.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)", monkeypatch
    )
    with opened(run) as cache:
        assert cache._worker
        cache._worker.wait(60)
        assert list(run.rglob(".*.tmp"))
    assert not list(run.rglob(".*.tmp"))


def test_an_error_in_the_worker_ends_it_quietly(run, monkeypatch):
    """The interpreter's shutdown must not find its stdin locked by the thread that follows the demand."""
    worker_with("def fail(*_): raise ZeroDivisionError\ntokenizing.build = fail", monkeypatch)
    with opened(run) as cache, pytest.raises(UserError, match="ended with code 1"):
        cache.wait_for_window(0)
    log = (run / "tokens" / "train" / LOG).read_text()
    assert "ZeroDivisionError" in log and "Fatal" not in log


def test_the_worker_ends_with_the_process_that_started_it(run):
    with opened(run) as cache:
        cache.wait_until_complete()
    # Stops where it would read the text, so that only its parent's end can end it.
    stopped = (
        "import sys, time; from pathlib import Path; from chatsmith.ingest import tokenizing as t;"
        "t.CacheWriter = lambda *_, **__: time.sleep(600); t.main(Path(sys.argv[1]), 2)"
    )
    job = str(run / "tokens" / "train" / JOB)
    worker = subprocess.Popen([sys.executable, "-c", stopped, job], stdin=subprocess.PIPE)
    assert worker.stdin
    try:
        with pytest.raises(subprocess.TimeoutExpired):
            worker.wait(1)
        worker.stdin.close()
        assert worker.wait(120) == 3
    finally:
        worker.kill()


def test_closing_stops_a_worker_at_once(run, monkeypatch):
    worker_with("import time\ntokenizing.CacheWriter = lambda *_, **__: time.sleep(600)", monkeypatch)
    cache = opened(run)
    worker = cache._worker
    assert worker
    cache.close()  # would wait for it all the while
    assert worker.poll() is not None
    cache.close()


def test_the_worker_imports_no_torch():
    code = "import sys, chatsmith.ingest.tokenizing; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_manifest_is_checked_before_a_worker_starts(run):
    (run / "data" / "train.parquet").unlink()
    with pytest.raises(UserError, match="is gone"):
        opened(run)
    with pytest.raises(UserError):
        load_manifest(run / "data")


def test_asking_a_worker_that_has_ended_for_more_is_no_error_nor_is_closing_after_it(tmp_path: Path) -> None:
    worker = subprocess.Popen([sys.executable, "-c", "pass"], stdin=subprocess.PIPE, bufsize=0)
    worker.wait()
    cache = TokenCache(tmp_path, "key", worker)
    cache.close()


def test_on_a_full_disk_tokenizing_waits_with_a_line_and_goes_on_when_there_is_room(run, monkeypatch, capfd):
    """Whichever file there is no room for; what was half-written of a window is taken back."""
    with opened(run) as cache:
        expected = documents_in(cache)
    shutil.rmtree(part_in(run))
    worker_with(
        "import os; fsync, calls = os.fsync, []\n"
        "def full(descriptor):\n"
        "    calls.append(descriptor)\n"
        "    if len(calls) in (1, 4, 5, 7, 9, 12):\n"
        "        raise OSError(28, 'No space left on device')\n"
        "    fsync(descriptor)\n"
        "from chatsmith.runtime import atomic\nos.fsync, atomic.POLL_SECONDS = full, 0.01",
        monkeypatch,
    )
    with opened(run, disk_wait=60.0) as cache:
        assert documents_in(cache) == expected
    said = capfd.readouterr().err.splitlines()
    line = "chatsmith: the disk is full: waiting up to 1 min 00 s for room in "
    assert said and all(one.startswith(line) for one in said)


def bit_flips(path: Path) -> list[bytes]:
    """The file with one bit flipped, at a dozen places."""
    content = path.read_bytes()
    places = np.random.default_rng(0).integers(0, 8 * len(content), 12)
    flipped = []
    for place in places:
        changed = bytearray(content)
        changed[place // 8] ^= 1 << (place % 8)
        flipped.append(bytes(changed))
    return flipped


@pytest.mark.parametrize("name", [IDS, OFFSETS, PROGRESS])
def test_one_flipped_bit_is_one_clear_line_or_the_text_is_tokenized_again(run, name):
    with opened(run) as cache:
        expected = documents_in(cache)
    path = part_in(run) / name
    good = path.read_bytes()
    for flipped in bit_flips(path):
        path.write_bytes(flipped)
        with opened(run) as cache:
            if name == PROGRESS:
                assert documents_in(cache) == expected
                continue
            with pytest.raises(UserError, match=r"tokens in .* are damaged .* delete that folder") as caught:
                documents_in(cache)
            assert "\n" not in str(caught.value)
        path.write_bytes(good)


def as_format_1(folder: Path, **changes: object) -> None:
    """Make the cache what earlier versions wrote, which had no hashes."""
    progress = json.loads((folder / PROGRESS).read_text())
    del progress["hashes"], progress["hash"]
    progress |= {"format_version": 1, "user_error": None, **changes}
    (folder / PROGRESS).write_text(json.dumps(progress))


def test_a_cache_of_format_1_is_read_without_a_worker_and_its_offsets_are_checked(run, monkeypatch):
    with opened(run) as cache:
        expected = documents_in(cache)
    folder = part_in(run)
    as_format_1(folder)
    monkeypatch.setattr(tokenizing, "_start_worker", None)
    with opened(run) as cache:
        assert documents_in(cache) == expected
    offsets = np.fromfile(folder / OFFSETS, np.int64)
    offsets[3] = 1 << 62
    offsets.tofile(folder / OFFSETS)
    with opened(run) as cache, pytest.raises(UserError, match="damaged"):
        documents_in(cache)


def test_an_unfinished_cache_of_format_1_is_continued(tmp_path, tokenizer):
    texts = [tokenizer.encode(text) for text in TEXTS]
    writer = CacheWriter(tmp_path, "key", bos_id=0, vocab_size=400)
    writer.add_window(texts[:7])
    as_format_1(tmp_path)
    writer = CacheWriter(tmp_path, "key", bos_id=0, vocab_size=400)
    writer.add_window(texts[7:])
    writer.finish()
    assert documents_in(TokenCache(tmp_path, "key")) == texts
    assert writer.progress.hashes[0] == "" and writer.progress.hashes[1]


def test_the_worker_is_always_asked_for_the_part_after_the_one_that_is_read():
    assert [part_end(part) for part in range(4)] == [1, 3, 7, 15]
    for part in range(1, 5):
        for window in range(part_end(part - 1), part_end(part)):
            assert part_end((window + 1).bit_length()) == part_end(part + 1)
