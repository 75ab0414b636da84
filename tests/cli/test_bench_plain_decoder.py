"""The plain decoder, which speeds are compared with, says what the engine says."""

import random

from chatsmith.cli.bench_plain_decoder import decode_plainly
from chatsmith.engine.engine import Engine
from chatsmith.engine.request import Request, Sampling
from chatsmith.text.tokenizer import Tokenizer
from tests.engine.conftest import random_model, tokenizer

__all__ = ["tokenizer"]


def test_the_plain_decoder_and_the_engine_agree(tokenizer: Tokenizer) -> None:
    model = random_model(tokenizer.vocab_size, windows=(0, 0))
    source = random.Random(1)
    prompts = [[source.randrange(250) for _ in range(9)] for _ in range(4)]
    sampling = Sampling(temperature=0, max_tokens=12, ignore_end=True)
    completions = Engine(model, tokenizer).generate([Request(tuple(one), sampling) for one in prompts])
    assert decode_plainly(model, prompts, 12) == [list(one.ids) for one in completions]
