"""One optimizer step: the loss of the step's batches, gradients, their sum over all processes, the update.

Also what comes before the first one: the model's compute type, and whether its blocks and the loss are compiled.
"""

import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

from chatsmith.data.packing import NOT_TRAINED_ON, Batch
from chatsmith.model.gpt import GPT
from chatsmith.model.loss import IGNORED, ChunkGradient, chunk_gradient, chunked_cross_entropy
from chatsmith.optim.optimizer import Optimizer
from chatsmith.runtime.device import Runtime, can_compile, gemm_peak, read_later
from chatsmith.runtime.distributed import sum_number
from chatsmith.runtime.errors import UserError
from chatsmith.train.memory import Notch, is_out_of_memory
from chatsmith.train.plan import Plan

assert NOT_TRAINED_ON == IGNORED

COMPILING_PAYS_SECONDS = 120.0
"""A run shorter than this is done sooner without: compiling took 30 to 50 s here, and saves about a third."""


class NonFiniteLossError(UserError):
    """The loss is not finite, or explodes; the weights, the last saved state and the last good bundle are intact."""


class Trainable(Protocol):
    """What a step is made of: `data.packing.Batch`, or the batches of `rl.objective`."""

    @property
    def num_targets(self) -> int:
        """How many tokens are trained on; 0 where a batch is empty."""
        ...

    def to(self, device: torch.device) -> Any:
        """The same on `device`."""
        ...

    def __iter__(self) -> Iterator[Any]:
        """Its tensors, of one row each along the first axis; or None."""
        ...


B = TypeVar("B", bound=Trainable)
ComputeLoss = Callable[[GPT, B, float], Tensor]
"""compute_loss(model, batch, scale): the sum of the batch's losses times `scale`, with its graph."""


def train_step(
    model: GPT,
    optimizer: Optimizer,
    batches: Iterable[B],
    plan: Plan,
    compute_loss: ComputeLoss[B],
    runtime: Runtime,
    step: int,
    notch: Notch | None = None,
    *,
    most_loss: float = math.inf,
    rate: float = 1.0,
) -> float:
    """Update `model` once, from this process's `batches` and those of all other processes, as step number `step` of the
    plan, with `rate` times its learning rates. Returns the mean loss over the step's trained tokens.

    The host waits for the device once, for the last forward pass: the last backward pass is still running then.
    Where memory runs out before the update, `notch` is lowered and the gradients are computed again, in smaller
    pieces.

    Nothing is updated where no process has anything to learn from (then the mean is 0), and where the loss is not
    finite or above `most_loss`.
    Raises UserError where the smallest pieces do not fit.
    """
    notch = notch or Notch()
    counted = [(batch, num) for batch in batches if (num := batch.num_targets) or optimizer.is_collective]
    on_device = [batch.to(runtime.device) for batch, _ in counted]
    trained = sum_number(float(sum(num for _, num in counted)), runtime)
    loss_scale = notch.loss_scale if runtime.compute_dtype == torch.float16 else 1.0
    while True:
        try:
            # Every token weighs the same, however unevenly microbatches and processes are masked.
            scale = loss_scale / max(trained, 1.0)
            read = _gradients(model, optimizer, on_device, compute_loss, scale, notch.pieces)
            if trained:
                optimizer.reduce_gradients()
            break
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
        # Not above: as long as the error is handled, its traceback keeps what the failed pass had in memory.
        optimizer.start_over()
        notch.lower(model, max(len(next(iter(batch))) for batch in on_device))
    total = 0.0
    for loss in read():  # one by one: the sum() of Python 3.12 rounds otherwise than that of 3.11
        total += loss
    total = sum_number(total, runtime) / loss_scale
    notch.agree(model, runtime)
    is_good = trained and math.isfinite(total) and total <= most_loss
    if is_good and (loss_scale == 1.0 or notch.can_update(model, runtime)):
        progress, schedule = step / plan.steps, plan.schedule
        optimizer.step(
            rate * schedule.rate(progress),
            schedule.muon_momentum(progress),
            rate * schedule.weight_decay(progress),
            loss_scale,
        )
    optimizer.zero_grad()
    return total


def _gradients(
    model: GPT,
    optimizer: Optimizer,
    batches: Sequence[B],
    compute_loss: ComputeLoss[B],
    scale: float,
    pieces: int,
) -> Callable[[], list[float]]:
    """Forward and backward of all microbatches, each cut into at most so many pieces. What is returned gives their
    losses, as `read_later` does."""
    cut = [one for batch in batches for one in batch_pieces(batch, pieces, optimizer.is_collective)]
    losses: list[Tensor] = []
    read: Callable[[], list[float]] = list
    for index, batch in enumerate(cut, start=1):
        if index == len(cut):
            optimizer.last_backward()
        loss = compute_loss(model, batch, scale)
        losses.append(loss.detach())
        if index == len(cut):
            read = read_later(torch.stack(losses))
        loss.backward()
    return read


def batch_pieces(batch: B, pieces: int, even_empty: bool = False) -> list[B]:
    """The rows of a batch as at most so many batches: of several, those without a target only with `even_empty`."""
    if pieces == 1:
        return [batch]
    columns = [[None] * pieces if column is None else column.chunk(pieces) for column in batch]
    cut = (type(batch)(*rows) for rows in zip(*columns, strict=False))
    return [piece for piece in cut if even_empty or piece.num_targets]


def prepare(
    model: GPT,
    runtime: Runtime,
    compile: bool,
    notice: Callable[[str], None],
    seconds: float = math.inf,
    gradient_of: ChunkGradient = chunk_gradient,
) -> Callable[[GPT, Batch, float], Tensor]:
    """Set the model's compute type, compile its blocks and the loss, and return the loss: the cross-entropy of a Batch.
    `gradient_of` is how that of a chunk is computed; the plain way is compiled, too.

    With `compile`, everything is compiled if a run of about `seconds` repays it and torch.compile has what it needs;
    otherwise everything runs eager, and `notice` gets the reason in one line.
    """
    model.compute_dtype = runtime.compute_dtype
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
        if gradient_of is chunk_gradient:
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
