"""`chatsmith bench train`: how fast this machine trains, beside what it could do at most.

The peak is the machine's own: the best 2048^3 matrix product, in the type the hardware multiplies fastest, timed
before and after in the same run, so that a busy machine lowers both. Data are random ids: the speed of arithmetic
does not depend on them. Nothing is read from a run and nothing is written.
"""

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from chatsmith.runtime.errors import UserError

if TYPE_CHECKING:
    from chatsmith.runtime.device import Runtime
    from chatsmith.runtime.logs import Reporter
    from chatsmith.train.plan import Plan


@dataclass(frozen=True)
class Config:
    """Measure the speed of training."""

    POSITIONAL: ClassVar[tuple[str, ...]] = ()

    depth: int = 6
    """Layers of the model."""
    width: int = 0
    """Channels of the model; 0 means 64 times the depth."""
    head_dim: int = 64
    """Channels of an attention head."""
    vocab_size: int = 8192
    """Ids of the vocabulary."""
    sequence_length: int = 512
    """Tokens in a row."""
    batch_tokens: int = 8192
    """Tokens of one optimizer step."""
    rows_per_microbatch: int = 0
    """Rows that go through the network at once; 0 means about 8,192 tokens."""
    bigram_buckets: int = 0
    """Rows of the hashed table of token pairs."""
    window_pattern: str = "L"
    """How far layers look back, repeated over them: L the whole context, S a quarter; the last is always L."""
    steps: int = 4
    """Steps that are timed, after two that compile and warm up; the median counts."""
    compile: bool = True
    """Compile the model where that is possible."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:N or mps."""
    dtype: Literal["auto", "fp32", "bf16"] = "auto"
    """What activations are computed in; auto: bf16 where the hardware multiplies it."""
    json: bool = False
    """Print one JSON object on stdout, and everything for people on stderr."""

    def __post_init__(self) -> None:
        for name in ("depth", "head_dim", "vocab_size", "sequence_length", "batch_tokens", "steps"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if self.batch_tokens < self.sequence_length:
            raise UserError(
                f"batch_tokens {self.batch_tokens} is less than one row of {self.sequence_length}"
            )


def main(config: Config) -> None:
    """Measure, and print a table or one JSON object."""
    from chatsmith.runtime.device import detect_runtime
    from chatsmith.runtime.logs import Reporter
    from chatsmith.train.plan import make_plan, model_shape

    reporter = Reporter(json=config.json)
    runtime = detect_runtime(config.device, config.dtype)
    shape = model_shape(
        config.depth,
        config.vocab_size,
        sequence_length=config.sequence_length,
        width=config.width or None,
        head_dim=config.head_dim,
        bigram_buckets=config.bigram_buckets,
        window_pattern=config.window_pattern,
    )
    micro = config.rows_per_microbatch or None
    plan = make_plan(shape, 10**9, batch_tokens=config.batch_tokens, rows_per_microbatch=micro)
    reporter.stage(
        "Training speed", f"depth {config.depth}, {shape.model_dim} channels, {runtime.describe()}"
    )
    figures = measure(config, plan, runtime, reporter)
    _show(figures, reporter)
    if config.json:
        sys.stdout.write(json.dumps(figures) + "\n")


def measure(config: Config, plan: "Plan", runtime: "Runtime", reporter: "Reporter") -> dict[str, float | str]:
    """Figures of `config.steps` timed steps of `plan` on random ids."""
    import statistics
    import time
    from itertools import islice

    import torch

    from chatsmith.data.packing import Batch
    from chatsmith.model.gpt import GPT
    from chatsmith.optim.optimizer import Optimizer
    from chatsmith.runtime.device import detect_runtime, peak_memory_bytes
    from chatsmith.runtime.measure import gemm_peak
    from chatsmith.train.step import prepare, train_step

    native = detect_runtime(config.device).compute_dtype
    generator = torch.Generator().manual_seed(1)
    model = GPT(plan.model)
    model.init_weights(generator)
    model.to(runtime.device)
    compute_loss = prepare(model, runtime, config.compile, reporter.notice)
    optimizer = Optimizer(model, plan.rates)

    def batches() -> Iterator[Batch]:
        shape = (plan.rows_per_microbatch, plan.sequence_length)
        while True:
            ids, targets = (
                torch.randint(plan.model.vocab_size, shape, generator=generator) for _ in range(2)
            )
            yield Batch(ids, targets)

    source = batches()
    peak = gemm_peak(runtime, native)
    durations: list[float] = []
    first = 0.0
    with reporter.progress("steps", config.steps + 2, "steps") as bar:
        for step in range(config.steps + 2):
            runtime.synchronize()
            started = time.perf_counter()
            train_step(
                model, optimizer, islice(source, plan.accumulation), plan, compute_loss, runtime, step + 1
            )
            runtime.synchronize()
            durations.append(time.perf_counter() - started)
            first = first or durations[0]
            bar.advance(1)
    peak = max(peak, gemm_peak(runtime, native))
    tokens_per_second = plan.tokens_per_step / statistics.median(durations[2:])
    flops = tokens_per_second * plan.cost.training_flops_per_token
    return {
        "tokens_per_second": tokens_per_second,
        "flops_per_second": flops,
        "gemm_peak_flops_per_second": peak,
        "share_of_peak": flops / peak,
        "first_step_seconds": first,
        "peak_memory_bytes": float(peak_memory_bytes(runtime)),
        "dtype": str(runtime.compute_dtype).removeprefix("torch."),
        "peak_dtype": str(native).removeprefix("torch."),
    }


def _show(figures: dict[str, float | str], reporter: "Reporter") -> None:
    def number(name: str) -> float:
        return float(figures[name])

    rows = [
        ["tokens per second", f"{number('tokens_per_second'):,.0f}"],
        ["model arithmetic", f"{number('flops_per_second') / 1e9:,.0f} GFLOP/s in {figures['dtype']}"],
        [
            "best matrix product",
            f"{number('gemm_peak_flops_per_second') / 1e9:,.0f} GFLOP/s in {figures['peak_dtype']}",
        ],
        ["share of the peak", f"{number('share_of_peak'):.1%}"],
        ["first step (compiles)", f"{number('first_step_seconds'):.1f} s"],
        ["peak memory", f"{number('peak_memory_bytes') / 1e9:.2f} GB"],
    ]
    reporter.table("Training speed", ["figure", "value"], rows)
