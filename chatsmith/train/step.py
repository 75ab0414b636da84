"""One optimizer step: the loss of the step's batches, gradients, their sum over all processes, the update.

Also what comes before the first one: the model's compute type, and whether its blocks and the loss are compiled.
"""

import math
import os
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

from chatsmith.data.packing import NOT_TRAINED_ON, Batch
from chatsmith.model.gpt import GPT
from chatsmith.model.loss import IGNORED, chunk_gradient, chunked_cross_entropy
from chatsmith.optim.optimizer import Optimizer
from chatsmith.optim.sharded import ShardedOptimizer
from chatsmith.runtime.device import Runtime, can_compile, gemm_peak
from chatsmith.runtime.distributed import sum_number
from chatsmith.runtime.errors import UserError
from chatsmith.train.plan import Plan

assert NOT_TRAINED_ON == IGNORED

COMPILING_PAYS_SECONDS = 120.0
"""A run shorter than this is done sooner without: compiling took 30 to 50 s here, and saves about a third."""


class NonFiniteLossError(UserError):
    """The loss became NaN or infinite; the last saved state and the last good bundle are intact."""


class Trainable(Protocol):
    """What a step is made of: `data.packing.Batch`, or the batches of `rl.objective`."""

    @property
    def num_targets(self) -> int:
        """How many tokens are trained on; 0 where a batch is empty."""
        ...

    def to(self, device: torch.device) -> Any:
        """The same on `device`."""
        ...


B = TypeVar("B", bound=Trainable)
ComputeLoss = Callable[[GPT, B, float], Tensor]
"""compute_loss(model, batch, scale): the sum of the batch's losses times `scale`, with its graph."""


def train_step(
    model: GPT,
    optimizer: Optimizer | ShardedOptimizer,
    batches: Iterable[B],
    plan: Plan,
    compute_loss: ComputeLoss[B],
    runtime: Runtime,
    step: int,
) -> float:
    """Update `model` once, from this process's `batches` and those of all other processes, as step number `step` of the
    plan. Returns the mean loss over the step's trained tokens.

    Where no process has anything to learn from, nothing is updated and the mean is 0. Raises NonFiniteLossError before
    the update that would spoil the weights.
    """
    counted = [(batch, num) for batch in batches if (num := batch.num_targets)]
    on_device = [batch.to(runtime.device) for batch, _ in counted]
    trained = sum_number(float(sum(num for _, num in counted)), runtime)
    losses: list[Tensor] = []
    total = 0.0
    for index, batch in enumerate(on_device, start=1):
        if index == len(on_device):
            optimizer.last_backward()
        # Every token weighs the same, however unevenly microbatches and processes are masked.
        loss = compute_loss(model, batch, 1 / max(trained, 1.0))
        loss.backward()
        losses.append(loss.detach())
    if trained:
        optimizer.reduce_gradients()
    for loss in losses:  # not before the last backward pass: reading waits for the device
        total += loss.item()
    total = sum_number(total, runtime)
    if not math.isfinite(total):
        raise NonFiniteLossError(
            f"the loss became {total} at step {step:,}; nothing saved so far is touched. Lower the learning rate, "
            "for example by half, or look for broken text near this step",
            setting="rate_scale",
        )
    if not trained:
        return 0.0
    progress = step / plan.steps
    schedule = plan.schedule
    optimizer.step(schedule.rate(progress), schedule.muon_momentum(progress), schedule.weight_decay(progress))
    optimizer.zero_grad()
    return total


def prepare(
    model: GPT,
    runtime: Runtime,
    compile: bool,
    notice: Callable[[str], None],
    seconds: float = math.inf,
) -> Callable[[GPT, Batch, float], Tensor]:
    """Set the model's compute type, compile its blocks and the loss, and return the loss: the cross-entropy of a Batch.

    With `compile`, everything is compiled if a run of about `seconds` repays it and torch.compile has what it needs;
    otherwise everything runs eager, and `notice` gets the reason in one line.
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
    more, which takes longer than its few batches."""
    return torch.compiler.set_stance("force_eager")


def expected_seconds(flops: float, runtime: Runtime) -> float:
    """About how long training arithmetic takes on this machine, at half of its matrix peak."""
    return flops / (gemm_peak(runtime, runtime.compute_dtype, seconds=0.3) / 2)
