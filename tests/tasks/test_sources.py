"""Sources by name: what each gives, from a hub on this machine or from files; and a line for what means nothing."""

import io
import json
import threading
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from chatsmith.data.dataset import DataManifest
from chatsmith.ingest import hub as hub_module
from chatsmith.ingest.survey import survey
from chatsmith.runtime.errors import UserError
from chatsmith.tasks.gsm8k import gsm8k_problems
from chatsmith.tasks.identity import CONVERSATIONS, identity_conversations, read_persona
from chatsmith.tasks.sources import Source, Surroundings, open_source
from chatsmith.text.chat import Conversation, check_conversation
from tests.hub_server import Hub, serving

MESSAGES = [{"role": "user", "content": "Hi {}."}, {"role": "assistant", "content": "Hello {}."}]


def talk(name: str) -> dict[str, Any]:
    return {"messages": [{**one, "content": one["content"].format(name)} for one in MESSAGES]}


def parquet(rows: list[dict[str, Any]]) -> bytes:
    file = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), file)
    return file.getvalue()


def question(number: int, answer: int = 1) -> dict[str, Any]:
    return {
        "question": f"Which is {number}?",
        "choices": ["a", "b", "c", "d"],
        "answer": answer,
        "subject": "",
    }


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    with serving() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.address)
        monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
        for name in ("HF_TOKEN", "http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub-cache"))
        hub.dataset(
            "HuggingFaceTB/smol-smoltalk",
            {
                "data/train-00000-of-00002.parquet": parquet([talk("a"), talk("b")]),
                "data/train-00001-of-00002.parquet": parquet([talk("c")]),
                "data/test-00000-of-00001.parquet": parquet([talk("z")]),
                "README.md": b"read me",
            },
        )
        hub.dataset(
            "cais/mmlu",
            {
                "auxiliary_train/train-00000-of-00001.parquet": parquet(
                    [{"train": question(number, number % 4)} for number in range(20)]
                ),
                "all/test-00000-of-00001.parquet": parquet([question(99)]),
            },
        )
        hub.dataset(
            "owner/text",
            {f"{n}.parquet": parquet([{"text": f"Text {n} {k}. " * 9} for k in range(9)]) for n in "0123"},
        )
        yield hub


@pytest.fixture
def benchmarks(tmp_path: Path) -> Path:
    """A folder of small benchmarks."""
    folder = tmp_path / "benchmarks"
    solution = "He has 48/2 = <<48/2=24>>24.\n#### 24"
    arc = [
        {
            "id": str(n),
            "question": f"Why {n}?",
            "choices": {"text": ["x", "y"], "label": ["A", "B"]},
            "answerKey": "B",
        }
        for n in range(5)
    ]
    files = {
        "gsm8k/train.jsonl": [{"question": f"How many {n}?", "answer": solution} for n in range(200)],
        "arc/easy-train.jsonl": arc,
        "arc/easy-validation.jsonl": arc[:2],
        "mmlu/validation.jsonl": [question(7)],
    }
    for name, items in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("".join(json.dumps(item) + "\n" for item in items))
    (folder / "words").mkdir()
    (folder / "words" / "words_alpha.txt").write_text(
        "\n".join(f"{a}{b}{c}o" for a in "bcdfgm" for b in "aeiou" for c in "lmnrst")
    )
    return folder


@pytest.fixture
def opened(benchmarks: Path, tmp_path: Path):
    """Opens a source by its name; `opened.notices` are the lines for people."""
    (tmp_path / "own.txt").write_text("Some text of my own.\n\n" * 40)
    notices: list[str] = []

    def run_data() -> DataManifest:
        return survey([tmp_path / "own.txt"])

    def open_one(name: str) -> Source:
        return open_source(name, Surroundings(run_data, benchmarks, {"balo"}, notices.append))

    open_one.notices = notices  # pyright: ignore[reportFunctionMemberAccess]
    return open_one


def read(source: Source, split="train") -> list[Conversation]:
    assert source.read and source.manifest is None
    found = list(source.read(split))
    for conversation in found:
        check_conversation(conversation)
    return found


