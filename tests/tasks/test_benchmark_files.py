"""Fetching benchmarks from servers of our own: layout, conversion, checks, attempts, mirrors."""

import base64
import gzip
import hashlib
import io
import json
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
from tiktoken.load import load_tiktoken_bpe

from chatsmith.cli import data as commands
from chatsmith.cli.config import DownloadConfig
from chatsmith.runtime.errors import UserError
from chatsmith.tasks import benchmark_files
from chatsmith.tasks.benchmark_files import Origin, fetch, find_file, note_about, origins
from chatsmith.tasks.multiple_choice import arc_questions, mmlu_questions
from chatsmith.text.tokenizer import byte_alphabet
from tests.hub_server import Hub, Repo, Trouble, serving


@dataclass
class Server:
    """What it has, by path; and what it was asked."""

    address: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    failures: dict[str, int] = field(default_factory=dict)
    """Paths that answer 503 so many times first."""
    asked: list[str] = field(default_factory=list)


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            server.asked.append(self.path)
            path = self.path.lstrip("/")
            if server.failures.get(path, 0) > 0:
                server.failures[path] -= 1
                self.send_error(503)
            elif path in server.files:
                self.send_response(200)
                self.send_header("Content-Length", str(len(server.files[path])))
                self.end_headers()
                self.wfile.write(server.files[path])
            else:
                self.send_error(404)

        def log_message(self, *_: object) -> None:
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.address = f"http://127.0.0.1:{http.server_port}"
    thread = threading.Thread(target=http.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield server
    http.shutdown()
    http.server_close()


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    benchmark_files._repository.cache_clear()
    with serving() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.address)
        monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
        yield hub


@pytest.fixture(autouse=True)
def no_waiting_and_a_cache_of_its_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub-cache"))


def got(server: Server, folder: Path, *wanted: Origin, mirror: str = "") -> list[str]:
    github = f"{server.address}/git"
    notices = [fetch(origin, folder, mirror=mirror, github=github) for origin in wanted]
    return [notice for notice in notices if notice]


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def parquet(rows: list[dict]) -> bytes:
    buffer = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), buffer)
    return buffer.getvalue()


def test_a_file_comes_from_where_its_authors_keep_it(server: Server, tmp_path: Path):
    content = b'{"question": "?", "answer": "#### 1"}\n'
    server.files["git/owner/repo/main/data/test.jsonl"] = content
    origin = Origin("gsm8k/test.jsonl", "github:owner/repo/main/data/test.jsonl", sha256(content))
    assert got(server, tmp_path, origin) == []
    assert (tmp_path / "gsm8k" / "test.jsonl").read_bytes() == content
    assert server.asked == ["/git/owner/repo/main/data/test.jsonl"]


def test_compressed_files_and_windows_line_ends_are_made_plain(server: Server, tmp_path: Path):
    server.files["git/a/b/c/x.jsonl.gz"] = gzip.compress(b"{}\n")
    server.files["git/a/b/c/words.txt"] = b"one\r\ntwo\r\n"
    got(
        server,
        tmp_path,
        Origin("humaneval/HumanEval.jsonl", "github:a/b/c/x.jsonl.gz", sha256(b"{}\n")),
        Origin("words/words_alpha.txt", "github:a/b/c/words.txt", sha256(b"one\ntwo\n")),
    )
    assert (tmp_path / "humaneval/HumanEval.jsonl").read_bytes() == b"{}\n"
    assert (tmp_path / "words/words_alpha.txt").read_text() == "one\ntwo\n"


