"""A document of noise among clean text: its step never reaches the weights, and the log says which it was."""

import json
import random

from chatsmith.cli import main as cli


def test_a_poisoned_document_is_left_out_and_named_in_the_log(tmp_path, capsys):
    noise = random.Random(1)
    texts = ["The cat sat on the mat. " * 12 for _ in range(60)]
    for number in (40, 41):  # one may be held out
        texts[number] = "POISON " + "".join(chr(noise.randrange(0x900, 0x2000)) for _ in range(20))
    source, run = tmp_path / "text.jsonl", tmp_path / "run"
    source.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    size = {
        "depth": 1,
        "width": 32,
        "head-dim": 16,
        "sequence-length": 64,
        "batch-tokens": 64,
        "tokens": 9600,
    }
    size = [word for name, value in size.items() for word in (f"--{name}", str(value))]
    how = ["--dtype", "fp32", "--no-compile", "--evaluations", "0", "--prompt", ""]
    for argv in (
        ["data", "prepare", str(run), "--data", str(source)],
        ["tokenizer", str(run), "--vocab-size", "300"],
        ["pretrain", str(run), *size, *how],
    ):
        assert cli.main(argv, {}) == 0, capsys.readouterr().err
    said = capsys.readouterr().out
    left_out = [line for line in said.splitlines() if "is left out: its loss is" in line]
    assert left_out and "a row with loss" in said and "POISON" in said
    losses = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in losses if "loss" in line]
    assert len(losses) == 150 and losses[-1] < 1
