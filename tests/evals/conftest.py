"""A tiny real model and tokenizer for evaluations, and a reporter that writes into a string."""

import io
import os
from pathlib import Path

import pytest
import torch

from chatsmith.model.config import GPTConfig
from chatsmith.model.gpt import GPT
from chatsmith.runtime.logs import Reporter
from chatsmith.text.bpe import train_tokenizer
from chatsmith.text.tokenizer import Tokenizer


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    return train_tokenizer(["a cat, a mat and a hat; what is one and two? " * 5], vocab_size=300)


def random_model(tokenizer: Tokenizer, context_length: int) -> GPT:
    """Every weight is random: the zeros of a fresh model would make it say the same to everything."""
    model = GPT(GPTConfig(tokenizer.vocab_size, context_length, num_layers=2, num_heads=2, head_dim=8))
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.5)
    return model.eval()


@pytest.fixture(scope="session")
def model(tokenizer: Tokenizer) -> GPT:
    return random_model(tokenizer, context_length=64)


@pytest.fixture(scope="session")
def long_model(tokenizer: Tokenizer) -> GPT:
    """One that real prompts fit into."""
    return random_model(tokenizer, context_length=1024)


@pytest.fixture
def output() -> io.StringIO:
    return io.StringIO()


@pytest.fixture
def reporter(output: io.StringIO) -> Reporter:
    return Reporter(stream=output)


@pytest.fixture(scope="session")
def benchmarks() -> Path:
    """The folder of the benchmarks' files, in the project's shared data."""
    root = os.environ.get("CHATSMITH_SHARED_DATA") or Path(__file__).parents[3] / "shared" / "data"
    folder = Path(root) / "eval"
    if not folder.is_dir():
        pytest.skip(
            f"needs the shared data: {folder} is not there (CHATSMITH_SHARED_DATA names another place)"
        )
    return folder
