"""A tiny real model and tokenizer, every weight drawn at random so that none can be lost unnoticed."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from chatsmith.bundle import save_bundle
from chatsmith.model.config import GPTConfig
from chatsmith.model.gpt import GPT
from chatsmith.text.tokenizer import Tokenizer, train_tokenizer


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    return train_tokenizer(["the cat sat on the mat; the dog sat on the cat. " * 3], vocab_size=300)


@pytest.fixture
def model(tokenizer: Tokenizer) -> GPT:
    config = GPTConfig(
        vocab_size=tokenizer.vocab_size,
        context_length=32,
        num_layers=2,
        num_heads=2,
        head_dim=8,
        windows=(8, 0),
        value_embedding_layers=(1,),
        bigram_buckets=64,
    )
    model = GPT(config)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return model


@pytest.fixture
def saved(tmp_path: Path, model: GPT, tokenizer: Tokenizer) -> Callable[[str], Path]:
    """Saves the tiny model as a bundle under the given name in a temporary folder and returns the bundle."""

    def save(name: str) -> Path:
        path = tmp_path / name
        save_bundle(
            path,
            model,
            tokenizer,
            generation={"temperature": 0.8, "top_k": 20, "max_tokens": 64},
            card="# Tiny\n",
            provenance={"stage": "pretrain"},
        )
        return path

    return save
