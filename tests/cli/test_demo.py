"""`chatsmith demo` around stages that do nothing: what is run, and what follows."""

import io
import sys
from pathlib import Path

import pytest

from chatsmith.cli import chat
from chatsmith.cli import main as cli
from chatsmith.cli import run as run_stage


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def pipeline(monkeypatch):
    """What the recipe's stages and the chat were asked to do, in order."""
    seen: list[str] = []
    was_done = [False]

    def run_recipe(config, reporter):
        seen.append(f"run {config.recipe} in {config.run}")
        result = run_stage.StageResult("pretrain", 60.0, was_done[0], {"loss": 1.5})
        was_done[0] = True
        return run_stage.RunDirectory(config.run), [result]

    monkeypatch.setattr(run_stage, "run_recipe", run_recipe)
    monkeypatch.setattr(chat, "main", lambda config: seen.append(f"chat {config.run}"))
    monkeypatch.setattr(chat, "show_sample", lambda config: seen.append(f"sample {config.run}"))
    return seen


def test_without_a_terminal_a_sample_conversation_ends_the_demo(pipeline, capsys):
    assert cli.main(["demo", "mine"], {}) == 0
    assert pipeline == ["run kindergarten in mine", "sample mine"]
    out = capsys.readouterr().out
    assert "loss 1.5" in out and "chatsmith chat mine" in out


def test_in_a_terminal_the_chat_opens_and_the_second_time_at_once(pipeline, monkeypatch):
    screens = []
    for _ in range(2):
        screens.append(Terminal())
        monkeypatch.setattr(sys, "stdin", Terminal())
        monkeypatch.setattr(sys, "stdout", screens[-1])
        assert cli.main(["demo"], {}) == 0
    kindergarten = Path("runs/kindergarten")
    assert pipeline == [f"run kindergarten in {kindergarten}", f"chat {kindergarten}"] * 2
    assert "Try next" in screens[0].getvalue() and "http://127.0.0.1:8000" in screens[0].getvalue()
    assert "Try next" not in screens[1].getvalue()
