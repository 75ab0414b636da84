"""A training run's state on disk: weights and optimizer by parameter name, and how far it has come.

The order of the data follows from the seed and the number of rows used, and training draws no random numbers, so
a resumed run is the uninterrupted one: bit for bit on a CPU.
"""

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from chatsmith.checkpoint.state import load_state, save_state
from chatsmith.model.gpt import GPT
from chatsmith.optim.groups import Optimizer

MODEL_PREFIX = "model."


def save_training(folder: Path, model: GPT, optimizer: Optimizer, *, step: int, key: str) -> None:
    """Save the state after `step` steps of the run identified by `key`."""
    tensors = {MODEL_PREFIX + name: value for name, value in model.state_dict().items()}
    save_state(folder, tensors | optimizer.named_state(), {"step": step, "key": key})


def restore_training(
    folder: Path, model: GPT, optimizer: Optimizer, *, key: str, notice: Callable[[str], None]
) -> int:
    """Load the newest state of the run `key` into model and optimizer; returns its step, 0 if there is none.

    A state of another run (other settings, other data) is left alone and not used.
    """
    if not folder.exists():
        return 0
    state = load_state(folder, notice)
    if state is None or state.facts["key"] != key:
        return 0
    tensors = state.tensors
    weights: dict[str, Tensor] = {
        name.removeprefix(MODEL_PREFIX): value
        for name, value in tensors.items()
        if name.startswith(MODEL_PREFIX)
    }
    model.load_state_dict(weights)
    with torch.no_grad():
        optimizer.load_named_state(tensors)
    return int(state.facts["step"])
