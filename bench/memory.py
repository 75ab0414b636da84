"""What a training step holds here, compared with what was foreseen: tensors by torch's profiler, and resident memory.

    python bench/memory.py [SHAPE ...] [--json]

Each shape is a step of training in a process of its own, once with the profiler and once without, since the profiler
holds memory, too. A SHAPE is DEPTH,WIDTH,VOCABULARY,LENGTH,ROWS,DTYPE[,RECOMPUTE][,compile]; without any, those of
docs/scaling.md run, from 0.1 to 8 GB (20 minutes on two cores).
"""

import json
import subprocess
import sys

import torch
from torch.profiler import ProfilerActivity, profile

from chatsmith.data.packing import Batch
from chatsmith.model.config import GPTConfig
from chatsmith.model.gpt import GPT
from chatsmith.optim.optimizer import Optimizer
from chatsmith.runtime.device import DTYPES, Runtime, peak_resident_bytes, resident_bytes
from chatsmith.train.memory import RECOMPUTING, Way, step_memory
from chatsmith.train.plan import make_plan, model_shape
from chatsmith.train.step import prepare, train_step

SHAPES = (
    "1,64,600,128,16,fp32",
    "2,128,600,128,64,fp32",
    "2,256,600,256,128,fp32",
    "6,384,8192,512,16,fp32",
    "6,384,8192,512,16,bf16",
    "6,384,8192,512,16,fp32,compile",
    "8,512,8192,1024,8,bf16",
    "12,768,32768,1024,8,fp32",
    "12,768,32768,1024,8,fp32,blocks",
    "12,768,32768,1024,16,bf16,elementwise",
)


def main() -> None:
    """Print a table, or one JSON list."""
    arguments = [one for one in sys.argv[1:] if not one.startswith("--")]
    if "--one" in sys.argv:
        print(json.dumps(of_step(arguments[0], "--profile" in sys.argv)))
        return
    found = []
    print(
        f"{'shape':44}{'tensors':>9}{'foreseen':>10}{'':>7}{'resident':>10}{'foreseen':>10}", file=sys.stderr
    )
    for shape in arguments or SHAPES:
        tensors, resident = (_in_process(shape, *more) for more in (["--profile"], []))
        one = {"shape": shape, "tensor_bytes": tensors["peak"], "foreseen_bytes": tensors["foreseen"]}
        one |= {"resident_bytes": resident["resident"], "floor_bytes": resident["floor"]}
        found.append(one)
        real, said = one["resident_bytes"], one["foreseen_bytes"] + one["floor_bytes"]
        print(
            f"{shape:44}{one['tensor_bytes'] / 1e6:9,.0f}{one['foreseen_bytes'] / 1e6:10,.0f}"
            f"{one['foreseen_bytes'] / one['tensor_bytes'] - 1:+7.1%}{real / 1e6:10,.0f}{said / 1e6:10,.0f}"
            f"{said / real - 1:+7.1%}",
            file=sys.stderr,
        )
    if "--json" in sys.argv:
        print(json.dumps(found))


def _in_process(shape: str, *more: str) -> dict[str, int]:
    command = [sys.executable, __file__, shape, "--one", *more]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout.splitlines()[-1])


def of_step(text: str, is_profiled: bool) -> dict[str, int]:
    """Two steps of the shape; bytes that were foreseen and found."""
    *sizes, dtype = text.split(",")[:6]
    rest = text.split(",")[6:]
    depth, width, vocab_size, length, rows = map(int, sizes)
    shape = model_shape(depth, vocab_size, sequence_length=length, width=width)
    recompute = next((one for one in RECOMPUTING if one in rest), "nothing")
    way = Way(DTYPES[dtype], is_compiled="compile" in rest, recompute=recompute)
    runtime = Runtime(torch.device("cpu"), way.dtype)

    def train(shape: GPTConfig, rows: int, length: int) -> None:
        model = GPT(shape)
        model.init_weights(torch.Generator().manual_seed(1))
        plan = make_plan(shape, 10**6, batch_tokens=rows * length, rows_per_microbatch=rows)
        compute_loss = prepare(model, runtime, way.is_compiled, print)
        model.run_block = RECOMPUTING[recompute]
        optimizer = Optimizer(model, plan.rates)
        for step in (1, 2):
            ids = torch.randint(shape.vocab_size, (rows, length))
            train_step(model, optimizer, [Batch(ids, ids)], plan, compute_loss, runtime, step)

    foreseen = step_memory(shape, rows, 1, way)["peak"]
    if is_profiled:
        return {"foreseen": foreseen, "peak": profiled_peak(lambda: train(shape, rows, length))}
    train(model_shape(1, 300, sequence_length=16, width=64), 1, 16)  # what any step loads
    floor = resident_bytes()
    train(shape, rows, length)
    return {"foreseen": foreseen, "floor": floor, "resident": peak_resident_bytes()}


def profiled_peak(work) -> int:
    """The most bytes of tensors that `work` holds at once, by torch's profiler."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        work()
    sizes: list[tuple[int, int]] = []

    def collect(events) -> None:
        for event in events:
            if event.name == "[memory]":
                sizes.append((event.start_time_ns, event.extra_fields.alloc_size))
            collect(event.children)

    collect(profiled.profiler.kineto_results.experimental_event_tree())
    now = peak = 0
    for _, size in sorted(sizes, key=lambda one: one[0]):
        now += size
        peak = max(peak, now)
    return peak


if __name__ == "__main__":
    main()
