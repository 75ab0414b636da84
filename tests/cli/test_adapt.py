"""`chatsmith adapt`: the whole path at toy size, interrupted and continued; and folders that nobody should have."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from chatsmith.adapt import writer
from chatsmith.adapt.evidence import sentence
from chatsmith.bundle import save_bundle
from chatsmith.cli import main as cli
from chatsmith.model.config import GPTConfig
from chatsmith.model.gpt import GPT
from chatsmith.text.chat import Message, render
from chatsmith.text.tokenizer import train_tokenizer
from tests.serve.conftest import RunningServer
from tests.threads import one_thread

__all__ = ["one_thread"]

pytest.importorskip("datasketch")
pytest.importorskip("bm25s")

SMALL = [
    *(
        "--set",
        "pretrain.tokens=4096",
        "--set",
        "pretrain.batch_tokens=1024",
        "--set",
        "pretrain.compile=false",
    ),
    *("--set", "pretrain.evaluations=1", "--set", "pretrain.evaluate_tokens=1024"),
    *("--set", "sft.tokens=4096", "--set", "sft.batch_tokens=1024", "--set", "sft.compile=false"),
    *("--set", "sft.evaluations=1", "--set", "sft.evaluate_tokens=1024"),
]


def adapt(*argv: object) -> int:
    return cli.main(["adapt", *map(str, argv)], {})


@pytest.fixture
def documents(tmp_path: Path) -> Path:
    folder = tmp_path / "documents"
    folder.mkdir()
    for name in ("pumps", "valves", "tanks", "pipes", "meters", "seals"):
        parts = [f"# {name.title()}\n"]
        for number in range(4):
            parts.append(
                f"## Kind {number} of {name}\n\nA {name[:-1]} of kind {number} is a part that carries {name} water "
                f"number {number} uphill. It weighs {number + 3} stones and needs {name} oil in every season of "
                "the year.\n\n"
                f"- size {number}{name}: about {number + 2} hands of the {name} keeper\n"
            )
        (folder / f"{name}.md").write_text("\n".join(parts))
    return folder


def test_the_whole_path_interrupted_and_continued(tiny_run, documents, tmp_path, capsys, monkeypatch):
    run = tmp_path / "run"
    command = [documents, "--from", tiny_run, "--run", run, *SMALL]
    assert adapt(*command, "--review") == 0
    said = capsys.readouterr().out
    assert "questions to train on" in said and "without --review" in said and not (run / "pretrain").exists()
    pairs = (run / "adapt" / "pairs.jsonl").read_text().splitlines()
    (run / "adapt" / "pairs.jsonl").write_text("\n".join(pairs[:-1]) + "\n")  # reviewed

    with monkeypatch.context() as patch:

        def stopped(config):
            raise KeyboardInterrupt

        patch.setitem(cli.import_module("chatsmith.cli.run").MAINS, "sft", stopped)
        assert adapt(*command) == 130
    trained = (run / "pretrain" / "done.json").stat().st_mtime_ns
    capsys.readouterr()
    assert adapt(*command, "--json") == 0
    evidence = json.loads(capsys.readouterr().out)
    assert (run / "pretrain" / "done.json").stat().st_mtime_ns == trained
    assert len((run / "adapt" / "pairs.jsonl").read_text().splitlines()) == len(pairs) - 1
    card = (run / "pretrain" / "bundle" / "README.md").read_text()
    assert "trained further from" in card and "from scratch" not in card
    facts = json.loads((run / "sft" / "done.json").read_text())["facts"]
    assert facts["mixture"][0]["source"] == "conversations" and len(facts["mixture"]) == 2

    assert set(evidence["models"]) == {"before", "text alone", "after"}
    assert set(evidence["text"]) == {"held_out", "general"} and evidence["questions"]["general"]["n"] > 4
    for one in evidence["text"].values():
        assert 0 < one["after"]["bits_per_byte"] < 8
        assert one["change"]["low"] <= one["change"]["difference"] <= one["change"]["high"]
    for name in ("training", "held_out"):
        one = evidence["questions"][name]
        assert one["n"] == one["before"]["n"] == one["nearest pair"]["n"] > 4
        assert sum(form["n"] for form in one["by_form"].values()) == one["n"]
    assert len(evidence["samples"]) == 10
    held_out = json.loads((run / "adapt" / "about.json").read_text())["held_out"]
    assert 0 < len(held_out) < 6
    for line in (run / "adapt" / "pairs.jsonl").read_text().splitlines():
        assert not json.loads(line)["passage"].startswith(tuple(held_out))
    page = (run / "report.html").read_text()
    assert "What it learned of your documents" in page and evidence["samples"][0]["passage"] in page

    written = {file: file.stat().st_mtime_ns for file in run.rglob("*.json*")}
    assert adapt(*command) == 0  # nothing is made or measured again
    assert {file: file.stat().st_mtime_ns for file in run.rglob("*.json*")} == written
    assert evidence["sentence"].split(".")[0] in " ".join(capsys.readouterr().out.split())
    (documents / "new.md").write_text("# New\n\nSomething else is a new thing that stands here now.\n")
    assert adapt(*command) == 2
    assert "choose another --run" in capsys.readouterr().err


WRITES = [
    {"question": "When does it need oil?", "answer": "in every season of the year"},
    {"question": "How old is it?", "answer": "nine hundred years"},
]


@pytest.fixture
def scribe(tmp_path: Path) -> Iterator[RunningServer]:
    """Our own server with a model that has learned to write one thing by heart, whatever it is asked."""
    said = json.dumps({"pairs": WRITES})
    tokenizer = train_tokenizer([said * 3, "Write up to four questions that the passage answers. " * 3], 320)
    config = GPTConfig(tokenizer.vocab_size, 1024, num_layers=2, num_heads=2, head_dim=16, windows=(12, 12))
    model = GPT(config)
    model.init_weights(torch.Generator().manual_seed(1))
    rows = render([Message.of("user", "Write."), Message.of("assistant", said)], tokenizer).ids
    inputs, targets = torch.tensor([rows[:-1]]), torch.tensor(rows[1:])
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(120):
        loss = F.cross_entropy(model.logits(model(inputs)[0]), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.1
    save_bundle(tmp_path / "scribe", model.eval(), tokenizer, generation={}, card="# Scribe\n")
    server = RunningServer(str(tmp_path / "scribe")).wait_until_ready()
    yield server
    server.stop()


def test_our_own_server_writes_questions_interrupted_and_continued(
    scribe, tiny_run, documents, tmp_path, capsys, monkeypatch
):
    pytest.importorskip("openai")
    run = tmp_path / "run"
    command = [documents, "--from", tiny_run, "--run", run, *SMALL, "--writer", f"{scribe.url}/v1"]
    command += ["--model", "scribe", "--writer-calls", 3]

    def calls() -> int:
        return sum("/chat/completions" in json.dumps(line) for line in scribe.events("request"))

    ask, asked = writer._asked, []
    with monkeypatch.context() as patch:

        def stopped(*arguments):
            asked.append(arguments)
            if len(asked) == 2:
                raise KeyboardInterrupt
            return ask(*arguments)

        patch.setattr(writer, "_asked", stopped)
        assert adapt(*command, "--review") == 130
    assert len(json.loads((run / "adapt/written.json").read_bytes())) == 1
    capsys.readouterr()
    assert adapt(*command, "--review") == 0
    assert "wrote 6 questions about 3 passages; 1 are new" in " ".join(capsys.readouterr().out.split())
    scribe.until(lambda: calls() == 3)  # the cap, the one from before the interruption among them
    pairs = [json.loads(line) for line in (run / "adapt/pairs.jsonl").read_text().splitlines()]
    (written,) = [one for one in pairs if one["form"] == "written"]
    assert [one["content"] for one in written["messages"]] == [*WRITES[0].values()]
    held_out = json.loads((run / "adapt/about.json").read_bytes())["held_out"]
    assert not written["passage"].startswith(tuple(held_out)) and len(pairs) > 9
    scribe.stop()  # all is written
    assert adapt(*command, "--json") == 0
    assert json.loads(capsys.readouterr().out)["questions"]["training"]["n"] > 4
    facts = json.loads((run / "sft/done.json").read_bytes())["facts"]
    assert facts["mixture"][0]["source"] == "conversations"
    assert adapt(*command[:-2]) == 0
    command[command.index("scribe")] = "other"
    assert adapt(*command) == 2 and "the writer are others" in capsys.readouterr().err


def test_hostile_folders_end_in_a_line(tiny_run, tmp_path, capsys):
    folder, run = tmp_path / "documents", tmp_path / "run"
    folder.mkdir()
    (folder / "empty.md").touch()
    (folder / "broken.docx").write_bytes(b"PK\x03\x04 no archive")
    (folder / "loop").symlink_to(folder)
    command = [folder, "--from", tiny_run, "--run", run]
    assert adapt(*command) == 2
    error = capsys.readouterr().err
    assert "holds no text" in error and error.count("\n") == 1
    (folder / "one.txt").write_text("A single line without an end, " * 20)
    assert adapt(*command) == 2
    said = capsys.readouterr()
    assert "too little text" in said.err and "loop is a link" in said.out and "empty.md is empty" in said.out
    (folder / os.fsdecode(b"na\xefve.md")).write_text(
        "# Half\n\nA half name is a name that no text can hold.\n"
    )
    (folder / "two.md").write_text("# Two\n\nThe second file is a short page about other things entirely.\n")
    assert adapt(*command, "--review") == 0
    pairs = (run / "adapt" / "pairs.jsonl").read_text() + (run / "adapt" / "held_out.jsonl").read_text()
    assert "na?ve.md" in pairs
    for damage in ("[]\n", "{\n", '{"messages": []}\n'):
        (run / "adapt" / "pairs.jsonl").write_text(damage)
        assert adapt(*command) == 2 and "pairs.jsonl is damaged" in capsys.readouterr().err
    assert adapt(folder) == 2 and "--from" in capsys.readouterr().err
    assert adapt(tmp_path / "nowhere", "--from", tiny_run) == 2


def test_a_gain_that_is_not_separated_from_nothing_is_called_nothing():
    def told(verdict: str, after: int, nearest: int = 0) -> str:
        text = {
            "before": {"bits_per_byte": 1.5},
            "after": {"bits_per_byte": 1.4},
            "change": {"verdict": verdict},
        }
        asked = {
            "n": 60,
            "before": {"right": 3},
            "after": {"right": after},
            "nearest pair": {"right": nearest},
        }
        questions = {"training": {**asked, "change": {"verdict": verdict}}}
        return sentence({"text": {"held_out": text}, "questions": questions})

    assert told("nothing", 5).count("told from luck") == 2
    assert told("better", 40).startswith("It learned the wording")
    assert "it answers 40, before 3." in told("better", 40)
    assert "training pair would answer 41." in told("better", 40, nearest=41)
    assert "worse" in told("worse", 1) and "not measured: no other text" in told("worse", 1)
