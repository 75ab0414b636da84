"""What a training run will take on a device, also on one that is not here: seconds by cause, tokens/s, MFU, dollars.

A step's time is counted, not guessed: floating-point operations of the matrix products and of attention, bytes of the
elementwise code between them, bytes that processes exchange, the optimizer's own products. What a device reaches of its
data sheet is one number a dtype (`Device.efficiency`); everything else is the same for all. The model was checked
against published runs that it was not fitted to (`PUBLISHED`, tested, and in docs/scaling.md). No torch here.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from chatsmith.model.config import Cost, GPTConfig, model_cost
from chatsmith.runtime.errors import UserError


@dataclass(frozen=True)
class Device:
    """One accelerator by its data sheet (dense products, no sparsity), and what it reaches of it."""

    name: str
    title: str
    memory: float
    """Bytes."""
    flops: dict[str, float]
    """Peak matrix products a second by dtype."""
    bandwidth: float
    """Bytes a second of its memory."""
    link: float
    """Bytes a second that an all-reduce among the devices of one machine reaches, for each of them."""
    efficiency: dict[str, float] = field(default_factory=dict)
    """Share of `flops` that large products reach, casts included."""
    dollars_per_hour: float = 0.0
    """A usual price, for when none is given."""


GB, TB, TF = 1e9, 1e12, 1e12

# Efficiencies. H100, bf16: 620 TF/s of cuBLAS on products of 4,096 and more. H100, fp8: from nanochat's run 6 (d24,
# 984 K tokens/s on eight). A100: from an independent d20 on eight (8 h 21 min for the pipeline). GeForce: products in
# bf16 with float32 sums run at half of the advertised rate, which is what stands here, and boost clocks make up for
# most of what is lost. The others are taken like their nearest relative.
DEVICES = {
    device.name: device
    for device in (
        Device("h100", "NVIDIA H100 SXM", 80 * GB, {"bf16": 989 * TF, "fp8": 1979 * TF}, 3.35 * TB, 150 * GB,
               {"bf16": 0.63, "fp8": 0.42}, 3.0),
        Device("h200", "NVIDIA H200", 141 * GB, {"bf16": 989 * TF, "fp8": 1979 * TF}, 4.8 * TB, 150 * GB,
               {"bf16": 0.63, "fp8": 0.42}, 3.8),
        Device("a100", "NVIDIA A100 SXM", 80 * GB, {"bf16": 312 * TF}, 2.04 * TB, 100 * GB, {"bf16": 0.71}, 1.8),
        Device("l40s", "NVIDIA L40S", 48 * GB, {"bf16": 362 * TF, "fp8": 733 * TF}, 0.864 * TB, 12 * GB,
               {"bf16": 0.6, "fp8": 0.4}, 1.2),
        Device("4090", "NVIDIA RTX 4090", 24 * GB, {"bf16": 165 * TF, "fp8": 330 * TF}, 1.01 * TB, 12 * GB,
               {"bf16": 0.9, "fp8": 0.6}, 0.5),
        Device("4070", "NVIDIA RTX 4070", 12 * GB, {"bf16": 58.3 * TF}, 0.504 * TB, 6 * GB, {"bf16": 0.9}, 0.2),
        Device("3090", "NVIDIA RTX 3090", 24 * GB, {"bf16": 71 * TF}, 0.936 * TB, 12 * GB, {"bf16": 0.85}, 0.3),
        Device("t4", "NVIDIA T4", 16 * GB, {"fp16": 65 * TF}, 0.32 * TB, 6 * GB, {"fp16": 0.4}, 0.35),
    )
}  # fmt: skip

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


@dataclass(frozen=True)
class Published:
    """A run that others measured."""

    name: str
    config: GPTConfig
    device: str
    count: int
    tokens_per_step: int
    microbatch_tokens: int
    tokens_per_second: float
    source: str
    fp8: bool = False

    def predicted(self) -> float:
        """Tokens/s of the model of time."""
        step = step_time(
            self.config,
            DEVICES[self.device],
            tokens_per_step=self.tokens_per_step,
            microbatch_tokens=self.microbatch_tokens,
            world_size=self.count,
            fp8=self.fp8,
        )
        return self.tokens_per_step / step.seconds


def nanochat_shape(depth: int, vocab_size: int = 32_768, *, october: bool = False) -> GPTConfig:
    """nanochat's model of a depth as of July 2026, or of October 2025: no value embeddings, no windows, V 65,536."""
    width = 64 * depth if october else math.ceil(64 * depth / 128) * 128
    windows = tuple(0 if october or layer % 4 == 3 or layer == depth - 1 else 512 for layer in range(depth))
    tables = () if october else tuple(range((depth - 1) % 2, depth, 2))
    return GPTConfig(vocab_size, 2048, depth, width // 128, 128, windows, tables)


def published_runs() -> tuple[Published, ...]:
    """Runs to check the model of time by; none of them was used to fit it."""
    log = "nanochat, dev/LEADERBOARD.md and dev/LOG.md"
    return (
        Published("d24, bf16", nanochat_shape(24), "h100", 8, 2**20, 32_768, 800_000, log),
        Published("d26, bf16", nanochat_shape(26), "h100", 8, 2**20, 32_768, 630_000, log),
        Published("d26, fp8", nanochat_shape(26), "h100", 8, 2**20, 32_768, 740_000, log, fp8=True),
        Published(
            "d20 of October 2025", nanochat_shape(20, 65_536, october=True), "h100", 8, 2**19, 65_536, 1_030_000,
            "derived from 3 h 51 min for the pipeline without rl, of which some 50 minutes were not pretraining",
        ),
        Published(
            "d12 on one RTX 4070", nanochat_shape(12), "4070", 1, 2**16, 16_384, 55_700, "nanochat, issue 636",
        ),
    )  # fmt: skip


def device_called(title: str) -> Device | None:
    """The device that the driver calls so ("NVIDIA H100 80GB HBM3"), if it is in the table."""
    words = title.lower().split()
    return next((device for device in DEVICES.values() if device.name in words), None)


def find_device(name: str) -> Device:
    """The device of a name such as h100. Raises UserError for others."""
    if name not in DEVICES:
        raise UserError(f"there is no device {name!r} in the table; known are {', '.join(DEVICES)}")
    return DEVICES[name]
