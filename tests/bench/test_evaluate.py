"""The bench of scoring: both ways agree, and what it prints for programs has every task."""

import json
from pathlib import Path

import pytest

from chatsmith.runtime.errors import UserError
from chatsmith.tasks import core


def test_both_ways_decide_alike(
    script, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    choice = core.CoreTask("choice", "a/choice", "multiple choice", 2, 0.5)
    word = core.CoreTask("word", "a/word", "language modeling", 2, 0)
    (tmp_path / "core/eval_data/a").mkdir(parents=True)
    nouns = ("cat", "mat", "hat", "dog", "cow", "pig")
    items = [
        {"query": f"The {a} and the", "choices": [a, b], "gold": n % 2}
        for n, (a, b) in enumerate(zip(nouns, nouns[::-1], strict=True))
    ]
    (tmp_path / choice.path).write_text("".join(json.dumps(item) + "\n" for item in items))
    items = [{"context": f"The {a} and the", "continuation": a} for a in nouns]
    (tmp_path / word.path).write_text("".join(json.dumps(item) + "\n" for item in items))
    bench = script("evaluate")
    monkeypatch.setattr(bench, "TASKS", (choice, word))
    bench.main(
        bench.Config(
            depth=1,
            width=16,
            head_dim=8,
            vocab_size=300,
            context_length=32,
            eval_data=tmp_path,
            device="cpu",
            dtype="fp32",
            json=True,
        )
    )
    figures = json.loads(capsys.readouterr().out)
    assert figures["different_decisions"] == 0
    assert figures["items"] == 12
    assert figures["tasks"].keys() == {"choice", "word"}
    for row in figures["tasks"].values():
        assert row["largest_loss_difference"] < 1e-4
        assert row["seconds"] > 0 and row["plain_seconds"] > 0


def test_impossible_numbers_are_refused(script):
    for field in ("depth", "head_dim", "context_length", "max_examples", "vocab_size"):
        with pytest.raises(UserError, match=field):
            script("evaluate").Config(**{field: 0})
