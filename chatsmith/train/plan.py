"""The plan: one dial, `depth`, and a token budget become every number of a training run.

Pure functions, no torch tensors, no clock: the same arguments give the same plan on every machine. Learning rates were
tuned at the sizes a laptop can train (docs/lab-log.md, "Learning rates") and are carried to others by the rules
beside each; for the batches of large runs they are those that nanochat published, which nothing here has tried. Ramps
are shares of the run, so a run of a hundred steps and one of ten thousand have the same shape.
"""

import math
from dataclasses import dataclass, replace
from typing import NamedTuple

from chatsmith.model.config import NO_SOFTCAP, Architecture, Cost, GPTConfig, model_cost
from chatsmith.optim.optimizer import Rates
from chatsmith.optim.schedules import ramp, warmup_stable_decay
from chatsmith.runtime.errors import UserError

CHANNELS_PER_LAYER = 64
"""Width grows with depth: C = 64 L (nanochat's aspect ratio)."""

SHALLOW = 6
"""Blocks with and without value embeddings are two programs to compile: 49 s instead of 30 s before the first step
of a 4-layer model, which a short run on a CPU does not earn back. The tables of deep models cost memory instead."""

REFERENCE_BATCH = 4096
REFERENCE_WIDTH = 256
"""Where the learning rates below were tuned."""

OURS_UP_TO = 2**17
NANOCHAT_FROM = 2**19
"""Tokens a step up to which the rules are those tuned here, and from which they are nanochat's (July 2026, 92d63d4).
Between them every value goes from the one to the other, geometrically in the batch: no jump, and no training here has
crossed the joint."""

NANOCHAT_RATES = {"matrix": 0.02, "head": 0.008, "embedding": 0.3, "value_embedding": 0.15, "bigram": 0.3}
"""Its peak learning rates at 2^19 tokens a step and 768 channels; it has no table for pairs of tokens, which get those
of tokens."""

D12_TOKENS = 1.32e9
"""The token budget at which nanochat tuned: 12 for each parameter of its d12."""

MOST_DECAY = 0.52
"""Weight decay goes with 1 / token budget; this is nanochat's for its d8, the smallest model it is of use for."""

MINIMUM_STEPS = 500
"""A run takes at least about this many steps: below it, more updates are worth more than smoother ones."""


ROLLOUT_RATES = {"head": 0.1, "embedding": 0.1, "value_embedding": 0.1, "bigram": 0.1}
"""In reinforcement learning, shares of a role's usual learning rate. The gradients of two batches of 256 replies agree
little, in matrices most (cosine 0.07 to 0.1; head 0.03 to 0.05, tables 0.02 to 0.06), and Adam, which divides by the
gradient's own size, makes full steps of what is mere noise (docs/lab-log.md, "Reinforcement learning")."""


LONGEST_STRIDE = 2.0
"""In reinforcement learning: where a slow machine's minutes hold a third of the steps, twice the learning
rate gave 7 to 10 points instead of 3 to 9; with three times nothing was learned (docs/lab-log.md)."""


DEEP = 12
"""Layers from which on a model is trained at length on a GPU, and is shaped for it as nanochat's (July 2026)."""


class Dial(NamedTuple):
    """What a depth says of a model where nothing else is asked for, whatever it is trained on."""

    vocab_size: int
    sequence_length: int
    head_dim: int
    window_pattern: str


def dial(depth: int, architecture: Architecture = "chatsmith") -> Dial:
    """The usual shape beside depth and width. Heads of 128 channels have half the softmax work of 64 each; windows of a
    quarter in three layers of four leave 0.58 of the keys of a long row. A portable model has none: Qwen3 has none."""
    if depth < DEEP:
        return Dial(8192, 512, 64, "L")
    return Dial(32_768, 2048, 128, "SSSL" if architecture == "chatsmith" else "L")


