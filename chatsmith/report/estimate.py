"""What a training run will take on a device, also on one that is not here: seconds by cause, tokens/s, MFU, dollars.

A step's time is counted, not guessed: floating-point operations of the matrix products and of attention, bytes of the
elementwise code between them, bytes that processes exchange, the optimizer's own products. What a device reaches of its
data sheet is one number a dtype (`Device.efficiency`); everything else is the same for all. The model was checked
against published runs that it was not fitted to (tests/report/test_estimate.py, docs/scaling.md).

On this machine a step is timed instead, by a few rows that are trained on, before there is any data; and whether a plan
fits into a memory, and how, is asked of the function that training itself asks.
"""

import math
import re
import statistics
import time
import tomllib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from chatsmith.data.packing import Batch
from chatsmith.model.config import Cost, GPTConfig, model_cost
from chatsmith.model.gpt import GPT
from chatsmith.optim.optimizer import Optimizer
from chatsmith.runtime.console import format_bytes
from chatsmith.runtime.device import Runtime, free_memory, resident_with
from chatsmith.runtime.errors import UserError
from chatsmith.train.memory import SHARE_OF_FREE_MEMORY, Fit, Way, find_fit, most_at_once, state_bytes
from chatsmith.train.plan import Plan
from chatsmith.train.step import prepare


@dataclass(frozen=True)
class Device:
    """One accelerator: a line of devices.toml, which says what the numbers mean and where they are from."""

    name: str
    title: str
    memory: float
    flops: dict[str, float]
    bandwidth: float
    link: float
    efficiency: dict[str, float]
    dollars_per_hour: float


_TABLE = tomllib.loads(Path(__file__).with_name("devices.toml").read_text(encoding="utf-8"))
DEVICES = {name: Device(name, **numbers) for name, numbers in _TABLE.items()}

READ_SHARE = 0.9
"""Of its data sheet's bandwidth, what elementwise code reaches."""
ELEMENTWISE_BYTES = 180
"""Bytes that compiled elementwise code moves for a token, channel and layer, forward and backward in bf16: norms,
rotation, residual stream, squared ReLU. Counted in the compiled graph of a d20 (docs/scaling.md)."""
LOSS_BYTES = 16
"""Bytes for a token and entry of the vocabulary: logits written and read in the softcapped cross-entropy."""
HIDDEN_COMMUNICATION = 0.8
"""Share of the gradients' traffic that the backward pass hides."""
HOST_SECONDS = 0.004
"""A step's bookkeeping that no kernel hides."""


@dataclass(frozen=True)
class StepTime:
    """Seconds of one optimizer step on each of `world_size` devices, by cause."""

    matmuls: float
    attention: float
    elementwise: float
    loss: float
    weights: float
    """Casting weights and adding gradients once a microbatch."""
    communication: float
    optimizer: float
    host: float

    @property
    def seconds(self) -> float:
        """All of it."""
        return sum(vars(self).values())


def attended(config: GPTConfig, length: int) -> float:
    """Keys that a query of a row of `length` tokens sees on average, summed over the layers."""

    def mean(window: int) -> float:
        reach = min(window or length, length)
        return reach - reach * (reach - 1) / (2 * length)

    return sum(mean(window) for window in config.windows)


def step_of(
    plan: Plan,
    device: Device,
    dtype: str,
    recompute: float = 0.0,
    *,
    fp8: bool = False,
    is_cut: bool = False,
) -> StepTime:
    """A step of a plan, in the microbatches that it has."""
    return step_time(
        plan.model,
        device,
        tokens_per_step=plan.tokens_per_step,
        microbatch_tokens=plan.rows_per_microbatch * plan.sequence_length,
        world_size=plan.world_size,
        dtype=dtype,
        fp8=fp8,
        recompute=recompute,
        is_cut=is_cut,
    )


