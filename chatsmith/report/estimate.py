"""What a training run will take on a device, also on one that is not here: seconds by cause, tokens/s, MFU, dollars.

A step's time is counted, not guessed: floating-point operations of the matrix products and of attention, bytes of the
elementwise code between them, bytes that processes exchange, the optimizer's own products. What a device reaches of its
data sheet is one number a dtype (`Device.efficiency`); everything else is the same for all. The model was checked
against published runs that it was not fitted to (tests/report/test_estimate.py, docs/scaling.md). No torch here.
"""

import math
import re
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from chatsmith.model.config import Cost, GPTConfig, model_cost
from chatsmith.runtime.errors import UserError


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
) -> StepTime:
    """Time of a step. `recompute` is the share of the forward pass that activation checkpointing repeats.

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
    # Newton-Schulz on each matrix of a block, five times (2 m^2 n + m^3), C = m: 12 C^2 entries make 12 squares.
    muon = 5 * 12 * config.num_layers * 2 * 3 * width**3 / world_size
    return StepTime(
        matmuls=again * 6 * (cost.matrices + cost.head) * tokens / product_speed,
        attention=again * 14 * width * attended(config, length) * tokens / speed,
        elementwise=again * ELEMENTWISE_BYTES * width * config.num_layers * tokens / read,
        loss=LOSS_BYTES * config.vocab_size * tokens / read,
        weights=microbatches * (2.5 * 4) * cost.scaling_parameters / read,
        communication=exchanged / device.link * (1 - HIDDEN_COMMUNICATION) + exchanged / device.link,
        optimizer=muon / speed + 4 * state_bytes / world_size / read,
        host=HOST_SECONDS,
    )


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


def device_called(title: str) -> Device | None:
    """The device that the driver calls so ("NVIDIA H100 80GB HBM3"), if it is in the table."""
    words = title.lower().split()
    return next((device for device in DEVICES.values() if device.name in words), None)


def find_device(name: str) -> Device:
    """The device of a name such as h100. Raises UserError for others."""
    if name not in DEVICES:
        raise UserError(f"there is no device {name!r} in the table; known are {', '.join(DEVICES)}")
    return DEVICES[name]
