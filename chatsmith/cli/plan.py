"""`chatsmith plan`: what a model of a given depth is, what it will cost here, and how it will be trained.

Nothing is kept: the numbers come from the pure functions that training uses, and the time from a few rows of that very
shape that are trained on here; of models too large for that in a second or so, from this machine's measured matrix peak
and the share of it that training was measured to reach. For a GPU that is not here the time is computed from counted
operations and bytes (`report/estimate.py`).
"""

import json
import sys
from dataclasses import asdict, dataclass

from chatsmith.cli.config import PlanConfig as Config
from chatsmith.cli.config import Shape
from chatsmith.model.config import GPTConfig, model_cost
from chatsmith.report.estimate import find_device, step_time
from chatsmith.runtime.console import Reporter, counted
from chatsmith.runtime.device import Runtime, can_compile, detect_runtime, gemm_peak
from chatsmith.train.memory import activation_bytes, state_bytes
from chatsmith.train.plan import Plan, make_plan, model_shape
from chatsmith.train.step import COMPILING_PAYS_SECONDS
from chatsmith.train.timing import foreseen_step_seconds

EXPECTED_SHARE_OF_PEAK = 0.55
"""What `chatsmith bench train` reaches at depth 6 (docs/lab-log.md, "Throughput"); small models on CPU, which are timed
instead, reach 11 to 21 %."""


def main(config: Config) -> None:
    """Print the plan as a table or as JSON."""

    shape = shape_of(config, config.vocab_size)
    tokens = config.tokens or int(config.ratio * model_cost(shape).scaling_parameters)
    world_size = config.count if config.gpu != "this" else config.world_size
    plan = make_plan(shape, tokens, batch_tokens=config.batch_tokens or None, world_size=world_size)
    if config.gpu != "this":
        plan_for_gpu(config, plan)
        return
    runtime = detect_runtime(config.device)
    time, memory = expected_time(plan, runtime), expected_memory(plan, runtime)
    reporter = Reporter(json=config.json)
    if config.json:
        facts = {"plan": asdict(plan), "cost": asdict(plan.cost), "tokens": plan.tokens}
        sys.stdout.write(json.dumps({**facts, **asdict(time), "memory_bytes": memory}) + "\n")
        return
    rows = [*_rows(plan), ["memory", _memory_in_words(memory)], ["time", _time_in_words(time, plan, runtime)]]
    reporter.table("The plan", ["what", "how much"], rows)


def plan_for_gpu(config: Config, plan: Plan) -> None:
    """The plan, time and price on GPUs by their data sheet: computed, not measured."""
    device = find_device(config.gpu)
    dtype = "bf16" if "bf16" in device.flops else "fp16"
    step = step_time(
        plan.model,
        device,
        tokens_per_step=plan.tokens_per_step,
        microbatch_tokens=min(32_768, plan.tokens_per_step // plan.world_size),
        world_size=plan.world_size,
        dtype=dtype,
    )
    hours = plan.steps * step.seconds / 3600
    price = config.price_per_gpu_hour or device.dollars_per_hour
    speed = plan.tokens_per_step / step.seconds
    facts = {
        "parameters": plan.cost.parameters,
        "tokens": plan.tokens,
        "tokens_per_second": speed,
        "mfu": speed * plan.cost.training_flops_per_token / (device.flops[dtype] * plan.world_size),
        "hours": hours,
        "dollars": hours * price * plan.world_size,
        "disk_bytes": plan.tokens * (2 if plan.model.vocab_size <= 65_536 else 4)
        + 3 * 12 * plan.cost.parameters,
        "seconds_of_a_step": vars(step),
        "is_measured": False,
    }
    reporter = Reporter(json=config.json)
    if config.json:
        sys.stdout.write(json.dumps(facts | {"plan": asdict(plan), "cost": asdict(plan.cost)}) + "\n")
        return
    name = f"{plan.world_size} x {device.title}"
    rows = [
        *_rows(plan),
        ["on", f"{name}, {dtype}; computed from the data sheet, not measured"],
        ["speed", f"{speed:,.0f} tokens/s, MFU {facts['mfu']:.0%}"],
        ["pretraining", f"{hours:.1f} h, ${facts['dollars']:,.0f} at ${price:.2f} for each GPU and hour"],
        ["disk", f"{facts['disk_bytes'] / 1e9:.0f} GB of token ids and saved states"],
    ]
    reporter.table("The plan", ["what", "how much"], rows)


def shape_of(config: Shape, vocab_size: int) -> GPTConfig:
    """The model that the settings describe."""
    return model_shape(
        config.depth,
        vocab_size,
        sequence_length=config.sequence_length,
        width=config.width or None,
        head_dim=config.head_dim,
        bigram_buckets=config.bigram_buckets,
        window_pattern=config.window_pattern,
    )


@dataclass(frozen=True)
class ExpectedTime:
    """How long a plan will take here."""

    seconds: float
    is_timed: bool
    """Rows of the plan's shape were timed; otherwise it is an estimate from the matrix peak."""
    share_of_peak: float


def expected_time(plan: Plan, runtime: Runtime) -> ExpectedTime:
    """Timed on this machine where that takes a few seconds, else estimated. That several processes share the work
    without loss is taken for granted."""

    peak = gemm_peak(runtime, runtime.compute_dtype, seconds=0.5)
    at_peak = plan.tokens * plan.cost.training_flops_per_token / (peak * plan.world_size)
    of_step = foreseen_step_seconds(plan, runtime, peak)
    if of_step is None:
        return ExpectedTime(at_peak / EXPECTED_SHARE_OF_PEAK, False, EXPECTED_SHARE_OF_PEAK)
    return ExpectedTime(plan.steps * of_step, True, at_peak / (plan.steps * of_step))


def expected_memory(plan: Plan, runtime: Runtime) -> dict[str, int]:
    """Bytes on one process, by what they are for."""

    tokens = plan.rows_per_microbatch * plan.sequence_length
    return {
        **state_bytes(plan.cost),
        "activations": tokens * activation_bytes(plan.model, runtime.compute_dtype),
    }


def _rows(plan: Plan) -> list[list[str]]:
    shape, cost, rates = plan.model, plan.cost, plan.rates
    flops = plan.tokens * cost.training_flops_per_token
    return [
        ["model", f"{counted(shape.num_layers, 'layer')}, {shape.model_dim} channels, "
         f"{counted(shape.num_heads, 'head')}"],
        ["parameters", f"{cost.parameters:,}: {cost.matrices:,} in blocks, {cost.head:,} in the head, "
         f"{cost.tables:,} in embedding tables"],
        ["token budget", f"{plan.tokens:,} tokens: {counted(plan.steps, 'step')} of {plan.tokens_per_step:,}"],
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


def _time_in_words(time: ExpectedTime, plan: Plan, runtime: Runtime) -> str:

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
    """A duration in one unit, to two digits or so: an estimate is not good to the minute."""
    for size, unit, most in ((1, "s", 120), (60, "min", 120), (3600, "h", 48)):
        if seconds / size < most:
            return f"{seconds / size:.0f} {unit}" if seconds >= 10 else f"{seconds:.1f} s"
    return f"{seconds / 86_400:,.0f} days"