@dataclass(frozen=True)
class Schedule:
    """How learning rates and momentum change over the run, as shares of it."""

    warmup: float = 0.02
    decay: float = 0.6
    final: float = 0.05
    momentum_start: float = 0.85
    momentum: float = 0.95
    momentum_ramp: float = 0.1
    momentum_final: float = 0.95

    def rate(self, progress: float) -> float:
        """What all learning rates are multiplied by at `progress` in [0, 1]."""
        return warmup_stable_decay(progress, self.warmup, self.decay, self.final)

    def muon_momentum(self, progress: float) -> float:
        """Muon's momentum at `progress`: up at the start, and to `momentum_final` while learning rates fall."""
        falling = max(0.0, (progress - 1) / self.decay + 1) if self.decay else 0.0
        risen = ramp(progress, self.momentum_start, self.momentum, self.momentum_ramp)
        return risen + (self.momentum_final - self.momentum) * falling

    def weight_decay(self, progress: float) -> float:
        """What the weight decay is multiplied by, on top of the learning rate: half a cosine to 0 (nanochat)."""
        return 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


@dataclass(frozen=True)
class Plan:
    """Everything a training run needs to know beyond its data."""

    model: GPTConfig
    sequence_length: int
    rows_per_microbatch: int
    """Rows that go through the network at once, on each process."""
    accumulation: int
    """Microbatches a step, on each process."""
    world_size: int
    steps: int
    rates: Rates
    schedule: Schedule
    batch_tokens_asked: int = 0
    """Tokens of a step, before they were rounded to rows and these to the processes; 0 where steps differ in size."""
    foreseen_memory_bytes: int = 0
    """What each process will hold at most (`memory.fit_plan`), counted as `peak_memory_bytes` does; 0 is unknown."""

    @property
    def rows_per_step(self) -> int:
        """Rows of one optimizer step, over all processes."""
        return self.rows_per_microbatch * self.accumulation * self.world_size

    @property
    def tokens_per_step(self) -> int:
        """Tokens of one optimizer step, over all processes."""
        return self.rows_per_step * self.sequence_length

    @property
    def tokens(self) -> int:
        """Tokens of the whole run."""
        return self.steps * self.tokens_per_step

    @property
    def has_equal_steps(self) -> bool:
        """Whether all steps have the same number of tokens, so that progress can be counted in tokens. Those of
        reinforcement learning have as many as the replies."""
        return self.batch_tokens_asked > 0

    @property
    def rounding(self) -> str | None:
        """One line for people where a step is not of the size that was asked for."""
        if not self.has_equal_steps or self.batch_tokens_asked == self.tokens_per_step:
            return None
        share = f", for {self.world_size} processes to share" if self.world_size > 1 else ""
        return (
            f"a step takes {self.tokens_per_step:,} tokens, not {self.batch_tokens_asked:,}: {self.rows_per_step:,} "
            f"whole rows of {self.sequence_length:,}{share}"
        )

    def world_sizes_for(self, rows: int) -> list[int]:
        """The numbers of processes with which a step of this plan would have `rows` rows."""
        asked = _rows_of(self.batch_tokens_asked, self.sequence_length)
        return [size for size in range(1, rows + 1) if math.ceil(asked / size) * size == rows]

    def with_steps(self, steps: int) -> "Plan":
        """The same plan with another number of steps."""
        return replace(self, steps=steps)

    @property
    def cost(self) -> Cost:
        """Parameters and FLOPs."""
        return model_cost(self.model, self.sequence_length)


