"""The value that crosses from the data room to the training loop: one batch of rows.

It holds tensors and nothing else: where its rows came from, and in which order, is decided in `packing` and
`conversations`.
"""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

NOT_TRAINED_ON = -1
"""The target that means "no loss here": padding, the user's words in a chat, the results of tools."""


class Batch(NamedTuple):
    """`targets[b, t]` is the id that should follow `inputs[b, : t + 1]`, or -1 where nothing is learned."""

    inputs: Tensor
    """(B, T) int64 ids."""
    targets: Tensor
    """(B, T) int64 ids; -1 is not trained on."""

    @property
    def num_targets(self) -> int:
        """How many targets are trained on."""
        return int((self.targets != NOT_TRAINED_ON).sum())

    def to(self, device: torch.device) -> "Batch":
        """The same batch on `device`; from page-locked memory without waiting for the copy."""
        return Batch(*(ids.to(device, non_blocking=True) for ids in self))


def make_batch(inputs: np.ndarray, targets: np.ndarray, *, pin_memory: bool = False) -> Batch:
    """Two (B, T) integer arrays as a Batch of their own memory.

    `pin_memory` puts both into page-locked memory, from which a GPU copies while it computes; it needs CUDA.
    """
    assert inputs.shape == targets.shape and inputs.ndim == 2
    batch = Batch(*(torch.from_numpy(ids.astype(np.int64)) for ids in (inputs, targets)))
    if pin_memory:
        return Batch(batch.inputs.pin_memory(), batch.targets.pin_memory())
    return batch
