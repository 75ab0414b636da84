"""`chatsmith bench train`: training throughput and MFU.

The peak is the machine's own: the best 2048^3 matrix product, in the type the hardware multiplies fastest, timed
before and after in the same run, so that a busy machine lowers both. Data are random ids: the speed of arithmetic
does not depend on them. Nothing is read from a run and nothing is written.
"""

import statistics
import time
from collections.abc import Iterator
from itertools import islice
from typing import Any

import torch

from chatsmith.backends import choose_loss
from chatsmith.cli.config import BenchTrainConfig as Config
from chatsmith.cli.training import shape_of
from chatsmith.data.packing import Batch
from chatsmith.model.gpt import GPT
from chatsmith.optim.optimizer import Optimizer
from chatsmith.runtime.console import Reporter
from chatsmith.runtime.device import Runtime, detect_runtime, gemm_peak, peak_memory_bytes
from chatsmith.train.plan import Plan, make_plan
from chatsmith.train.step import prepare, train_step

WARM_UP_STEPS = 2


def main(config: Config) -> None:
    """Measure, and print a table or one JSON object."""
    reporter = Reporter(json=config.json)
    runtime = detect_runtime(config.device, config.dtype)
    shape = shape_of(config, config.vocab_size)
    micro = config.rows_per_microbatch or None
    plan = make_plan(shape, 10**9, batch_tokens=config.batch_tokens, rows_per_microbatch=micro)
    reporter.stage(
        "Training speed", f"depth {config.depth}, {shape.model_dim} channels, {runtime.describe()}"
    )
    found = measure(config, plan, runtime, reporter)
    rows = [
        ["tokens per second", f"{found['tokens_per_second']:,.0f}"],
        ["model arithmetic", f"{found['flops_per_second'] / 1e9:,.0f} GFLOP/s in {found['dtype']}"],
        [
            "best matrix product",
            f"{found['gemm_peak_flops_per_second'] / 1e9:,.0f} GFLOP/s in {found['peak_dtype']}",
        ],
        ["MFU", f"{found['share_of_peak']:.1%}"],
        ["first step (compiles)", f"{found['first_step_seconds']:.1f} s"],
        ["peak memory", f"{found['peak_memory_bytes'] / 1e9:.2f} GB"],
    ]
    reporter.table("Training speed", ["metric", "value"], rows)
    reporter.result(found)


def measure(config: Config, plan: Plan, runtime: Runtime, reporter: Reporter) -> dict[str, Any]:
    """Times `config.steps` steps of `plan` on random ids."""
    native = detect_runtime(config.device).compute_dtype
    generator = torch.Generator().manual_seed(1)
    model = GPT(plan.model)
    model.init_weights(generator)
    model.to(runtime.device)
    gradient_of = choose_loss(runtime, reporter.line)
    compute_loss = prepare(model, runtime, config.compile, reporter.notice, gradient_of=gradient_of)
    optimizer = Optimizer(model, plan.rates)
    batches = random_batches(plan, generator)
    peak = gemm_peak(runtime, native)
    durations: list[float] = []
    num_steps = WARM_UP_STEPS + config.steps
    with reporter.progress("steps", num_steps, "steps") as bar:
        for step in range(num_steps):
            runtime.synchronize()
            started = time.perf_counter()
            train_step(
                model, optimizer, islice(batches, plan.accumulation), plan, compute_loss, runtime, step + 1
            )
            runtime.synchronize()
            durations.append(time.perf_counter() - started)
            bar.advance()
    peak = max(peak, gemm_peak(runtime, native))
    tokens_per_second = plan.tokens_per_step / statistics.median(durations[WARM_UP_STEPS:])
    flops = tokens_per_second * plan.cost.training_flops_per_token
    return {
        "tokens_per_second": tokens_per_second,
        "flops_per_second": flops,
        "gemm_peak_flops_per_second": peak,
        "share_of_peak": flops / peak,
        "first_step_seconds": durations[0],
        "peak_memory_bytes": float(peak_memory_bytes(runtime)),
        "dtype": str(runtime.compute_dtype).removeprefix("torch."),
        "peak_dtype": str(native).removeprefix("torch."),
    }


def random_batches(plan: Plan, generator: torch.Generator) -> Iterator[Batch]:
    """Microbatches of random ids, without end."""
    shape = (plan.rows_per_microbatch, plan.sequence_length)
    while True:
        ids, targets = (torch.randint(plan.model.vocab_size, shape, generator=generator) for _ in range(2))
        yield Batch(ids, targets)