def step_time(
    config: GPTConfig,
    device: Device,
    *,
    tokens_per_step: int,
    microbatch_tokens: int,
    world_size: int,
    dtype: str = "bf16",
    fp8: bool = False,
    recompute: float = 0.0,
    is_cut: bool = False,
) -> StepTime:
    """Time of a step. `recompute` is the share of the forward pass that activation checkpointing repeats. Where
    `is_cut`, each microbatch gathers the weights twice, in bf16, and reduces gradients in float32, beside arithmetic.

    With `fp8`, the blocks' products run at that rate; the head's do not.

    Attention costs 14 C operations for a query, key and layer: four forward, ten backward (FlashAttention-2, Dao 2023,
    arXiv:2307.08691, recomputes the scores), and only keys that are seen are counted.
    """
    cost, width, length = model_cost(config), config.model_dim, config.context_length
    speed = device.flops[dtype] * device.efficiency[dtype]
    product_speed = device.flops["fp8"] * device.efficiency["fp8"] if fp8 else speed
    read = device.bandwidth * READ_SHARE
    tokens = tokens_per_step / world_size
    microbatches = max(1, math.ceil(tokens / microbatch_tokens))
    again = 1 + recompute / 3  # the forward pass is a third
    state_bytes = 4 * cost.parameters
    exchanged = 0.0 if world_size == 1 else 2 * cost.parameters * (world_size - 1) / world_size
    hidden = exchanged * (4 * microbatches if is_cut else 1)
    # Newton-Schulz on each matrix of a block, five times (2 m^2 n + m^3), C = m: 12 C^2 entries make 12 squares.
    muon = 5 * 12 * config.num_layers * 2 * 3 * width**3 / world_size
    return StepTime(
        matmuls=again * 6 * (cost.matrices / product_speed + cost.head / speed) * tokens,
        attention=again * 14 * width * attended(config, length) * tokens / speed,
        elementwise=again * ELEMENTWISE_BYTES * width * config.num_layers * tokens / read,
        loss=LOSS_BYTES * config.vocab_size * tokens / read,
        weights=microbatches * (2.5 * 4) * cost.scaling_parameters / read,
        communication=(hidden * (1 - HIDDEN_COMMUNICATION) + (0 if is_cut else exchanged)) / device.link,
        optimizer=muon / speed + 4 * state_bytes / world_size / read,
        host=HOST_SECONDS,
    )


# ---- memory, and time on this machine ----

PER_MACHINE = 8
"""GPUs: weights are cut within a machine."""

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
    way = replace(way, most_shards=min(way.world_size, PER_MACHINE))
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
        f"does not fit, because a step needs {format_bytes(fit.needed)} at least, {format_bytes(state)} of it "
        f"for weights, gradients and the optimizer, and {format_bytes(room)} are there"
    )
    if fit.way.on_gpu and fit.way.world_size == 1:
        for count in (2, 4, 8):
            several = replace(fit.way, world_size=count, bf16_tables=False, most_shards=count)
            if find_fit(plan.model, max(1, plan.rows_per_step // count), 1, several, room).fits:
                return f"{words}; {count} such GPUs would share it, and it would fit"
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


# ---- money, disk and network ----

PRETRAINING_SHARE = 0.75
"""Of a pipeline's time, what pretraining may take: of nanochat's 3 h 51 min it took 3 h."""
SHARD_BYTES = 1e8
"""Of one shard of the data sets that nanochat trains on (its speedrun.sh: 100 MB, 250 million characters)."""
SOURCE_BYTES = {"smoltalk": 1e9, "mmlu": 5e7, "benchmarks": 2e8}
"""About what else is downloaded, by name; the benchmarks are those of all suites, and the words."""


def download_bytes(sources: Sequence[str]) -> float:
    """About how many bytes come over the network for sources of these names."""
    shards = {
        source: int(found[2]) - int(found[1] or 0)
        for source in sources
        if (found := re.search(r"^hub:.*\[(\d*):(\d+)\]", source))
    }
    return SHARD_BYTES * sum(shards.values()) + sum(
        size for name, size in SOURCE_BYTES.items() if any(source.split()[0] == name for source in sources)
    )


def kept_bytes(cost: Cost, tokens: int, vocab_size: int, bundles: int) -> int:
    """Bytes on disk of token ids, of the bundles, and of three training states, which there are during a save."""
    ids = tokens * (2 if vocab_size <= 65_536 else 4)
    return ids + 4 * cost.parameters * bundles + 3 * 12 * cost.parameters


def device_here(device: torch.device) -> Device | None:
    """The GPU that the driver calls "NVIDIA H100 80GB HBM3", or the like, if it is in the table."""
    words = torch.cuda.get_device_name(device).lower().split() if device.type == "cuda" else []
    return next((one for one in DEVICES.values() if one.name in words), None)


def find_device(name: str) -> Device:
    """The device of a name such as h100. Raises UserError for others."""
    if name not in DEVICES:
        raise UserError(f"there is no device {name!r} in the table; known are {', '.join(DEVICES)}")
    return DEVICES[name]
