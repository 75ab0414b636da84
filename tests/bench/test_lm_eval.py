"""lm-eval itself, with `--model hf` on an exported folder, gives the scores of our own evaluation."""

import json
import random
import re
import sys
from pathlib import Path

import pytest
import torch

from chatsmith.bundle import save_bundle
from chatsmith.model.config import NO_SOFTCAP, GPTConfig
from chatsmith.model.gpt import GPT
from chatsmith.tasks.core import CoreTask
from chatsmith.text.tokenizer import train_tokenizer

pytest.importorskip("lm_eval", reason="needs lm-eval: pip install 'lm-eval[hf]'")

NOUNS = ("cat", "mat", "hat", "dog", "cow", "pig", "hen", "fox", "owl", "bee")


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    "fields", [{}, {"architecture": "portable", "softcap": NO_SOFTCAP}], ids=["default", "portable"]
)
def test_it_scores_an_exported_folder_as_we_do(
    script, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys, fields: dict
):
    rng = random.Random(1)
    choice = CoreTask("choice", "a/choice", "multiple choice", 2, 0.5)
    word = CoreTask("word", "a/word", "language modeling", 2, 0)
    (tmp_path / "core/eval_data/a").mkdir(parents=True)
    several = [
        {
            "query": f"The {rng.choice(NOUNS)} and the",
            "choices": rng.sample(NOUNS, 4),
            "gold": rng.randrange(4),
        }
        for _ in range(40)
    ]
    words = [{"context": f"The {one} saw the", "continuation": rng.choice(NOUNS)} for one in NOUNS * 3]
    for task, items in ((choice, several), (word, words)):
        (tmp_path / task.path).write_text("".join(json.dumps(item) + "\n" for item in items))
    tokenizer = train_tokenizer(
        [" ".join(f"The {one} and the {one} saw the {one}." for one in NOUNS) * 3], 340
    )
    model = GPT(GPTConfig(tokenizer.vocab_size, 128, 2, 2, 16, **fields))
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)
    save_bundle(tmp_path / "bundle", model, tokenizer, generation={}, card="# A model\n")
    bench = script("lm_eval/hf")
    monkeypatch.setattr(bench, "TASKS", (choice, word))
    monkeypatch.setattr(bench, "CORE", ("choice", "word"))
    monkeypatch.setattr(bench, "CHAT", ())
    monkeypatch.setattr(sys, "argv", ["hf.py", str(tmp_path / "bundle"), "--eval-data", str(tmp_path)])
    assert bench.main() == 0
    rows = re.findall(r"^core_(\w+) +(\d+) +([\d.]+) +([\d.]+)$", capsys.readouterr().out, re.MULTILINE)
    assert [row[0] for row in rows] == ["choice", "word"]
    for _, items, ours, theirs in rows:
        assert int(items) >= 20 and ours == theirs
    assert 0 < float(rows[0][2]) < 1
