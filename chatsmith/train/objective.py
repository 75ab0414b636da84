"""What is minimised, and whether it is compiled: the network and the loss made ready for training."""

import os
from collections.abc import Callable
from contextlib import AbstractContextManager

import torch
from torch import Tensor

from chatsmith.data.batch import NOT_TRAINED_ON, Batch
from chatsmith.model.gpt import GPT
from chatsmith.model.loss import IGNORED, chunk_gradient, chunked_cross_entropy
from chatsmith.runtime.device import Runtime, can_compile
from chatsmith.train.loop import ComputeLoss

assert NOT_TRAINED_ON == IGNORED


def prepare(model: GPT, runtime: Runtime, compile: bool, notice: Callable[[str], None]) -> ComputeLoss:
    """Set the model's compute type, compile its blocks and the loss if asked and possible, and return the loss.

    Without what torch.compile needs, everything runs eager, and `notice` is told so in one line.
    """
    model.compute_dtype = runtime.compute_dtype
    gradient_of = chunk_gradient
    if compile and not can_compile(runtime.device):
        notice(
            "no C++ compiler was found, so nothing is compiled and training is slower: install g++, "
            "or name another compiler in CXX"
        )
        compile = False
    if compile:
        # Timing-based choices between kernels would make two runs differ.
        os.environ.setdefault("TORCHINDUCTOR_MAX_AUTOTUNE", "0")
        model.compile_blocks()
        gradient_of = torch.compile(chunk_gradient, dynamic=False)

    def cross_entropy(model: GPT, batch: Batch, scale: float) -> Tensor:
        hidden = model(batch.inputs).flatten(0, 1)
        weights = torch.full(hidden.shape[:1], scale, device=hidden.device)
        return chunked_cross_entropy(model, hidden, batch.targets.flatten(), weights, gradient_of)

    return cross_entropy


def uncompiled() -> AbstractContextManager[object]:
    """A block in which a compiled model runs eager: an evaluation without gradients would compile everything once
    more, which takes longer than the few batches of it do."""
    return torch.compiler.set_stance("force_eager")
