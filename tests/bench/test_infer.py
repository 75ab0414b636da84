"""`chatsmith bench infer` measures a model of its own making and says what it measured, also to programs."""

import json

import pytest

from chatsmith.cli.main import main


def test_every_row_stands_beside_its_bound(capsys: pytest.CaptureFixture[str]) -> None:
    shape = ["--depth", "1", "--width", "64", "--vocab-size", "512", "--sequence-length", "64"]
    size = ["--batches", "1", "3", "--prompt-tokens", "8", "--new-tokens", "6"]
    assert main(["bench", "infer", "--json", "--parts", "decode", *shape, *size], {}) == 0
    figures = json.loads(capsys.readouterr().out)
    assert figures["read_bytes_per_second"] > 1e6
    assert {row["batch"] for row in figures["rows"]} == {1, 3}
    assert {"int8"} < {row["dtype"] for row in figures["rows"]}
    for row in figures["rows"]:
        assert row["tokens_per_second"] > 0
        bytes_a_step = row["batch"] * figures["read_bytes_per_second"] / row["bound_tokens_per_second"]
        each = {"float32": 4, "bfloat16": 2, "int8": 1}[row["dtype"]]
        products = (12 * 64 * 64 + 512 * 64) * each
        assert products <= bytes_a_step <= 1.2 * products + row["batch"] * 11 * 2 * 64 * 4


def test_a_batch_of_none_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "infer", "--batches", "0"], {}) == 2
    assert "batches" in capsys.readouterr().err