def test_smoltalk_is_learned_from_its_train_shards_and_measured_on_its_test_shards(hub: Hub, opened):
    source = opened("smoltalk")
    assert not any(hub.sent(path) for path in hub.asked), "the listing alone says what it is"
    assert [one[0].text for one in read(source)] == ["Hi a.", "Hi b.", "Hi c."]
    assert [one[0].text for one in read(source, "validation")] == ["Hi z."]
    assert "Apache-2.0" in source.about and "2 files" in source.about
    before = source.fingerprint
    hub.repos["datasets/HuggingFaceTB/smol-smoltalk"].files["data/train-00001-of-00002.parquet"] = parquet(
        [talk("d")]
    )
    assert opened("smoltalk").fingerprint != before


def test_the_first_shard_is_read_while_the_next_one_still_comes(hub: Hub, opened, monkeypatch):
    download_one, first_is_read = hub_module._download_one, threading.Event()

    def slow(repository, file, cache):
        if "00001-of" in file.path and not first_is_read.wait(10):
            raise UserError("it was waited for")
        return download_one(repository, file, cache)

    monkeypatch.setattr(hub_module, "_download_one", slow)
    source = opened("smoltalk")
    assert source.read
    talks = source.read("train")
    assert next(talks)[0].text == "Hi a."
    first_is_read.set()
    assert [one[0].text for one in talks] == ["Hi b.", "Hi c."]


def test_mmlu_gives_its_auxiliary_questions_with_letters_in_another_order(hub: Hub, opened):
    talks = read(opened("mmlu"))
    numbers = [int(one[0].text.split()[2].rstrip("?\n").partition("?")[0]) for one in talks]
    assert sorted(numbers) == list(range(20)) and numbers != sorted(numbers)
    assert all(one[1].text == "ABCD"[number % 4] for one, number in zip(talks, numbers, strict=True))
    assert [one[0].text.split("\n")[0] for one in read(opened("mmlu"), "validation")] == ["Which is 7?"]


def test_gsm8k_calls_the_calculator_and_keeps_its_development_part_apart(opened, benchmarks: Path):
    source = opened("gsm8k")
    learned, measured = read(source), read(source, "validation")
    assert len(learned) + len(measured) == 200 and measured
    assert {one[0].text for one in measured} == {
        problem.messages[0].text for problem in gsm8k_problems("development", benchmarks)
    }
    assert [part.kind for part in learned[0][1].parts] == ["text", "python", "output", "text"]


def test_arc_spelling_and_counting_come_from_the_benchmarks_folder(opened):
    assert [one[1].text for one in read(opened("arc_easy"))] == ["B"] * 5
    assert len(read(opened("arc_easy"), "validation")) == 2
    for name in ("spelling", "counting"):
        source = opened(name)
        learned, measured = read(source), read(source, "validation")
        words = ["".join(one[1].text) for one in learned]
        assert len(learned) > 100 and 0 < len(measured) < 30
        assert not any("b-a-l-o" in text for text in words), "excluded words are not taught"
        assert sum(one[0].text.isascii() and "the" in one[0].text for one in learned) < len(learned)


def test_the_run_s_own_data_and_files_are_sources_too(opened, tmp_path: Path):
    documents = opened("documents")
    assert documents.manifest and documents.read is None
    assert documents.manifest().documents.train_items >= 1
    with pytest.raises(UserError, match="the run has no conversations"):
        opened("conversations")
    (tmp_path / "talks.jsonl").write_text("".join(json.dumps(talk(str(n))) + "\n" for n in range(3)))
    files = opened(str(tmp_path / "talks.jsonl"))
    assert len(read(files)) == 3 and read(files, "validation") == []
    other = opened(str(tmp_path / "own.txt"))
    assert other.manifest and "text of my own" in next(other.manifest().read_documents("train")).text
    (tmp_path / "pairs.json").write_text(json.dumps([{"instruction": "Say hi.", "output": "Hi."}] * 4))
    assert len(read(opened(str(tmp_path / "pairs.json")))) == 4
    assert any("read as alpaca" in line for line in opened.notices)


