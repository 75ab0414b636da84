"""Reinforcement learning is tested with the trainer's tiny models."""

from tests.threads import one_thread
from tests.train.conftest import batches_from, new_model, new_plan, reporter, runtime, shape, training_run

__all__ = [
    "batches_from",
    "new_model",
    "new_plan",
    "one_thread",
    "reporter",
    "runtime",
    "shape",
    "training_run",
]
