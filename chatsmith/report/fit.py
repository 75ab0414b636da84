"""What a plan takes before it is begun: whether it fits into a memory, and how, also on devices that are not here; and
what a step takes on this machine, from a few rows that are trained on, before there is any data.
"""

import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from chatsmith.data.packing import Batch
from chatsmith.model.gpt import GPT
from chatsmith.optim.optimizer import Optimizer
from chatsmith.runtime.console import format_bytes
from chatsmith.runtime.device import Runtime, free_memory, resident_with
from chatsmith.train.memory import SHARE_OF_FREE_MEMORY, Fit, Way, find_fit, most_at_once, state_bytes
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


def fit_here(plan: Plan, runtime: Runtime, is_compiled: bool) -> tuple[Plan, dict[str, Any], str]:
    """As `fit_within` what is free on this device now. On a CPU, "floor_bytes" is what the process holds besides; and
    "resident_bytes" what it will hold in all."""
    on_gpu = runtime.device.type == "cuda"
    way = Way(runtime.compute_dtype, on_gpu, is_compiled, world_size=plan.world_size)
    share = 1.0 if on_gpu else SHARE_OF_FREE_MEMORY / plan.world_size
    plan, facts, words = fit_within(plan, way, share * free_memory(runtime.device))
    if on_gpu:
        return plan, facts, words
    tensors, resident = facts["peak_bytes"], resident_with(facts["peak_bytes"])
    words += f"; {format_bytes(resident)} resident, with the program and what malloc keeps"
    return plan, facts | {"floor_bytes": resident - tensors, "resident_bytes": resident}, words


def fit_within(plan: Plan, way: Way, room: float) -> tuple[Plan, dict[str, Any], str]:
    """The plan in the microbatches in which training would do it within `room` bytes a device; bytes by what they are
    for, whether and how they fit; and the same in words."""
    rows = plan.rows_per_microbatch * plan.accumulation
    most = most_at_once(plan.model) if way.on_gpu else plan.rows_per_microbatch
    fit = find_fit(plan.model, rows, most, way, room)
    parts = {name: size for name, size in fit.memory.items() if name not in ("batch", "peak")}
    facts = parts | {
        "peak_bytes": fit.memory["peak"],
        "free_bytes": int(room),
        "fits": fit.fits,
        "micro_batch": fit.rows,
        "tier": fit.tier,
    }
    plan = replace(plan, rows_per_microbatch=fit.rows, accumulation=rows // fit.rows)
    return plan, facts, _in_words(plan, fit, room)


def _in_words(plan: Plan, fit: Fit, room: float) -> str:
    if fit.fits:
        named = ((name, size) for name, size in fit.memory.items() if size and name not in ("batch", "peak"))
        parts = ", ".join(f"{name} {format_bytes(size)}" for name, size in named)
        peak = f"{format_bytes(fit.memory['peak'])} of {format_bytes(room)} at most"
        return f"fits: {peak} ({parts}), {fit.tier}, {fit.rows} rows at once"
    state = sum(fit.memory[name] for name in ("weights", "gradients", "optimizer"))
    words = (
        f"does not fit, because a step needs {format_bytes(fit.memory['peak'])} at least, {format_bytes(state)} of it "
        f"for weights, gradients and the optimizer, and {format_bytes(room)} are there"
    )
    if fit.way.on_gpu and fit.way.world_size == 1:
        for count in (2, 4, 8):
            several = replace(fit.way, world_size=count, bf16_tables=False)
            if find_fit(plan.model, max(1, plan.rows_per_step // count), 1, several, room).fits:
                return f"{words}; {count} such GPUs would share the optimizer, and it would fit"
    return words


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