def model_shape(
    depth: int,
    vocab_size: int,
    *,
    sequence_length: int,
    width: int | None = None,
    head_dim: int = 64,
    bigram_buckets: int = 0,
    window_pattern: str = "L",
    value_embeddings: bool = True,
    architecture: Architecture = "chatsmith",
) -> GPTConfig:
    """The model of a depth: C = 64 x depth unless `width` is given, and value embeddings unless they are left out.

    Up to SHALLOW layers every layer has a value embedding, above every other one, the last included (as in
    nanochat). `window_pattern` is repeated over the layers: L sees the whole context, S a quarter of it; the last
    layer is always an L. Raises UserError for impossible shapes.
    """
    if depth < 1:
        raise UserError(f"depth is {depth}; a model needs at least 1 layer")
    wanted = width or CHANNELS_PER_LAYER * depth
    if wanted % head_dim:
        raise UserError(f"the width {wanted} is not a multiple of head_dim {head_dim}")
    embedded = range(depth) if depth <= SHALLOW else range((depth - 1) % 2, depth, 2)
    return GPTConfig(
        vocab_size=vocab_size,
        context_length=sequence_length,
        num_layers=depth,
        num_heads=wanted // head_dim,
        head_dim=head_dim,
        windows=windows_for(window_pattern, depth, sequence_length),
        value_embedding_layers=tuple(embedded) if value_embeddings and architecture == "chatsmith" else (),
        bigram_buckets=bigram_buckets,
        softcap=NO_SOFTCAP if architecture == "portable" else 15.0,
        architecture=architecture,
    )


def windows_for(pattern: str, depth: int, sequence_length: int) -> tuple[int, ...]:
    """The window of each layer for a pattern of L and S, as in nanochat. Raises UserError for other letters."""
    if not pattern or set(pattern) - {"L", "S"}:
        raise UserError(
            f"the window pattern is {pattern!r}; it is made of the letters L (whole context) and S (short)"
        )
    short = math.ceil(sequence_length / 4)
    letters = [pattern[layer % len(pattern)] for layer in range(depth - 1)] + ["L"]
    return tuple(short if letter == "S" else 0 for letter in letters)


def batch_tokens_for(tokens: int, sequence_length: int) -> int:
    """Tokens a step for a token budget: the measured law B = 2^19 (D / 1.32e9)^0.383 where runs are long, fewer where
    that would leave less than MINIMUM_STEPS steps; a power of two times the row length, at least one row."""
    law = NANOCHAT_FROM * (tokens / D12_TOKENS) ** 0.383
    wanted = min(law, tokens / MINIMUM_STEPS)
    return sequence_length * 2 ** max(0, round(math.log2(max(1.0, wanted / sequence_length))))


def nanochat_share(batch_tokens: int) -> float:
    """How far the rules for steps of so many tokens are nanochat's: from 0 up to OURS_UP_TO to 1 from NANOCHAT_FROM."""
    beyond = math.log2(batch_tokens / OURS_UP_TO) / math.log2(NANOCHAT_FROM / OURS_UP_TO)
    return min(1.0, max(0.0, beyond))


def rates_for(model: GPTConfig, batch_tokens: int) -> Rates:
    """Peak learning rates. Adam's go with 1 / sqrt(width), since its steps have a fixed size.

    All grow with sqrt(batch) up to the reference batch and then stay. From NANOCHAT_FROM on those of matrices, head and
    tables are nanochat's, which grow with sqrt(batch / 2^19)."""
    batch = min(1.0, batch_tokens / REFERENCE_BATCH) ** 0.5
    adam = batch * (REFERENCE_WIDTH / model.model_dim) ** 0.5
    rates = Rates(
        matrix=0.02 * batch,
        head=0.01 * adam,
        embedding=0.6 * adam,
        value_embedding=0.3 * adam,
        bigram=0.6 * adam,
        scalar=0.02 * batch,
        gate=0.01 * batch,
    )
    share = nanochat_share(batch_tokens)
    if share == 0:
        return rates
    large = max(1.0, batch_tokens / NANOCHAT_FROM) ** 0.5
    adam = large * (768 / model.model_dim) ** 0.5
    published = {role: rate * (large if role == "matrix" else adam) for role, rate in NANOCHAT_RATES.items()}
    joined = {
        role: (ours := getattr(rates, role)) * (rate / ours) ** share for role, rate in published.items()
    }
    return replace(rates, **joined)


