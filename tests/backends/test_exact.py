"""The same request and seed give the same completion, bit for bit, whatever else the engine does or did, in bf16."""

import random

import pytest
import torch

from chatsmith.backends import choose_backend
from chatsmith.backends.native import load_library
from chatsmith.engine.engine import Engine
from chatsmith.engine.request import Completion, Request, SamplingParams
from chatsmith.model.config import GPTConfig
from chatsmith.model.gpt import GPT
from chatsmith.runtime.errors import UserError
from chatsmith.text.tokenizer import Tokenizer, train_tokenizer

TEXT = "cat mat hat dog cow pig hen fox ant bee elk owl and the of under over quickly slowly seven eleven"
WORDS = TEXT.split()


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer([TEXT * 20], vocab_size=380)


@pytest.fixture(scope="module")
def model(tokenizer: Tokenizer) -> GPT:
    """In bf16, with weights that leave its next token open."""
    model = GPT(GPTConfig(tokenizer.vocab_size, 512, num_layers=3, num_heads=2, head_dim=32))
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)
    return model.to(torch.bfloat16).eval()


def prompts(tokenizer: Tokenizer, count: int) -> list[Request]:
    """Of 60 to 150 words, each with a seed of its own."""
    rng = random.Random(3)
    made = []
    for seed in range(count):
        text = " ".join(rng.choice(WORDS) for _ in range(rng.randint(60, 150)))
        ids = (tokenizer.bos_id, *tokenizer.encode(text))
        made.append(Request(ids, SamplingParams(temperature=1.0, max_tokens=12, seed=seed, logprobs=2)))
    return made


def said(completions: list[Completion]) -> list[tuple]:
    return [(one.ids, one.logprobs, one.finish_reason) for one in completions]


def engine(model: GPT, tokenizer: Tokenizer, **settings) -> Engine:
    backend = choose_backend(model, exact=True)
    return Engine(
        model, tokenizer, backend=backend, **{"max_running": 16, "tokens_beside_decoding": 16, **settings}
    )


@pytest.mark.skipif(load_library() is None, reason="needs a C compiler")
def test_row_7_eighty_prompts_in_bf16_cached_uncached_alone_and_beside_others(model, tokenizer):
    requests = prompts(tokenizer, 80)
    assert any(len(request.prompt_ids) > 128 for request in requests)
    alone = engine(model, tokenizer, prefix_caching=False)
    expected = said([alone.generate([request])[0] for request in requests])
    together = engine(model, tokenizer)
    assert said(together.generate(requests)) == expected, "beside 15 others, read in chunks"
    assert said([together.generate([request])[0] for request in requests]) == expected, "some of it cached"
    assert said(together.generate(requests[::-1])[::-1]) == expected, "cached, beside others"
    assert together.stats().prefix_hits > 1000
    other = engine(model, tokenizer, max_running=5, tokens_per_step=97, prefix_caching=False)
    assert said(other.generate(requests[:20])) == expected[:20], "in steps of another size"


def test_row_7_exactness_that_cannot_be_had_is_refused(model, tokenizer, monkeypatch):
    monkeypatch.setattr("chatsmith.backends.load_library", lambda: None)
    with pytest.raises(UserError, match="a C compiler"):
        engine(model, tokenizer)
    backend = choose_backend(model, exact=None)  # where possible
    Engine(model, tokenizer, backend=backend)
    assert not backend.is_exact
