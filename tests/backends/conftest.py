"""Backends are tested with the engine's tiny models."""

from tests.engine.conftest import model, naive, tokenizer
from tests.threads import one_thread

__all__ = ["model", "naive", "one_thread", "tokenizer"]
