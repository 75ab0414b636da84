"""`chatsmith plan`: what a model of a given depth is, what it will cost here, and how it will be trained.

Nothing is kept: the numbers come from the pure functions that training uses, and the time from a few rows of that very
shape that are trained on here; of models too large for that in a second or so, from this machine's measured matrix peak
and the share of it that training was measured to reach.
"""

import json
import sys
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, ClassVar

from chatsmith.runtime.errors import UserError
from chatsmith.text.tokenizer import check_vocab_size

if TYPE_CHECKING:
    from chatsmith.runtime.device import Runtime
    from chatsmith.train.plan import Plan

EXPECTED_SHARE_OF_PEAK = 0.55
"""What `chatsmith bench train` reaches at depth 6 (docs/lab-log.md, "Throughput"); small models on CPU, which are timed
instead, reach 11 to 21 %."""


@dataclass(frozen=True)
class Config:
    """Look before you train."""

    POSITIONAL: ClassVar[tuple[str, ...]] = ("depth",)

    depth: int = 6
    """Layers of the model: the one dial."""
    width: int = 0
    """Channels of the model; 0 means 64 times the depth."""
    head_dim: int = 64
    """Channels of an attention head."""
    vocab_size: int = 8192
    """Ids of the vocabulary."""
    sequence_length: int = 512
    """Tokens in a row, and the model's context."""
    bigram_buckets: int = 0
    """Rows of the hashed table of token pairs."""
    window_pattern: str = "L"
    """How far layers look back, repeated over them: L the whole context, S a quarter; the last is always L."""
    tokens: int = 0
    """The horizon in tokens; 0 means by ratio."""
    ratio: float = 10.0
    """The horizon in tokens per parameter that does arithmetic."""
    batch_tokens: int = 0
    """Tokens of one optimizer step; 0 means by the plan's rule."""
    world_size: int = 1
    """Processes that train together."""
    device: str = "auto"
    """The device whose speed is measured: auto, cpu, cuda, cuda:N or mps."""
    json: bool = False
    """Print one JSON object on stdout and nothing else there."""

    def __post_init__(self) -> None:
        for name in ("depth", "head_dim", "vocab_size", "sequence_length", "world_size"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if min(self.tokens, self.batch_tokens) < 0 or not self.ratio > 0:
            raise UserError("tokens and batch_tokens cannot be negative, and ratio must be above 0")
        check_vocab_size(self.vocab_size)


def main(config: Config) -> None:
    """Print the plan as a table or as JSON."""
    from chatsmith.model.config import model_cost
    from chatsmith.runtime.device import detect_runtime
    from chatsmith.runtime.logs import Reporter
    from chatsmith.train.plan import make_plan, model_shape

    shape = model_shape(
        config.depth,
        config.vocab_size,
        sequence_length=config.sequence_length,
        width=config.width or None,
        head_dim=config.head_dim,
        bigram_buckets=config.bigram_buckets,
        window_pattern=config.window_pattern,
    )
    tokens = config.tokens or int(config.ratio * model_cost(shape).scaling_parameters)
    plan = make_plan(shape, tokens, batch_tokens=config.batch_tokens or None, world_size=config.world_size)
    runtime = detect_runtime(config.device)
    time, memory = foreseen_time(plan, runtime), foreseen_memory(plan, runtime)
    reporter = Reporter(json=config.json)
    if config.json:
        facts = {"plan": asdict(plan), "cost": asdict(plan.cost), "tokens": plan.tokens}
        sys.stdout.write(json.dumps({**facts, **asdict(time), "memory_bytes": memory}) + "\n")
        return
    rows = [*_rows(plan), ["memory", _memory_in_words(memory)], ["time", _time_in_words(time, plan, runtime)]]
    reporter.table("The plan", ["what", "how much"], rows)


@dataclass(frozen=True)
class ForeseenTime:
    """How long a plan will take here."""

    seconds: float
    is_timed: bool
    """Rows of the plan's shape were timed; otherwise it is an estimate from the matrix peak."""
    share_of_peak: float


def foreseen_time(plan: "Plan", runtime: "Runtime") -> ForeseenTime:
    """Timed on this machine where that takes a few seconds, else estimated. That several processes share the work
    without loss is taken for granted."""
    from chatsmith.runtime.measure import gemm_peak
    from chatsmith.train.timing import foreseen_step_seconds

    peak = gemm_peak(runtime, runtime.compute_dtype, seconds=0.5)
    at_peak = plan.tokens * plan.cost.training_flops_per_token / (peak * plan.world_size)
    of_step = foreseen_step_seconds(plan, runtime, peak)
    if of_step is None:
        return ForeseenTime(at_peak / EXPECTED_SHARE_OF_PEAK, False, EXPECTED_SHARE_OF_PEAK)
    return ForeseenTime(plan.steps * of_step, True, at_peak / (plan.steps * of_step))


def foreseen_memory(plan: "Plan", runtime: "Runtime") -> dict[str, int]:
    """Bytes on one process, by what they are for."""
    from chatsmith.train.memory import activation_bytes, state_bytes

    tokens = plan.rows_per_microbatch * plan.sequence_length
    return {
        **state_bytes(plan.cost),
        "activations": tokens * activation_bytes(plan.model, runtime.compute_dtype),
    }


def _rows(plan: "Plan") -> list[list[str]]:
    shape, cost, rates = plan.model, plan.cost, plan.rates
    flops = plan.tokens * cost.training_flops_per_token
    return [
        ["model", f"{shape.num_layers} layers, {shape.model_dim} channels, {shape.num_heads} heads"],
        ["parameters", f"{cost.parameters:,}: {cost.matrices:,} in blocks, {cost.head:,} in the head, "
         f"{cost.tables:,} in tables that are only looked up"],
        ["horizon", f"{plan.tokens:,} tokens: {plan.steps:,} steps of {plan.tokens_per_step:,}"],
        ["a step", f"{plan.world_size} x {plan.accumulation} x {plan.rows_per_microbatch} rows "
         f"of {plan.sequence_length}"],
        ["learning rates", f"matrices {rates.matrix:.3g}, head {rates.head:.3g}, embeddings {rates.embedding:.3g}"],
        ["arithmetic", f"{cost.training_flops_per_token / 1e6:,.0f} MFLOP a token, {flops:.2e} in all"],
    ]  # fmt: skip


def _memory_in_words(memory: dict[str, int]) -> str:
    kept = sum(memory.values()) - memory["activations"]
    return (
        f"{kept / 1e9:.2f} GB of weights, gradients and optimizer state on each process, and up to about "
        f"{memory['activations'] / 1e9:.1f} GB of activations"
    )


def _time_in_words(time: ForeseenTime, plan: "Plan", runtime: "Runtime") -> str:
    from chatsmith.runtime.device import can_compile
    from chatsmith.train.step import COMPILING_PAYS_SECONDS

    words = f"about {_about(time.seconds)} on {runtime.describe()}, "
    if time.is_timed:
        words += f"by rows of this shape timed now, at {time.share_of_peak:.0%} of its matrix peak"
        if time.seconds > COMPILING_PAYS_SECONDS and can_compile(runtime.device):
            words += "; compiling saves up to a third"
    else:
        words += f"an estimate: at {time.share_of_peak:.0%} of its matrix peak, as depth 6 was measured"
    if plan.world_size > 1:
        words += f"; that {plan.world_size} processes are {plan.world_size} times as fast is assumed"
    return words


def _about(seconds: float) -> str:
    """A duration in one unit, to two digits or so: what is foreseen is not known to the minute."""
    for size, unit, most in ((1, "s", 120), (60, "min", 120), (3600, "h", 48)):
        if seconds / size < most:
            return f"{seconds / size:.0f} {unit}" if seconds >= 10 else f"{seconds:.1f} s"
    return f"{seconds / 86_400:,.0f} days"
