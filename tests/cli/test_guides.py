"""The guides of docs/adapt.md, run at toy size: their commands as they stand, with smaller numbers."""

import json
import os
import re
import shlex
from pathlib import Path

import pytest

from chatsmith.cli import main as cli

ROOT = Path(__file__).parents[2]
SMALL = ("--tokens", "4096", "--batch-tokens", "1024", "--evaluations", "0", "--no-compile")


def commands(heading: str) -> list[list[str]]:
    """The commands of a section of the page."""
    page = (ROOT / "docs/adapt.md").read_text()
    section = page.partition(f"## {heading}\n")[2].partition("\n## ")[0]
    found = [shlex.split(line)[1:] for line in section.splitlines() if line.startswith("chatsmith ")]
    assert found, heading
    return found


def follow(heading: str, tiny_run: Path, said: pytest.CaptureFixture[str]) -> list[str]:
    """What each command says, the data already being here."""
    texts = []
    for command in commands(heading):
        if command[0] == "data":
            continue
        small = SMALL if command[0] == "sft" else ()
        argv = [str(tiny_run) if one == "runs/mine" else re.sub(r"cap=\d+", "cap=50", one) for one in command]
        assert cli.main([*argv, *small], dict(os.environ)) == 0, command
        texts.append(said.readouterr().out)
    return texts


@pytest.mark.long
def test_a_name(
    tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    persona = (ROOT / "chatsmith/tasks/persona.toml").read_text()
    Path("me.toml").write_text(persona.replace('"Smith"', '"Ada"'))
    messages = [{"role": "user", "content": "Hi."}, {"role": "assistant", "content": "Hello."}]
    Path("talks.jsonl").write_text(30 * (json.dumps({"messages": messages}) + "\n"))
    trained, before, after = follow("Give it a name", tiny_run, capsys)
    assert "identity:me.toml" in trained and "talks.jsonl" in trained
    assert before.strip() != after.strip()


@pytest.mark.long
def test_an_ability(
    tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = tmp_path / "data/words/words_alpha.txt"
    words.parent.mkdir(parents=True)
    letters = "abcdefghijklmnopqrstuvwxyz"
    words.write_text("".join(f"{a}{b}ine{c}\n" for a in letters for b in letters for c in letters[:4]))
    for section in ("SFT", "EVALUATE"):
        monkeypatch.setenv(f"CHATSMITH_{section}_EVAL_DATA", str(words.parents[1]))
    monkeypatch.chdir(tmp_path)
    messages = [{"role": "user", "content": "Hi."}, {"role": "assistant", "content": "Hello."}]
    Path("talks.jsonl").write_text(30 * (json.dumps({"messages": messages}) + "\n"))
    trained, before, after = follow("Teach it one ability", tiny_run, capsys)
    assert "spelling" in trained and "counting" in trained
    assert "spelling" in before and "spelling" in after
