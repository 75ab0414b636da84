"""Tiny models in which no weight is zero: an untrained output projection or gate would hide what feeds it."""

from collections.abc import Callable

import pytest
import torch

from chatsmith.model.config import GPTConfig
from chatsmith.model.gpt import GPT
from tests.threads import one_thread

__all__ = ["one_thread"]

VOCAB_SIZE, CONTEXT = 50, 24


@pytest.fixture(scope="session")
def random_model() -> Callable[..., GPT]:
    def make(windows: tuple[int, ...] = (0, 5, 0), dtype: torch.dtype = torch.float64) -> GPT:
        config = GPTConfig(
            vocab_size=VOCAB_SIZE,
            context_length=CONTEXT,
            num_layers=len(windows),
            num_heads=2,
            head_dim=8,
            windows=windows,
            value_embedding_layers=(len(windows) - 1,),
            bigram_buckets=32,
        )
        model = GPT(config)
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.5)
        return model.to(dtype)

    return make


@pytest.fixture(scope="session")
def random_tokens() -> Callable[..., torch.Tensor]:
    def make(rows: int = 2, length: int = CONTEXT, seed: int = 0) -> torch.Tensor:
        return torch.randint(VOCAB_SIZE, (rows, length), generator=torch.Generator().manual_seed(seed))

    return make
