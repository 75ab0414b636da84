"""The naive decoder, which speeds are compared with, says what the engine says."""

import json
import random

import pytest

from chatsmith.engine.engine import Engine
from chatsmith.engine.request import Request, SamplingParams
from chatsmith.text.tokenizer import Tokenizer
from tests.engine.conftest import random_model, tokenizer

__all__ = ["tokenizer"]


def test_the_naive_decoder_and_the_engine_agree(script, tokenizer: Tokenizer) -> None:
    model = random_model(tokenizer.vocab_size, windows=(0, 0))
    source = random.Random(1)
    prompts = [[source.randrange(250) for _ in range(9)] for _ in range(4)]
    sampling = SamplingParams(temperature=0, max_tokens=12, ignore_end=True)
    completions = Engine(model, tokenizer).generate([Request(tuple(one), sampling) for one in prompts])
    assert script("naive_decoder").decode_naively(model, prompts, 12) == [
        list(one.ids) for one in completions
    ]


def test_every_row_compares_both(script, capsys: pytest.CaptureFixture[str]) -> None:
    bench = script("naive_decoder")
    bench.main(bench.Config(batches=(1, 2), prompt_tokens=8, new_tokens=4, depth=1, json=True))
    rows = json.loads(capsys.readouterr().out)["plain"]
    assert [(row["batch"], row["prompts"]) for row in rows] == [(1, 1), (2, 2), (2, 1)]
    for row in rows:
        assert row["times_float32"] == pytest.approx(row["tokens_per_second"] / row["plain_float32"])
