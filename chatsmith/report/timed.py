"""What a step of a plan takes on this machine, from a few rows that are trained on, before there is any data."""

import statistics
import time
from collections.abc import Callable

import torch

from chatsmith.data.packing import Batch
from chatsmith.model.gpt import GPT
from chatsmith.optim.optimizer import Optimizer
from chatsmith.runtime.device import Runtime
from chatsmith.train.memory import state_bytes
from chatsmith.train.plan import Plan
from chatsmith.train.step import prepare

MOST_TIMES = 4
ENOUGH_SECONDS = 2.0
"""Rows and update are timed this often, or until it took this long."""

FEWEST_SHARE = 0.2
"""Of the matrix peak: what small models reach on a CPU (11 to 21 %, width 128 to 256)."""

ROW_SECONDS = 0.5
"""As many rows are timed at once as take this long. If a single one would take longer at that share, waiting for it is
no answer to a question that is asked before training."""

MOST_STATE_BYTES = 2e9
"""Models with more to keep are not made just to be timed."""


def foreseen_step_seconds(plan: Plan, runtime: Runtime, peak_flops: float) -> float | None:
    """What a step of `plan` takes one process, in seconds, before there is any data; None where a single row takes too
    long to try, or the model too much memory. `peak_flops` is the device's matrix peak.

    A few rows of random ids go through training (the speed of arithmetic does not depend on them), uncompiled, and the
    step is computed from them. How far several processes slow each other down is not measured.
    """
    row_seconds = plan.cost.training_flops_per_token * plan.sequence_length / (FEWEST_SHARE * peak_flops)
    if row_seconds > ROW_SECONDS or sum(state_bytes(plan.cost).values()) > MOST_STATE_BYTES:
        return None
    generator = torch.Generator().manual_seed(1)
    model = GPT(plan.model)
    model.init_weights(generator)
    model.to(runtime.device)
    compute_loss = prepare(model, runtime, False, lambda _: None)
    optimizer = Optimizer(model, plan.rates)

    def gradients(rows: int) -> None:
        shape = (rows, plan.sequence_length)
        ids, targets = (torch.randint(plan.model.vocab_size, shape, generator=generator) for _ in range(2))
        compute_loss(model, Batch(ids, targets).to(runtime.device), 1 / ids.numel()).backward()

    def update() -> None:
        optimizer.step(1.0, 0.95, 1.0)
        optimizer.zero_grad()

    gradients(1)
    update()
    row_seconds = _seconds(lambda: gradients(1), runtime)
    rows = min(plan.rows_per_microbatch, max(1, int(ROW_SECONDS / row_seconds)))
    started = time.perf_counter()
    timed: list[tuple[float, float]] = []
    while not timed or (len(timed) < MOST_TIMES and time.perf_counter() - started < ENOUGH_SECONDS):
        timed.append((_seconds(lambda: gradients(rows), runtime), _seconds(update, runtime)))
    of_rows, of_update = (statistics.median(times) for times in zip(*timed, strict=True))
    return plan.accumulation * plan.rows_per_microbatch / rows * of_rows + of_update


def _seconds(action: Callable[[], None], runtime: Runtime) -> float:
    runtime.synchronize()
    started = time.perf_counter()
    action()
    runtime.synchronize()
    return time.perf_counter() - started