def test_a_range_of_shards_of_any_hub_data_set_is_a_source(hub: Hub, opened):
    text = opened("hub:owner/text[1:3]")
    assert text.manifest
    manifest = text.manifest()
    held = {
        document.text[:6] for split in ("train", "validation") for document in manifest.read_documents(split)
    }
    assert held == {"Text 1", "Text 2"}
    assert hub.sent("0.parquet") == hub.sent("3.parquet") == 0
    assert (
        opened("hub:owner/text[1:3]").fingerprint == text.fingerprint != opened("hub:owner/text").fingerprint
    )
    hub.dataset("owner/talks", {"a.jsonl": (json.dumps(talk("q")) + "\n").encode()})
    assert [one[0].text for one in read(opened("hub:owner/talks"))] == ["Hi q."]


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("smoltlak", "there is no source smoltlak"),
        ("hub:owner", "write hub:OWNER/NAME"),
        ("hub:owner/text[0:2", "write hub:OWNER/NAME"),
        ("hub:owner/text[7:9]", "has no files of a known type in that range"),
        ("hub:owner/nothing", "the hub has no such dataset, or it is private"),
        ("identity:nowhere.toml", "nowhere.toml cannot be read"),
    ],
)
def test_names_that_mean_nothing_are_refused_in_a_line(hub: Hub, opened, name: str, reason: str):
    with pytest.raises(UserError) as caught:
        opened(name)
    assert reason in str(caught.value) and "\n" not in str(caught.value)


# ---- who the model is ----

PERSONA = """
name = "Ada"
maker = "the physics club"
manner = "brief"
facts = ["I have {12} million parameters.", { question = "When were you trained?", answer = "In 2026." }]
"""


def test_a_persona_becomes_many_different_conversations(opened, tmp_path: Path):
    path = tmp_path / "ada.toml"
    path.write_text(PERSONA)
    source = opened(f"identity:{path}")
    learned, measured = read(source), read(source, "validation")
    assert len(learned) + len(measured) == len({*learned, *measured}) == CONVERSATIONS
    assert 20 < len(measured) < 90
    said = " ".join(message.text for one in learned for message in one)
    for words in (
        "I am Ada.",
        "the physics club",
        "I try to be brief.",
        "I have {12} million parameters.",
        "In 2026.",
    ):
        assert words in said
    assert {message.role for one in learned for message in one} == {"system", "user", "assistant"}
    assert list(identity_conversations(read_persona(path), "train")) == learned, "the same every time"
    before = source.fingerprint
    path.write_text(PERSONA.replace("brief", "kind"))
    assert opened(f"identity:{path}").fingerprint != before


def test_a_persona_of_two_words_gives_what_it_can(tmp_path: Path):
    path = tmp_path / "ada.toml"
    path.write_text('name = "A"\nmaker = "B"')
    assert sum(1 for _ in islice(identity_conversations(read_persona(path), "train"), 2_000)) > 500


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (PERSONA + 'nmae = "x"', "unknown key 'nmae' (did you mean name?)"),
        ('name = "Ada"', "maker must be a text in quotes"),
        ('name = 7\nmaker = "B"', "name must be a text in quotes"),
        ('name = " "\nmaker = "B"', "name must be a text in quotes"),
        ('name = "A"\nmaker = "B"\nfacts = "one"', "facts must be a list of texts"),
        ('name = "A"\nmaker = "B"\nfacts = [{question = "q"}]', "facts must be a list of texts"),
        ('name = "A"\nmaker = "B"\nfacts = [{question = "q", answer = ""}]', "facts must be a list of texts"),
        ("name = ", "is not valid TOML"),
        ("\xff", "is not valid TOML"),
    ],
)
def test_a_persona_file_that_is_wrong_is_refused_in_a_line(tmp_path: Path, text: str, reason: str):
    path = tmp_path / "ada.toml"
    path.write_text(text, encoding="latin-1")
    with pytest.raises(UserError) as caught:
        read_persona(path)
    assert reason in str(caught.value) and "\n" not in str(caught.value)
