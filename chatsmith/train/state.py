"""A training run's state on disk: weights and optimizer by parameter name, how far it has come, what a stage carries.

The order of the data follows from the seed and the number of rows used, and training draws no random numbers, so
a resumed run is the uninterrupted one: bit for bit on a CPU.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from chatsmith.checkpoint.state import load_state, save_state
from chatsmith.model.gpt import GPT
from chatsmith.optim.groups import Optimizer

MODEL_PREFIX = "model."
CARRIED_PREFIX = "carried."


class Carried(Protocol):
    """What a stage keeps from step to step besides weights and optimizer, such as the best weights so far."""

    def named_state(self) -> dict[str, Tensor]:
        """Everything a resumed run needs, by name."""
        ...

    def load_named_state(self, state: dict[str, Tensor]) -> None:
        """Restore what `named_state` gave."""
        ...


def save_training(
    folder: Path,
    model: GPT,
    optimizer: Optimizer,
    *,
    step: int,
    steps: int,
    key: str,
    carried: Carried | None = None,
) -> None:
    """Save the state after `step` of `steps` steps of the run identified by `key`."""
    tensors = {MODEL_PREFIX + name: value for name, value in model.state_dict().items()}
    kept = carried.named_state() if carried else {}
    tensors |= {CARRIED_PREFIX + name: value for name, value in kept.items()}
    save_state(folder, tensors | optimizer.named_state(), {"step": step, "steps": steps, "key": key})


def restore_training(
    folder: Path,
    model: GPT,
    optimizer: Optimizer,
    *,
    key: str,
    notice: Callable[[str], None],
    carried: Carried | None = None,
) -> tuple[int, int | None]:
    """Load the newest state of the run `key` into model and optimizer. Returns its step and of how many; (0, None) if
    there is none, and None where an older chatsmith did not note it.

    A state of another run (other settings, other data) is left alone and not used.
    """
    if not folder.exists():
        return 0, None
    state = load_state(folder, notice)
    if state is None or state.facts["key"] != key:
        return 0, None
    model.load_state_dict(_under(MODEL_PREFIX, state.tensors))
    with torch.no_grad():
        optimizer.load_named_state(state.tensors)
    if carried:
        carried.load_named_state(_under(CARRIED_PREFIX, state.tensors))
    return int(state.facts["step"]), state.facts.get("steps")


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
