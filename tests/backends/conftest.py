"""Backends are tested with the engine's tiny models."""

from typing import Any

from chatsmith.backends import Quantization, choose_backend
from chatsmith.engine.engine import Engine
from chatsmith.model.gpt import GPT
from chatsmith.text.tokenizer import Tokenizer
from tests.engine.conftest import model, naive, tokenizer
from tests.threads import one_thread

__all__ = ["fast_engine", "model", "naive", "one_thread", "tokenizer"]


def fast_engine(
    model: GPT, tokenizer: Tokenizer, quantize: Quantization | None = None, **options: Any
) -> Engine:
    """An engine that computes as fast as it can here; a plain `Engine` computes by torch alone."""
    return Engine(model, tokenizer, backend=choose_backend(model, quantize=quantize), **options)