def test_the_hubs_tables_become_what_the_tasks_read(server: Server, hub: Hub, tmp_path: Path):
    """Also: choices that an exam numbers get letters."""
    arc_rows = [
        {
            "id": "q1",
            "question": "Größe?",
            "choices": {"text": ["a", "b"], "label": ["1", "2"]},
            "answerKey": "2",
        },
        {"id": "q2", "question": "?", "choices": {"text": ["a", "b"], "label": ["A", "B"]}, "answerKey": "A"},
    ]
    mmlu_rows = [{"question": "?", "subject": "law", "choices": ["a", "b", "c", "d"], "answer": 3}]
    hub.dataset("allenai/ai2_arc", {"ARC-Easy/test.parquet": parquet(arc_rows)})
    hub.dataset("cais/mmlu", {"all/test.parquet": parquet(mmlu_rows)})
    notices = got(
        server,
        tmp_path,
        Origin("arc/easy-test.jsonl", "hub:allenai/ai2_arc/ARC-Easy/test.parquet"),
        Origin("mmlu/test.jsonl", "hub:cais/mmlu/all/test.parquet", sha256=sha256(b"something else")),
    )
    assert len(notices) == 1 and "mmlu/test.jsonl" in notices[0], "used, and its scores are labelled"
    questions = arc_questions("easy", "test", tmp_path)
    assert [(question.question, question.gold) for question in questions] == [("Größe?", 1), ("?", 0)]
    assert [question.gold for question in mmlu_questions("test", tmp_path)] == [3]
    first = json.loads((tmp_path / "arc/easy-test.jsonl").read_text().splitlines()[0])
    assert first["choices"]["label"] == ["A", "B"] and first["answerKey"] == "B"


def test_a_model_s_tokenizer_becomes_tiktoken_s_file(server: Server, hub: Hub, tmp_path: Path):
    """GPT-2's and GPT-4's tables are told by tiktoken's own hashes, so they are checked whosever repository it was."""
    vocab = byte_alphabet() | {"Ġa": 256, "<|end|>": 257}
    content = {"added_tokens": [{"id": 257, "content": "<|end|>"}], "model": {"vocab": vocab}}
    hub.repos["models/owner/gpt"] = Repo({"tokenizer.json": json.dumps(content).encode()})
    tokens = [*(bytes([byte]) for byte in range(256)), b" a"]
    expected = b"".join(b"%s %d\n" % (base64.b64encode(token), rank) for rank, token in enumerate(tokens))
    origin = Origin("vocabularies/gpt.tiktoken", "hub-model:owner/gpt/tokenizer.json", sha256(expected))
    assert got(server, tmp_path, origin) == []
    assert load_tiktoken_bpe(str(tmp_path / origin.path)) == {
        token: rank for rank, token in enumerate(tokens)
    }
    with pytest.raises(UserError, match="is not the file it was"):
        got(server, tmp_path, replace(origin, sha256="0" * 64))


def test_vocabularies_are_fetched_by_name_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    fetched: list[str] = []
    monkeypatch.setattr(commands, "fetch", lambda origin, folder, **_: fetched.append(origin.path))
    commands.download(DownloadConfig(names=("benchmarks",), eval_data=tmp_path))
    assert fetched and not [path for path in fetched if path.startswith("vocabularies/")]
    fetched.clear()
    commands.download(DownloadConfig(names=("vocabularies",), eval_data=tmp_path))
    assert fetched == [path for path in origins() if path.startswith("vocabularies/")] and len(fetched) == 2


def test_a_file_that_is_not_the_expected_one_is_not_kept(server: Server, tmp_path: Path):
    server.files["git/a/b/c/test.jsonl"] = b"altered"
    origin = Origin("gsm8k/test.jsonl", "github:a/b/c/test.jsonl", sha256(b"original"))
    with pytest.raises(UserError, match="not the file it was"):
        got(server, tmp_path, origin)
    assert list(tmp_path.rglob("*.jsonl")) == []