def weight_decay_for(tokens: int, batch_tokens: int) -> float:
    """Weight decay of the matrices in training from random weights: none with small steps, where it was of no use here;
    with large ones nanochat's, 0.28 sqrt(batch / 2^19) at the budget of its d12, less for longer runs."""
    published = 0.28 * (batch_tokens / NANOCHAT_FROM) ** 0.5 * D12_TOKENS / tokens
    return nanochat_share(batch_tokens) * min(MOST_DECAY, published)


def make_plan(
    model: GPTConfig,
    tokens: int,
    *,
    batch_tokens: int | None = None,
    rows_per_microbatch: int | None = None,
    world_size: int = 1,
    rate_scale: float = 1.0,
    from_scratch: bool = False,
) -> Plan:
    """The plan to train `model` on about `tokens` tokens (rounded to whole steps, at least one).

    `from_scratch`: from random weights, which may get weight decay and a momentum that fine-tuning does not.
    `batch_tokens` overrides the batch-size rule; `rows_per_microbatch` is what fits in memory at once (default:
    about 8,192 tokens) and changes nothing else. The step is the same at every world size that divides its rows;
    otherwise it is rounded up. Raises UserError if a value is impossible.
    """
    length = model.context_length
    if tokens < 1:
        raise UserError(f"the token budget is {tokens}; it must be at least 1")
    wanted = batch_tokens or batch_tokens_for(tokens, length)
    if wanted < length:
        raise UserError(f"batch_tokens is {wanted}, less than one row of {length} tokens")
    rows = math.ceil(_rows_of(wanted, length) / world_size)
    at_once = min(rows, rows_per_microbatch or max(1, 8192 // length))
    # A divisor, so that what fits in memory does not decide how large a step is.
    micro = max(size for size in range(1, at_once + 1) if rows % size == 0)
    per_step = rows * world_size * length
    rates, schedule = rates_for(model, per_step).scaled(rate_scale), Schedule()
    if from_scratch:
        share = nanochat_share(per_step)
        rates = replace(rates, weight_decay=weight_decay_for(tokens, per_step))
        schedule = Schedule(momentum=0.95 + 0.02 * share, momentum_final=0.95 - 0.05 * share)
    return Plan(
        model=model,
        sequence_length=length,
        rows_per_microbatch=micro,
        accumulation=rows // micro,
        world_size=world_size,
        steps=max(1, round(tokens / per_step)),
        rates=rates,
        schedule=schedule,
        batch_tokens_asked=wanted,
    )


def make_rollout_plan(
    model: GPTConfig,
    *,
    steps: int,
    replies: int,
    rows_per_microbatch: int,
    texts: int = 0,
    world_size: int = 1,
    rate_scale: float = 1.0,
    wanted_steps: int = 0,
) -> Plan:
    """The plan for reinforcement learning: `steps` updates, each from at most `replies` rows on every process, and
    at most `texts` rows of replay texts, in microbatches of their own.

    `wanted_steps` is how many there would be if time allowed: fewer are longer, up to LONGEST_STRIDE times.
    `rows_per_microbatch` is what fits in memory at once and changes nothing else. Learning rates are those of the
    reference batch, since how many tokens the rows hold is not known beforehand, lowered by role as ROLLOUT_RATES says;
    the momentum needs no ramp, since such gradients have to be averaged over many steps from the first one on.
    """
    rate_scale *= min(LONGEST_STRIDE, max(1.0, wanted_steps / steps))
    micro = max(size for size in range(1, min(replies, rows_per_microbatch) + 1) if replies % size == 0)
    return Plan(
        model=model,
        sequence_length=model.context_length,
        rows_per_microbatch=micro,
        accumulation=replies // micro + math.ceil(texts / micro),
        world_size=world_size,
        steps=steps,
        rates=rates_for(model, REFERENCE_BATCH).scaled(rate_scale, ROLLOUT_RATES),
        schedule=Schedule(momentum_start=Schedule.momentum),
    )


def _rows_of(batch_tokens: int, length: int) -> int:
    return max(1, round(batch_tokens / length))
