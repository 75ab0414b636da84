"""GPT-2's and GPT-4's vocabularies: used when they lie in tiktoken's cache, and never downloaded."""

import hashlib
import inspect
import socket

import pytest
import tiktoken
import tiktoken_ext.openai_public

from chatsmith.report import reference_vocabularies
from chatsmith.report.reference_vocabularies import REFERENCE_VOCABULARIES, load_offline
from chatsmith.runtime.atomic import write_bytes


@pytest.mark.parametrize("vocabulary", REFERENCE_VOCABULARIES, ids=lambda vocabulary: vocabulary.name)
def test_addresses_and_hashes_are_still_those_of_tiktoken(vocabulary):
    source = inspect.getsource(getattr(tiktoken_ext.openai_public, vocabulary.encoding))
    assert vocabulary.url in source and vocabulary.sha256 in source


@pytest.mark.parametrize("content", [None, b"not the vocabulary"])
def test_a_missing_or_damaged_file_is_neither_downloaded_nor_deleted(tmp_path, monkeypatch, content):
    def no_network(*arguments, **options):
        raise AssertionError("the network was touched")

    monkeypatch.setattr(socket, "getaddrinfo", no_network)
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(reference_vocabularies, "default_folder", lambda: tmp_path / "nothing")
    for vocabulary in REFERENCE_VOCABULARIES:
        file = tmp_path / hashlib.sha1(vocabulary.url.encode()).hexdigest()
        if content is not None:
            file.write_bytes(content)
        assert load_offline(vocabulary) is None
        assert file.exists() == (content is not None)


def test_a_downloaded_file_is_put_where_tiktoken_looks(tmp_path, monkeypatch):
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path / "tiktoken"))
    monkeypatch.setattr(reference_vocabularies, "default_folder", lambda: tmp_path)
    monkeypatch.setattr(tiktoken, "get_encoding", lambda name: name)
    content = b"IQ== 0\n"
    vocabulary = REFERENCE_VOCABULARIES[0]._replace(sha256=hashlib.sha256(content).hexdigest())
    write_bytes(tmp_path / "vocabularies" / f"{vocabulary.encoding}.tiktoken", content)
    assert load_offline(vocabulary) == vocabulary.encoding
    kept = tmp_path / "tiktoken" / hashlib.sha1(vocabulary.url.encode()).hexdigest()
    assert kept.read_bytes() == content


def test_a_switched_off_cache_has_nothing(monkeypatch):
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", "")
    assert all(load_offline(vocabulary) is None for vocabulary in REFERENCE_VOCABULARIES)


def test_a_cache_that_cannot_be_written_costs_the_comparison_alone(tmp_path, monkeypatch):
    """Of another user, say: the tokenizer is trained, and its report lacks a column."""
    (tmp_path / "cache").write_text("a file where the folder should be")
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(reference_vocabularies, "default_folder", lambda: tmp_path)
    content = b"IQ== 0\n"
    vocabulary = REFERENCE_VOCABULARIES[0]._replace(sha256=hashlib.sha256(content).hexdigest())
    write_bytes(tmp_path / "vocabularies" / f"{vocabulary.encoding}.tiktoken", content)
    assert load_offline(vocabulary) is None
