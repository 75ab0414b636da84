"""The split: nothing that is measured on is trained on, whoever chose it, and the manifest tells of changes."""

import json
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chatsmith.data.dataset import DataManifest, content_digest, load_manifest
from chatsmith.ingest.forms import write_documents
from chatsmith.ingest.survey import survey
from chatsmith.runtime.errors import UserError


def write(path: Path, *texts: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_documents(path, texts)
    return path


def chat(path: Path, *greetings: str) -> Path:
    messages = (
        [{"role": "user", "content": text}, {"role": "assistant", "content": "Hello"}] for text in greetings
    )
    path.write_text("".join(json.dumps({"messages": each}) + "\n" for each in messages))
    return path


def texts(manifest: DataManifest, split) -> list[str]:
    return [document.text for document in manifest.read_documents(split)]


def both(manifest: DataManifest) -> tuple[list[str], list[str]]:
    found = texts(manifest, "train"), texts(manifest, "validation")
    assert len(found[0]) == manifest.documents.train_items
    assert len(found[1]) == manifest.documents.validation_items
    return found


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.integers(0, 30), min_size=2, max_size=60).filter(lambda n: len(set(n)) > 1),
    st.floats(1e-6, 0.5),
)
def test_a_hold_out_shares_no_document_with_training_and_neither_is_empty(tmp_path_factory, numbers, share):
    file = write(tmp_path_factory.mktemp("d") / "a.parquet", *(f"text {number}" for number in numbers))
    train, validation = both(survey([file], held_out=share))
    assert not set(train) & set(validation)
    assert train and validation
    assert sorted(train + validation) == sorted(f"text {number}" for number in numbers)


def test_a_hold_out_does_not_depend_on_order_or_neighbours(tmp_path):
    numbers = [f"text {number}" for number in range(1000)]
    one = survey([write(tmp_path / "a.parquet", *numbers)], held_out=0.1)
    other = survey([write(tmp_path / "b.parquet", *reversed(numbers), "more")], held_out=0.1)
    assert set(texts(one, "validation")) <= set(texts(other, "validation"))
    assert 60 < one.documents.validation_items < 140


def test_named_validation_files_are_kept_out_of_training_and_so_are_their_texts(tmp_path):
    write(tmp_path / "a.parquet", "one", "two", "three")
    kept = write(tmp_path / "z.parquet", "two", "four")
    manifest = survey([tmp_path], validation=[kept])
    assert both(manifest) == (["one", "three"], ["two", "four"])
    assert any("1 training documents are also in validation" in notice for notice in manifest.notices)


@pytest.mark.parametrize(
    "name",
    [
        "validation.parquet",
        "val/x.parquet",
        "chat_val.parquet",
        "validation-00000-of-00002.parquet",
        "x.valid.parquet",
    ],
)
def test_files_called_validation_are_used_as_such(tmp_path, name):
    write(tmp_path / "in" / "a.parquet", "one", "two")
    write(tmp_path / "in" / name, "three")
    assert both(survey([tmp_path / "in"])) == (["one", "two"], ["three"])


@pytest.mark.parametrize(
    "name", ["evaluation.parquet", "ovals.parquet", "my_validity.parquet", "contest.parquet"]
)
def test_names_that_only_contain_the_words_mean_nothing(tmp_path, name):
    write(tmp_path / "a.parquet", "one", "two")
    write(tmp_path / name, "three")
    assert survey([tmp_path]).documents.method == "content"


def test_test_files_in_a_folder_are_never_trained_on_unless_named(tmp_path):
    write(tmp_path / "a.parquet", "one", "two")
    exam = write(tmp_path / "a_test.parquet", "exam")
    manifest = survey([tmp_path])
    assert "exam" not in texts(manifest, "train") + texts(manifest, "validation")
    assert any("a_test.parquet" in notice for notice in manifest.notices)
    named = survey([exam, tmp_path / "a.parquet"])
    assert "exam" in texts(named, "train") + texts(named, "validation")


