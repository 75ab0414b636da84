"""A tiny real model in float64, every parameter random, and the decoder that engines are compared with."""

from collections.abc import Callable

import pytest
import torch

from chatsmith.engine.request import Request
from chatsmith.engine.sampler import Row, choose
from chatsmith.model.config import GPTConfig
from chatsmith.model.gpt import GPT
from chatsmith.text.tokenizer import Tokenizer, train_tokenizer
from tests.threads import one_thread

__all__ = ["one_thread"]

CONTEXT = 96


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    return train_tokenizer(["the cat sat on the mat; the dog sat on the cat. 1+1=2 " * 3], vocab_size=300)


def random_model(vocab_size: int, windows: tuple[int, ...] = (0, 7, 0), seed: int = 0) -> GPT:
    """Zeros anywhere (untrained output projections, gates) would make attention or smear irrelevant."""
    config = GPTConfig(
        vocab_size=vocab_size,
        context_length=CONTEXT,
        num_layers=len(windows),
        num_heads=2,
        head_dim=8,
        windows=windows,
        value_embedding_layers=(1,),
        bigram_buckets=64,
    )
    model = GPT(config).to(torch.float64)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64) * 0.5)
    return model.eval()


@pytest.fixture(scope="session")
def model(tokenizer: Tokenizer) -> GPT:
    return random_model(tokenizer.vocab_size)


@pytest.fixture(scope="session")
def naive(model: GPT) -> Callable[[Request], list[int]]:
    """Decodes alone, without a cache: the whole row is computed again for every token."""

    @torch.inference_mode()
    def decode(request: Request) -> list[int]:
        sampling = request.sampling
        assert sampling.max_tokens is not None and sampling.ignore_end
        tokens = list(request.prompt_ids)
        while len(tokens) < min(len(request.prompt_ids) + sampling.max_tokens, CONTEXT):
            logits = model.logits(model(torch.tensor([tokens]))[0, -1:])
            row = Row(
                sampling,
                (sampling.seed or 0,),
                position=len(tokens),
                prompt_ids=request.prompt_ids,
                sampled_ids=tokens[len(request.prompt_ids) :],
            )
            chosen = choose(logits, [row])[0].id
            assert chosen is not None
            tokens.append(chosen)
        return tokens[len(request.prompt_ids) :]

    return decode
