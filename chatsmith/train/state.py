"""A training run's state on disk: weights and optimizer by parameter name, how far it has come, what a stage carries.

The order of the data follows from the seed and the number of rows used, and training draws no random numbers, so
a resumed run is the uninterrupted one: bit for bit on a CPU.
"""

import re
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
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


@dataclass(frozen=True)
class TrainingKey:
    """Which training a state belongs to: only that one goes on from it. In a state it is kept as its text."""

    settings: str
    """The stage's key: its settings, and what it reads."""
    steps: int
    """How many were foreseen."""
    rows: int | None
    """Rows of a step, which another number of processes may round otherwise; None where it rounds nothing."""

    def __str__(self) -> str:
        size = "" if self.rows is None else f" of {self.rows} rows"
        return f"{self.settings} {self.steps} steps{size}"

    def rows_of_same(self, other: str) -> int | None:
        """The rows of a step in the training whose key has the text `other`, if it has these settings and this horizon,
        but steps of another size."""
        found = re.fullmatch(re.escape(self.settings) + r" (\d+) steps of (\d+) rows", other)
        if self.rows is None or not found:
            return None
        steps, rows = map(int, found.groups())
        # Both are whole steps nearest to one horizon; one that was measured anew is another.
        is_near = abs(steps * rows - self.steps * self.rows) <= (rows + self.rows) / 2
        return rows if rows != self.rows and is_near else None


@dataclass(frozen=True)
class Reached:
    """How far a training has come, over all its sessions."""

    step: int = 0
    steps: int | None = None
    """Of how many; None where nothing is saved, or an older chatsmith did not note it."""
    step_seconds: float = 0.0
    """What the steps took."""
    seconds: float = 0.0
    """What the commands took, evaluations and all, each up to its last save."""


def save_training(
    folder: Path,
    model: GPT,
    optimizer: Optimizer,
    *,
    reached: Reached,
    key: TrainingKey,
    carried: Carried | None = None,
) -> None:
    """Save the state of the training identified by `key`."""
    tensors = {MODEL_PREFIX + name: value for name, value in model.state_dict().items()}
    kept = carried.named_state() if carried else {}
    tensors |= {CARRIED_PREFIX + name: value for name, value in kept.items()}
    save_state(folder, tensors | optimizer.named_state(), asdict(reached) | {"key": str(key)})


def restore_training(
    folder: Path,
    model: GPT,
    optimizer: Optimizer,
    *,
    key: TrainingKey,
    notice: Callable[[str], None],
    carried: Carried | None = None,
) -> Reached:
    """Load the newest state of the training `key` into model and optimizer. Returns how far it had come: nowhere if
    there is none.

    A state of another training (other settings, other data) is left alone and not used.
    """
    state = load_state(folder, notice, str(key))
    if state is None:
        return Reached()
    model.load_state_dict(_under(MODEL_PREFIX, state.tensors))
    with torch.no_grad():
        optimizer.load_named_state(state.tensors)
    if carried:
        carried.load_named_state(_under(CARRIED_PREFIX, state.tensors))
    names = {field.name for field in fields(Reached)}  # an older chatsmith noted fewer
    return Reached(**{name: value for name, value in state.facts.items() if name in names})


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
