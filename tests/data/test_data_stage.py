"""`chatsmith data prepare` and `data inspect`: what they write, skip, refuse and show."""

import json
from pathlib import Path

import pytest

from chatsmith.cli.data import Config, main
from chatsmith.cli.inspect_data import InspectConfig, inspect
from chatsmith.data.dataset import load_manifest
from chatsmith.ingest.forms import write_documents
from chatsmith.runtime.errors import UserError
from chatsmith.runtime.run_directory import RunDirectory
from chatsmith.text.tokenizer import Tokenizer


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    folder = tmp_path / "corpus"
    folder.mkdir()
    (folder / "book.txt").write_text("".join(f"Chapter {n}. The fox ran home.\n\n" * 20 for n in range(100)))
    messages = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hi there"}]
    lines = (json.dumps({"messages": messages, "id": number}) + "\n" for number in range(3))
    (folder / "talks.jsonl").write_text("".join(lines))
    return folder


def files_of(folder: Path) -> dict[str, tuple[bytes, int]]:
    return {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.iterdir()}


def test_prepare_writes_a_manifest_and_its_figures(tmp_path, corpus, capsys):
    main(Config(tmp_path / "run", data=(corpus,)))
    run = RunDirectory(tmp_path / "run")
    manifest = load_manifest(run.data)
    assert manifest.documents.train_items > 1 and manifest.documents.validation_items == 1
    facts = run.done_facts("data")
    assert facts and facts["documents"] == manifest.documents.train_items
    shown = capsys.readouterr().out
    assert "book.txt" in shown and "held out by content" in shown


def test_prepare_takes_conversations_of_any_form_along_into_the_run(tmp_path, corpus, capsys):
    talks = [
        {"conversations": [{"from": "human", "value": f"Hello {number}"}, {"from": "gpt", "value": "Hi"}]}
        for number in range(4)
    ]
    (tmp_path / "share.json").write_text(json.dumps(talks))
    config = Config(tmp_path / "run", data=(corpus / "book.txt",), conversations=(tmp_path / "share.json",))
    main(config)
    assert "converted from sharegpt" in capsys.readouterr().out
    (tmp_path / "run").rename(tmp_path / "moved")
    (tmp_path / "share.json").rename(tmp_path / "elsewhere.json")
    manifest = load_manifest(tmp_path / "moved" / "data")
    assert manifest.conversations
    (file,) = manifest.conversations.train
    assert (file.form, Path(file.origin).name, file.items) == ("sharegpt", "share.json", 4)
    assert len([*manifest.read_conversations("train"), *manifest.read_conversations("validation")]) == 4


def test_prepare_again_changes_nothing_until_something_changed(tmp_path, corpus, capsys):
    config = Config(tmp_path / "run", data=(corpus,))
    main(config)
    before = files_of(tmp_path / "run" / "data")
    main(config)
    assert files_of(tmp_path / "run" / "data") == before
    assert "up to date" in capsys.readouterr().out

    write_documents(corpus / "more.parquet", ["One more document."])
    main(config)
    manifest = load_manifest(tmp_path / "run" / "data")
    assert {file.path.name for file in manifest.documents.train} == {"book.txt", "more.parquet"}


def test_a_failed_prepare_leaves_what_was_there(tmp_path, corpus):
    main(Config(tmp_path / "run", data=(corpus,)))
    before = files_of(tmp_path / "run" / "data")
    (corpus / "broken.parquet").write_bytes(b"nothing")
    with pytest.raises(UserError, match=r"broken\.parquet"):
        main(Config(tmp_path / "run", data=(corpus,)))
    assert files_of(tmp_path / "run" / "data") == before


def test_data_inside_the_folder_that_is_replaced_is_refused_and_left_alone(tmp_path):
    inside = tmp_path / "run" / "data" / "mine.txt"
    inside.parent.mkdir(parents=True)
    inside.write_text("Precious text. " * 100)
    with pytest.raises(UserError, match="made anew"):
        main(Config(tmp_path / "run", data=(inside,)))
    assert inside.exists()


@pytest.mark.parametrize(
    "wrong",
    [{"data": ()}, {"held_out": 0.0}, {"held_out": 0.9}, {"kindergarten_documents": 0}, {"seed": -1}],
    ids=str,
)
def test_impossible_settings_are_refused(wrong):
    with pytest.raises(UserError):
        Config(**wrong)


def test_inspect_shows_every_step_of_a_run(tmp_path, corpus, tokenizer: Tokenizer, capsys):
    main(Config(tmp_path / "run", data=(corpus,)))
    tokenizer.save(tmp_path / "run" / "tokenizer")
    inspect(InspectConfig(tmp_path / "run", documents=2, sequence_length=32))
    shown = capsys.readouterr().out
    for part in ("book.txt, part 1", "bytes a token", "tokens dropped", "\n  [---", "learns to say"):
        assert part in shown


def test_inspect_needs_no_run_and_no_tokenizer(tmp_path, corpus, capsys):
    inspect(InspectConfig(tmp_path / "no-run", data=(corpus,), documents=1))
    shown = capsys.readouterr().out
    assert "Chapter 0" in shown and "no tokenizer yet" in shown
    assert not (tmp_path / "no-run").exists()


def test_inspect_without_data_says_what_to_do(tmp_path):
    with pytest.raises(UserError, match="data prepare"):
        inspect(InspectConfig(tmp_path / "no-run"))


def test_escape_sequences_in_the_data_do_not_reach_the_terminal(tmp_path, tokenizer: Tokenizer, capsys):
    (tmp_path / "a.txt").write_text("harmless \x1b[2J text\r over\x07 " * 30)
    tokenizer.save(tmp_path / "tokenizer")
    inspect(InspectConfig(data=(tmp_path / "a.txt",), tokenizer=tmp_path / "tokenizer"))
    assert not set(capsys.readouterr().out) & set("\x1b\r\x07")


def test_kindergarten_is_generated_into_the_run_and_moves_with_it(tmp_path):
    small = {"kindergarten_documents": 60, "kindergarten_conversations": 50, "kindergarten_validation": 5}
    main(Config(tmp_path / "run", **small))
    (tmp_path / "run").rename(tmp_path / "moved")
    manifest = load_manifest(tmp_path / "moved" / "data")
    assert manifest.source == "kindergarten"
    assert manifest.documents.train_items == len(list(manifest.read_documents("train"))) == 60
    assert manifest.conversations and manifest.conversations.method == "files"
    assert len(list(manifest.read_conversations("validation"))) == 5

    main(Config(tmp_path / "again", **small))
    assert load_manifest(tmp_path / "again" / "data").fingerprint == manifest.fingerprint


def test_kindergarten_in_a_run_named_relatively_is_found_from_elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    sizes = {"kindergarten_documents": 4, "kindergarten_conversations": 4, "kindergarten_validation": 2}
    main(Config(Path("runs/mine"), **sizes))
    monkeypatch.chdir("/")
    assert load_manifest(tmp_path / "runs" / "mine" / "data").documents.train_items == 4
