"""`chatsmith plan`: what a model of a given depth is, what it will cost here, and how it will be trained.

Nothing is trained: the numbers come from the pure functions that training uses, and the time from this machine's
measured matrix peak and the share of it that training was measured to reach.
"""

import json
import sys
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, ClassVar

from chatsmith.runtime.errors import UserError

if TYPE_CHECKING:
    from chatsmith.train.plan import Plan

EXPECTED_SHARE_OF_PEAK = 0.55
"""What `chatsmith bench train` reaches (docs/lab-log.md, "Throughput"); small models on CPU reach a little less."""


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
        if self.tokens < 0 or not self.ratio > 0:
            raise UserError("tokens cannot be negative, and ratio must be above 0")


def main(config: Config) -> None:
    """Print the plan as a table or as JSON."""
    from chatsmith.model.cost import model_cost
    from chatsmith.runtime.device import detect_runtime
    from chatsmith.runtime.logs import Reporter
    from chatsmith.runtime.measure import gemm_peak
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
    plan = make_plan(shape, tokens, world_size=config.world_size)
    runtime = detect_runtime(config.device)
    peak = gemm_peak(runtime, runtime.compute_dtype, seconds=0.5) * config.world_size
    seconds = plan.tokens * plan.cost.training_flops_per_token / (EXPECTED_SHARE_OF_PEAK * peak)
    reporter = Reporter(json=config.json)
    if config.json:
        facts = {"plan": asdict(plan), "cost": asdict(plan.cost), "tokens": plan.tokens, "seconds": seconds}
        sys.stdout.write(json.dumps(facts) + "\n")
        return
    reporter.table("The plan", ["what", "how much"], _rows(plan, seconds, runtime.describe()))


def _rows(plan: "Plan", seconds: float, machine: str) -> list[list[str]]:
    from chatsmith.runtime.logs import format_seconds

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
        ["time", f"about {format_seconds(seconds)} on {machine}, at {EXPECTED_SHARE_OF_PEAK:.0%} of its matrix peak"],
    ]  # fmt: skip