def test_the_last_file_of_a_folder_is_not_taken_for_validation(tmp_path):
    for name in ("shard_0.parquet", "shard_1.parquet"):
        write(tmp_path / name, *(f"{name} {number}" for number in range(50)))
    manifest = survey([tmp_path], held_out=0.2)
    assert {text[:7] for text in texts(manifest, "validation")} == {"shard_0", "shard_1"[:7]}
    assert {text.split()[0] for text in texts(manifest, "train")} == {"shard_0.parquet", "shard_1.parquet"}


def test_a_single_document_is_cut_in_two_and_it_is_announced(tmp_path):
    words = " ".join(f"word{number}" for number in range(300))
    (tmp_path / "a.txt").write_text(words)
    manifest = survey([tmp_path / "a.txt"])
    (train,), (validation,) = both(manifest)
    assert train + validation == words
    assert 0.05 < len(validation) / len(words) < 0.2
    assert validation.startswith("word")
    assert any("only one document" in notice for notice in manifest.notices)


def test_one_text_again_and_again_is_refused_and_not_split_with_itself(tmp_path):
    (tmp_path / "huge.txt").write_text("word " * 16_000)
    with pytest.raises(UserError, match=r"huge\.txt: all 10 documents in there are the same text") as caught:
        survey([tmp_path / "huge.txt"])
    assert "\n" not in str(caught.value)
    write(tmp_path / "kept.parquet", "another text")
    manifest = survey([tmp_path / "huge.txt"], validation=[tmp_path / "kept.parquet"])
    assert manifest.documents.train_items == 10


def test_a_hold_out_that_repeats_make_larger_than_training_is_told(tmp_path):
    """One of two different texts has to be held out: here it is the one that comes nine times in ten."""
    held_out = min(("one", "two"), key=content_digest)
    data = write(tmp_path / "a.parquet", *[held_out] * 9, ({"one", "two"} - {held_out}).pop())
    manifest = survey([data])
    assert [len(part) for part in both(manifest)] == [1, 9]
    assert any("of 10 documents only 2 are different" in notice for notice in manifest.notices)


@pytest.mark.parametrize("content", ["", " \n", "x", "x "])
def test_an_empty_corpus_is_an_error_that_names_the_file(tmp_path, content):
    (tmp_path / "tiny.txt").write_text(content)
    with pytest.raises(UserError, match=r"tiny\.txt"):
        survey([tmp_path / "tiny.txt"])


def test_an_empty_file_among_others_is_a_notice(tmp_path):
    write(tmp_path / "a.parquet", "one", "two")
    (tmp_path / "b.txt").write_text("")
    assert any("b.txt holds no documents" in notice for notice in survey([tmp_path]).notices)


def test_training_that_is_all_validation_is_an_error(tmp_path):
    one, other = write(tmp_path / "a.parquet", "one"), write(tmp_path / "b.parquet", "one", "two")
    with pytest.raises(UserError, match="all training documents"):
        survey([one], validation=[other])
    with pytest.raises(UserError, match="no documents to train on"):
        survey([one], validation=[one])


def test_conversations_are_split_too_and_found_among_the_data(tmp_path):
    write(tmp_path / "a.parquet", "one", "two")
    chat(tmp_path / "b.jsonl", *(f"hello {number}" for number in range(40)))
    manifest = survey([tmp_path], held_out=0.1)
    assert manifest.conversations
    train, validation = (
        list(manifest.read_conversations("train")),
        list(manifest.read_conversations("validation")),
    )
    assert train and validation and not set(train) & set(validation)
    assert (len(train), len(validation)) == (
        manifest.conversations.train_items,
        manifest.conversations.validation_items,
    )


def test_named_validation_conversations_are_not_trained_on(tmp_path):
    data = write(tmp_path / "a.parquet", "one", "two")
    train, kept = chat(tmp_path / "t.jsonl", "a", "b"), chat(tmp_path / "v.jsonl", "b", "c")
    manifest = survey([data], conversations=[train], validation_conversations=[kept])
    assert [talk[0].text for talk in manifest.read_conversations("train")] == ["a"]
    assert [talk[0].text for talk in manifest.read_conversations("validation")] == ["b", "c"]


def test_a_single_conversation_is_trained_on_and_it_is_said(tmp_path):
    data = write(tmp_path / "a.parquet", "one", "two")
    manifest = survey([data], conversations=[chat(tmp_path / "t.jsonl", "a")])
    assert len(list(manifest.read_conversations("train"))) == 1
    assert not list(manifest.read_conversations("validation"))
    assert any("only one conversation" in notice for notice in manifest.notices)


