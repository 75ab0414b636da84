"""What is minimised, and whether it is compiled: the network and the loss made ready for training."""

import math
import os
from collections.abc import Callable
from contextlib import AbstractContextManager

import torch
from torch import Tensor

from chatsmith.data.packing import NOT_TRAINED_ON, Batch
from chatsmith.model.gpt import GPT
from chatsmith.model.loss import IGNORED, chunk_gradient, chunked_cross_entropy
from chatsmith.runtime.device import Runtime, can_compile, gemm_peak

assert NOT_TRAINED_ON == IGNORED


COMPILING_PAYS_SECONDS = 120.0
"""A run shorter than this is done sooner without: compiling took 30 to 50 s here, and saves about a third."""


def expected_seconds(flops: float, runtime: Runtime) -> float:
    """About how long training arithmetic takes on this machine, at half of its matrix peak."""
    return flops / (gemm_peak(runtime, runtime.compute_dtype, seconds=0.3) / 2)


def prepare(
    model: GPT,
    runtime: Runtime,
    compile: bool,
    notice: Callable[[str], None],
    seconds: float = math.inf,
) -> Callable[[GPT, Batch, float], Tensor]:
    """Set the model's compute type, compile its blocks and the loss, and return the loss.

    Compiled is what was asked to be, where a run of about `seconds` repays it and torch.compile has what it needs;
    otherwise everything runs eager, and `notice` is told so in one line.
    """
    model.compute_dtype = runtime.compute_dtype
    gradient_of = chunk_gradient
    if compile and seconds < COMPILING_PAYS_SECONDS:
        notice(f"about {seconds:.0f} s of training do not repay compiling, so nothing is compiled")
        compile = False
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