def test_damage_on_the_way_is_seen_by_the_hubs_own_hash(server: Server, hub: Hub, tmp_path: Path):
    rows = [{"question": "?", "subject": "law", "choices": ["a", "b"], "answer": 1}]
    hub.dataset("cais/mmlu", {"all/test.parquet": parquet(rows)})
    hub.trouble["all/test.parquet"] = Trouble("damage")
    origin = Origin("mmlu/test.jsonl", "hub:cais/mmlu/all/test.parquet")
    with pytest.raises(UserError, match="damaged on the way"):
        got(server, tmp_path, origin)
    assert not (tmp_path / "mmlu").exists()
    got(server, tmp_path, origin)
    assert len(mmlu_questions("test", tmp_path)) == 1


def test_what_cannot_be_read_is_named(server: Server, hub: Hub, tmp_path: Path):
    hub.dataset("cais/mmlu", {"all/test.parquet": b"<html>no table</html>"})
    with pytest.raises(UserError, match=r"what came for mmlu/test\.jsonl cannot be read") as refusal:
        got(server, tmp_path, Origin("mmlu/test.jsonl", "hub:cais/mmlu/all/test.parquet"))
    assert "\n" not in str(refusal.value)


def test_a_server_that_is_busy_is_asked_again_and_one_that_has_nothing_is_not(server: Server, tmp_path: Path):
    server.files["git/a/b/c/x.jsonl"] = b"{}\n"
    server.failures["git/a/b/c/x.jsonl"] = 2
    got(server, tmp_path, Origin("gsm8k/test.jsonl", "github:a/b/c/x.jsonl", sha256(b"{}\n")))
    assert len(server.asked) == 3
    with pytest.raises(UserError, match="404"):
        got(server, tmp_path, Origin("gsm8k/train.jsonl", "github:a/b/c/gone.jsonl"))
    assert len(server.asked) == 4


def test_an_unreachable_server_is_one_line(tmp_path: Path):
    with pytest.raises(UserError, match="cannot be fetched") as error:
        fetch(Origin("x.jsonl", "github:a/b/c/x"), tmp_path, github="http://127.0.0.1:9")
    assert "\n" not in str(error.value)


def test_a_mirror_has_our_layout_and_is_checked_too(server: Server, tmp_path: Path):
    server.files["copy/gsm8k/test.jsonl"] = b"{}\n"
    origin = Origin("gsm8k/test.jsonl", "github:a/b/c/test.jsonl", sha256(b"{}\n"))
    got(server, tmp_path, origin, mirror=f"{server.address}/copy/")
    assert server.asked == ["/copy/gsm8k/test.jsonl"]
    server.files["copy/gsm8k/test.jsonl"] = b"altered"
    with pytest.raises(UserError, match="not the file it was"):
        got(server, tmp_path, origin, mirror=f"{server.address}/copy")


def test_scores_on_remade_or_unknown_files_are_labelled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    file = tmp_path / "squad.jsonl"
    file.write_bytes(b"remade")
    known = {
        "squad.jsonl": Origin("squad.jsonl", "", None, sha256(b"remade"), "a rebuilt subset"),
        "other.jsonl": Origin("other.jsonl", "", sha256(b"published")),
    }
    monkeypatch.setattr("chatsmith.tasks.benchmark_files.origins", lambda: known)
    assert note_about(file, "squad.jsonl") == "a rebuilt subset"
    assert "not the published one" in note_about(file, "other.jsonl")
    file.write_bytes(b"published")
    assert note_about(file, "other.jsonl") == ""
    assert note_about(file, "never heard of") == ""


@pytest.mark.shared_data
def test_the_shared_files_are_those_of_the_table(benchmarks: Path):
    """Every file, byte for byte: published ones carry no note, the three remade ones theirs."""
    noted = {}
    for path in (path for path in origins() if not path.startswith("vocabularies/")):
        note = note_about(find_file(benchmarks, path), path)
        if note:
            noted[path.rpartition("/")[2]] = note
    assert noted.keys() == {"hellaswag.jsonl", "coqa.jsonl", "squad.jsonl"}
    assert "4,398 of 10,570" in noted["squad.jsonl"]