def test_a_conversation_that_repeats_is_counted_as_often_as_it_is_trained_on(tmp_path):
    data = write(tmp_path / "a.parquet", "one", "two")
    manifest = survey([data], conversations=[chat(tmp_path / "t.jsonl", "a", "a", "a")])
    assert manifest.conversations
    assert len(list(manifest.read_conversations("train"))) == manifest.conversations.train_items == 3
    assert any("all 3 conversations are the same" in notice for notice in manifest.notices)


def test_a_manifest_survives_the_way_to_disk_and_moves_with_the_files_it_brings(tmp_path):
    run = tmp_path / "run" / "data"
    data, outside = write(run / "a.parquet", "one", "two"), write(tmp_path / "b.parquet", "three")
    manifest = survey([data], validation=[outside], conversations=[chat(run / "c.jsonl", "a", "b")])
    manifest.save(run)
    assert load_manifest(run) == manifest
    (tmp_path / "run").rename(tmp_path / "moved")
    moved = load_manifest(tmp_path / "moved" / "data")
    assert both(moved) == (["one", "two"], ["three"])
    assert moved.fingerprint == manifest.fingerprint


def test_the_fingerprint_follows_the_contents_alone(tmp_path):
    one = survey([write(tmp_path / "a.parquet", "one", "two")])
    (tmp_path / "a.parquet").rename(tmp_path / "b.parquet")
    assert survey([tmp_path / "b.parquet"]).fingerprint == one.fingerprint
    assert survey([write(tmp_path / "b.parquet", "one", "too")]).fingerprint != one.fingerprint
    conversations = [chat(tmp_path / "c.jsonl", "a", "b")]
    with_chat = survey([write(tmp_path / "b.parquet", "one", "two")], conversations=conversations)
    assert with_chat.fingerprint != one.fingerprint
    assert with_chat.documents.fingerprint == one.documents.fingerprint, "chats would undo the token cache"


def test_a_file_that_changed_or_went_is_noticed_and_a_touched_one_is_not(tmp_path):
    data = write(tmp_path / "a.parquet", "one", "two")
    survey([data]).save(tmp_path)
    os.utime(data, ns=(1, 1))
    load_manifest(tmp_path)
    content = data.read_bytes()
    data.write_bytes(content[:-5] + b"x" + content[-4:])
    os.utime(data, ns=(2, 2))
    with pytest.raises(UserError, match=r"a\.parquet has changed"):
        load_manifest(tmp_path)
    data.unlink()
    with pytest.raises(UserError, match=r"a\.parquet is gone"):
        load_manifest(tmp_path)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "prepare` first"),
        ("{", "damaged"),
        ("[]", "damaged"),
        ('{"format_version": 1}', "damaged"),
        ('{"format_version": 99}', "newer chatsmith"),
    ],
)
def test_a_missing_damaged_or_newer_manifest_is_one_line(tmp_path, content, said):
    if content is not None:
        (tmp_path / "manifest.json").write_text(content)
    with pytest.raises(UserError, match=said) as caught:
        load_manifest(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.shared_data
def test_the_shared_books_are_read_whole(shared_data):
    shard = shared_data / "pretrain" / "shard_00003.parquet"
    manifest = survey([shard])
    (file,) = manifest.documents.train
    assert (file.items, file.characters) == (1_041, 5_589_399)


def test_a_manifest_of_format_1_loads_with_the_fingerprint_it_had(tmp_path):
    data = write(tmp_path / "a.parquet", "one", "two")
    manifest = survey([data], conversations=[chat(tmp_path / "c.jsonl", "a", "b")])
    value = manifest.to_json(tmp_path)
    for split in (value["documents"], value["conversations"]):
        for file in (*split["train"], *split["validation"]):
            del file["form"], file["origin"]
    (tmp_path / "manifest.json").write_text(json.dumps({**value, "format_version": 1}))
    loaded = load_manifest(tmp_path)
    assert loaded.fingerprint == manifest.fingerprint
    assert both(loaded) == both(manifest)
