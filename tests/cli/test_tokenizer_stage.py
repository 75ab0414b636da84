"""The stage: what it writes, when it skips, when it works again, and what it says."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from chatsmith.cli.tokenizer import Config, main
from chatsmith.ingest.survey import survey
from chatsmith.runtime.errors import UserError
from chatsmith.runtime.run_directory import RunDirectory
from chatsmith.text.tokenizer import Tokenizer, train_tokenizer


@pytest.fixture
def config(tmp_path: Path) -> Config:
    """A run whose data is prepared: forty small documents, and conversations with a word of their own."""
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    documents = [f"The cat number {number} sat on the mat near the door. " * 20 for number in range(40)]
    (corpus / "text.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in documents))
    conversation = {
        "messages": [
            {"role": "user", "content": "How many bananas?"},
            {"role": "assistant", "content": [{"type": "text", "text": "bananas bananas bananas"}]},
        ]
    }
    lines = [json.dumps(conversation | {"id": number}) for number in range(30)]
    (tmp_path / "chat.jsonl").write_text("\n".join(lines))
    run = tmp_path / "run"
    (run / "data").mkdir(parents=True)
    survey([corpus], conversations=[tmp_path / "chat.jsonl"]).save(run / "data")
    return Config(run, vocab_size=400)


def test_a_tokenizer_is_written_and_its_figures_are_kept_and_shown(
    config: Config, capsys, monkeypatch, tmp_path
):
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path / "no vocabularies here"))
    main(config)
    run = RunDirectory(config.run)
    tokenizer = Tokenizer.load(run.tokenizer)
    facts = run.done_facts("tokenizer")
    assert facts is not None
    assert tokenizer.vocab_size == facts["vocab_size"] <= 400
    assert tokenizer.fingerprint == facts["fingerprint"]
    assert facts["bytes_per_token"] > 1.5
    assert len(tokenizer.encode(" bananas")) < len(" bananas"), "conversations are learnt from too"
    printed = capsys.readouterr().out
    for expected in ("this tokenizer", f"{facts['bytes_per_token']:.2f}", "⏎"):
        assert expected in printed
    assert printed.count("not available offline") == 2


def test_a_second_run_skips_and_a_changed_or_damaged_one_does_not(config: Config, capsys):
    main(config)
    file = RunDirectory(config.run).tokenizer / "tokenizer.json"
    first = file.read_text()
    written = file.stat().st_mtime_ns
    capsys.readouterr()

    main(config)
    assert "up to date" in capsys.readouterr().out and file.stat().st_mtime_ns == written

    file.write_text(first[:100])
    main(config)
    assert file.read_text() == first, "a damaged file is made again, the same as before"

    train_tokenizer(["another corpus"], 300).save(file.parent)
    main(config)
    assert file.read_text() == first, "so is one that somebody replaced"

    main(replace(config, vocab_size=300))
    assert Tokenizer.load(file).vocab_size == 300


def test_a_corpus_too_small_for_the_vocabulary_is_said_in_a_notice(config: Config, capsys):
    main(replace(config, vocab_size=100_000))
    assert "too small for 100,000 tokens" in capsys.readouterr().out


def test_a_small_sample_still_trains_and_stays_within_its_size(config: Config, capsys):
    main(replace(config, sample_megabytes=0.005))
    assert Tokenizer.load(RunDirectory(config.run).tokenizer).vocab_size > 285
    assert "100% of 5,000 characters" in capsys.readouterr().out


def test_impossible_settings_and_missing_data_are_one_line_errors(tmp_path: Path):
    with pytest.raises(UserError, match="vocab_size is 284; it must be at least 285"):
        Config(tmp_path, vocab_size=284)
    for megabytes in (0.0, -1.0, float("nan")):
        with pytest.raises(UserError, match=r"must be .*above 0"):
            Config(tmp_path, sample_megabytes=megabytes)
    with pytest.raises(UserError, match="chatsmith data prepare"):
        main(Config(tmp_path / "empty"))
    assert not (tmp_path / "empty" / "tokenizer").exists()
