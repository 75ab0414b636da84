"""What training is said to keep is what it keeps; what does not fit is made to; running out of memory ends nothing."""

import subprocess
import sys
from dataclasses import replace
from functools import partial
from itertools import islice

import pytest
import torch
import torch.distributed as dist
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed._tools.mem_tracker import MemTracker
from torch.profiler import ProfilerActivity, profile
from torch.testing._internal.distributed.fake_pg import FakeStore

from chatsmith.data.packing import Batch
from chatsmith.model.config import GPTConfig, model_cost
from chatsmith.model.gpt import GPT
from chatsmith.optim import sharded
from chatsmith.optim.optimizer import Optimizer
from chatsmith.optim.sharded import ShardedOptimizer
from chatsmith.rl.objective import RolloutBatch
from chatsmith.runtime.device import Runtime, resident_for
from chatsmith.runtime.errors import UserError
from chatsmith.train import memory
from chatsmith.train.memory import RECOMPUTING, Notch, Way, find_fit, fit_plan, state_bytes, step_memory
from chatsmith.train.plan import make_plan, model_shape
from chatsmith.train.step import batch_pieces, prepare, train_step
from tests.processes import together, well

CPU, GB = torch.device("cpu"), 10**9


# ---- the prediction ----


def test_weights_gradients_and_optimizer_state_are_as_many_bytes_as_foreseen(runtime):
    plan = make_plan(model_shape(2, 300, sequence_length=16, bigram_buckets=50), 1000)
    model = GPT(plan.model)
    model.init_weights(torch.Generator().manual_seed(1))
    optimizer = Optimizer(model, plan.rates)
    ids = torch.randint(300, (2, 16))
    prepare(model, runtime, False, print)(model, Batch(ids, ids), 1 / 32).backward()
    optimizer.step(1.0, 0.95, 1.0)
    kept = {
        "weights": [*model.parameters()],
        "gradients": [weight.grad for weight in model.parameters() if weight.grad is not None],
        "optimizer": [*optimizer.named_state().values()],
    }
    real = {name: sum(tensor.nbytes for tensor in tensors) for name, tensors in kept.items()}
    assert state_bytes(plan.cost) == pytest.approx(real, rel=0.02)


def two_steps(
    shape: GPTConfig, rows: int, accumulation: int, way: Way, rest=None, new_optimizer=Optimizer
) -> None:
    """Two steps of training on random ids, as `bench train` does them; `rest` is called between them."""
    model = GPT(shape)
    if not rest:
        model.init_weights(torch.Generator().manual_seed(1))
    plan = replace(make_plan(shape, 10**6), rows_per_microbatch=rows, accumulation=accumulation)
    runtime = Runtime(CPU, way.dtype)
    compute_loss = prepare(model, runtime, way.is_compiled, print)
    model.run_block = RECOMPUTING[way.recompute]
    optimizer = new_optimizer(model, plan.rates)
    for step in (1, 2):
        ids = torch.zeros((rows, shape.context_length), dtype=torch.int64)
        batches = [Batch(ids, ids) for _ in range(accumulation)]
        if rest:
            rest(model, optimizer, batches, compute_loss)
        else:
            train_step(model, optimizer, batches, plan, compute_loss, runtime, step)


def profiled_peak(work) -> int:
    """The most bytes of tensors that are there at once, by torch's profiler."""
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


FP32, BF16 = torch.float32, torch.bfloat16
SHAPES = {
    "small": model_shape(2, 600, sequence_length=128, width=128),
    "vocabulary": model_shape(2, 8192, sequence_length=128, width=128),
    "long": model_shape(2, 600, sequence_length=1024, width=128, window_pattern="SL"),
    "bigram": model_shape(2, 600, sequence_length=128, width=128, bigram_buckets=60_000),
    "deep": model_shape(8, 300, sequence_length=64, width=192),
}


@pytest.mark.parametrize(
    ("shape", "rows", "accumulation", "way"),
    [
        ("small", 12, 1, Way(FP32)),
        ("small", 8, 2, Way(BF16)),
        ("vocabulary", 8, 1, Way(FP32)),
        ("vocabulary", 8, 2, Way(FP32)),
        ("long", 1, 1, Way(BF16)),
        ("long", 1, 1, Way(FP32, recompute="elementwise")),
        ("bigram", 4, 1, Way(FP32)),
        ("deep", 4, 1, Way(FP32)),
        ("deep", 16, 1, Way(FP32, recompute="blocks")),
    ],
)
def test_the_peak_of_a_real_step_is_foreseen(shape, rows, accumulation, way):
    peak = profiled_peak(lambda: two_steps(SHAPES[shape], rows, accumulation, way))
    assert step_memory(SHAPES[shape], rows, accumulation, way)["peak"] == pytest.approx(peak, rel=0.15)


def tracked_peak(shape: GPTConfig, rows: int, way: Way, new_optimizer=Optimizer) -> int:
    """The same of a step that is not computed: tensors have shapes alone (docs/scaling.md)."""
    peaks = []

    def rest(model, optimizer, batches, compute_loss) -> None:
        tracker = MemTracker()
        exact = optimizer.exact.values() if new_optimizer is not Optimizer and optimizer.wire == BF16 else ()
        tracker.track_external(model, *optimizer.named_state().values(), *exact)
        with tracker:
            optimizer.last_backward()
            compute_loss(model, batches[0], 1.0).backward()
            optimizer.step(1.0, 0.9, 1.0)
        (of_device,) = tracker.get_tracker_snapshot("peak").values()
        peaks.append(of_device["Total"])
        optimizer.zero_grad()

    with FakeTensorMode():
        two_steps(shape, rows, 1, way, rest, new_optimizer)
    return peaks[-1]


@pytest.mark.parametrize(
    ("depth", "rows", "way"),
    [
        (4, 2, Way(BF16)),
        pytest.param(12, 4, Way(BF16), marks=pytest.mark.long),
        pytest.param(20, 4, Way(BF16), marks=pytest.mark.long),
        pytest.param(20, 16, Way(BF16, recompute="blocks"), marks=pytest.mark.long),
        pytest.param(24, 1, Way(BF16, recompute="elementwise"), marks=pytest.mark.long),
    ],
)
def test_the_peak_of_a_large_step_is_foreseen(depth, rows, way):
    shape = model_shape(depth, 32_768, sequence_length=2048, head_dim=128, window_pattern="SSSL")
    assert step_memory(shape, rows, 1, way)["peak"] == pytest.approx(tracked_peak(shape, rows, way), rel=0.15)


class Travelling:
    """A collective that keeps what it sends as long as there is a handle to wait by, as gloo's do."""

    def __init__(self, received, sent, collective=sharded._reduce_scatter, **options) -> None:
        self.sent, self.work = sent, collective(received, sent, **options)

    def wait(self) -> None:
        self.work.wait()


@pytest.mark.parametrize(("depth", "world_size"), [(4, 2), pytest.param(12, 8, marks=pytest.mark.long)])
def test_the_peak_of_one_of_several_processes_is_foreseen(depth, world_size, monkeypatch):
    """In bf16 on a GPU less travels than on a CPU, and each keeps exact weights; all else is as on the CPU."""
    monkeypatch.setattr(sharded, "_reduce_scatter", Travelling)
    wires = (FP32, BF16)
    shape = model_shape(depth, 32_768, sequence_length=256, head_dim=128, window_pattern="SSSL")
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=world_size)
    try:
        peaks = [
            tracked_peak(
                shape, 1, Way(BF16), partial(ShardedOptimizer, rank=0, world_size=world_size, wire=wire)
            )
            for wire in wires
        ]
    finally:
        dist.destroy_process_group()
    ways = [Way(BF16, world_size=world_size, on_gpu=wire == BF16) for wire in wires]
    foreseen = [step_memory(shape, 1, 1, way) for way in ways]
    assert [one["peak"] - one["workspace"] for one in foreseen] == pytest.approx(peaks, rel=0.15)


# ---- recomputing ----


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("recompute", ["elementwise", "blocks"])
def test_recomputing_gives_the_same_gradients_bit_for_bit(new_model, batches_from, dtype, recompute):
    gradients = []
    for what in ("nothing", recompute):
        model = new_model(torch.float64 if dtype == torch.float64 else torch.float32)
        with torch.no_grad():
            for number, weight in enumerate(model.parameters()):
                noise = torch.randn(weight.shape, generator=torch.Generator().manual_seed(number))
                weight += 0.1 * noise
        compute_loss = prepare(model, Runtime(CPU, dtype), False, print)
        model.run_block = RECOMPUTING[what]
        compute_loss(model, next(batches_from(3)), 1.0).backward()
        gradients.append([weight.grad for weight in model.parameters()])
    assert all(torch.equal(plain, again) for plain, again in zip(*gradients, strict=True))


# ---- what fits ----


def shape_of(depth: int, vocab_size: int) -> GPTConfig:
    return model_shape(depth, vocab_size, sequence_length=2048, head_dim=128, window_pattern="SSSL")


@pytest.mark.parametrize(
    ("depth", "vocab_size", "memory_gb", "world_size", "fits"),
    [  # the cards of shared analysis: which model trains on which
        (12, 32_768, 8, 1, True),
        (16, 32_768, 16, 1, True),
        (20, 32_768, 24, 1, True),
        (20, 65_536, 24, 1, True),
        (24, 32_768, 24, 1, True),
        (32, 32_768, 80, 1, True),
        (32, 65_536, 80, 8, True),
        (24, 32_768, 12, 1, False),
        (32, 65_536, 24, 1, False),
    ],
)
def test_which_model_fits_which_card(depth, vocab_size, memory_gb, world_size, fits):
    way = Way(BF16, on_gpu=True, is_compiled=True, world_size=world_size)
    fit = find_fit(shape_of(depth, vocab_size), 256 // world_size, 32, way, memory_gb * GB)
    assert fit.fits == fits
    assert (fit.memory["peak"] <= memory_gb * GB) == fits
    assert (256 // world_size) % fit.rows == 0


def test_with_less_memory_what_costs_time_comes_last():
    def tiers(way: Way, rooms, at_once: int) -> list[tuple[str, int]]:
        found = [find_fit(shape_of(16, 32_768), 64, at_once, way, room * GB) for room in rooms]
        assert all(fit.fits for fit in found)
        return [(fit.tier, fit.rows) for fit in found]

    gpu = Way(BF16, on_gpu=True, is_compiled=True)
    assert tiers(gpu, (141, 48, 24, 16, 12, 8), 32) == [
        ("plain", 32),
        ("plain", 16),
        ("plain", 8),
        ("plain", 4),
        ("recomputing blocks", 8),
        ("recomputing blocks, bf16 tables", 4),
    ]
    # A CPU waits for nothing: it takes a single row rather than to recompute. malloc keeps two fifths of the room.
    assert tiers(Way(BF16), (33.1, 26.5, 19.9, 18.2), 4) == [
        ("plain", 4),
        ("plain", 2),
        ("plain", 1),
        ("recomputing elementwise", 2),
    ]


def test_a_cpu_keeps_the_plan_where_it_fits_and_its_steps_where_not(
    new_model, new_plan, runtime, monkeypatch
):
    plan, model, notices = new_plan(4, rows=12, rows_per_microbatch=6), new_model(), []
    fitted = fit_plan(model, plan, runtime, notices.append)
    assert replace(fitted, foreseen_memory_bytes=0) == plan and fitted.foreseen_memory_bytes > 10**8
    assert model.run_block is RECOMPUTING["nothing"] and not notices
    weights = 4 * model_cost(plan.model).parameters
    # Tensors would fit into the first; resident memory, with what malloc keeps of them, does not.
    tight = 1.12 * (step_memory(plan.model, 6, 2, Way(FP32))["peak"] - weights)
    needed = resident_for(step_memory(plan.model, 1, 12, Way(FP32))["peak"])
    for free in (tight, 1.12 * (needed - weights), 0):
        monkeypatch.setattr(memory, "free_memory", lambda device, free=free: free)
        smaller = fit_plan(model, plan, runtime, notices.append)
        assert smaller.rows_per_step == plan.rows_per_step and smaller.steps == plan.steps
        assert smaller.rows_per_microbatch < 6
    assert len(notices) == 2 and all(one.endswith("are there; trying all the same") for one in notices)


# ---- when memory runs out all the same ----


def limited(compute_loss, rows: int, recompute: str = "nothing"):
    """The loss on a device that holds so many rows at once, and fails in the backward pass, too."""

    def compute(model, batch, scale):
        holds = rows * (2 if model.run_block is not RECOMPUTING["nothing"] else 1)
        loss = compute_loss(model, batch, scale)
        if len(batch.inputs) > holds or list(RECOMPUTING.values()).index(model.run_block) < list(
            RECOMPUTING
        ).index(recompute):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 3.14 GiB")
        return loss

    return compute


def weights_after(new_model, new_plan, batches_from, runtime, wrap) -> tuple[list, list]:
    model, plan, notices = new_model(torch.float64), new_plan(3, rows=8, rows_per_microbatch=4), []
    compute_loss = prepare(model, Runtime(CPU, torch.float64), False, print)
    optimizer, batches, notch = Optimizer(model, plan.rates), batches_from(4), Notch(notices.append)
    for step in range(1, 4):
        train_step(model, optimizer, islice(batches, 2), plan, wrap(compute_loss), runtime, step, notch)
    return [weight.detach() for weight in model.parameters()], notices


@pytest.mark.parametrize(
    ("rows", "recompute"), [(2, "nothing"), (1, "nothing"), (1, "elementwise"), (0.5, "blocks")]
)
def test_a_step_that_runs_out_of_memory_is_done_in_pieces_and_gives_the_same(
    new_model, new_plan, batches_from, runtime, rows, recompute
):
    expected, silent = weights_after(new_model, new_plan, batches_from, runtime, lambda loss: loss)
    found, notices = weights_after(
        new_model, new_plan, batches_from, runtime, lambda loss: limited(loss, rows, recompute)
    )
    assert not silent and len(notices) == 1 and "\n" not in notices[0] and "memory ran out" in notices[0]
    assert (recompute in notices[0]) == (recompute != "nothing")
    for one, other in zip(expected, found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)  # Muon computes in float32


def test_where_nothing_is_left_to_give_up_one_line_says_so(new_model, new_plan, batches_from, runtime):
    with pytest.raises(UserError, match="does not hold one row") as caught:
        weights_after(new_model, new_plan, batches_from, runtime, lambda loss: limited(loss, 0))
    assert "\n" not in str(caught.value)


def test_other_errors_are_no_lack_of_memory(new_model, new_plan, batches_from, runtime):
    def broken(model, batch, scale):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="mat1"):
        weights_after(new_model, new_plan, batches_from, runtime, lambda loss: broken)
    with pytest.raises(UserError):  # what a CPU says
        weights_after(
            new_model, new_plan, batches_from, runtime,
            lambda loss: lambda *_: (_ for _ in ()).throw(RuntimeError("DefaultCPUAllocator: can't allocate memory")),
        )  # fmt: skip


def test_pieces_of_a_batch_have_its_rows_once(batches_from):
    batch = next(batches_from(5))
    for pieces in (1, 2, 4, 8):
        cut = batch_pieces(batch, pieces)
        assert torch.equal(torch.cat([piece.inputs for piece in cut]), batch.inputs)
    ones = torch.ones((3, 2), dtype=torch.int64)
    copies = torch.tensor([[1, 0], [0, 0], [0, 1]])
    rollouts = RolloutBatch(ones, ones, ones.float(), ones.float(), copies)
    assert [piece.num_targets for piece in batch_pieces(rollouts, 4)] == [1, 1]


PROGRAM = """
import sys, torch
from chatsmith.data.packing import Batch
from chatsmith.model.config import GPTConfig
from chatsmith.model.gpt import GPT
from chatsmith.optim.sharded import make_optimizer
from chatsmith.runtime.device import detect_runtime
from chatsmith.runtime.distributed import process_group
from chatsmith.train.memory import Notch
from chatsmith.train.plan import make_plan
from chatsmith.train.step import prepare, train_step

torch.set_num_threads(1)
runtime = detect_runtime("cpu", "fp64")
shape = GPTConfig(vocab_size=37, context_length=8, num_layers=3, num_heads=2, head_dim=8, value_embedding_layers=(0, 2))
model = GPT(shape)
model.init_weights(torch.Generator().manual_seed(3))
model.double()
plan = make_plan(shape, 8 * 8 * 4, batch_tokens=64, rows_per_microbatch=2, world_size=runtime.world_size)
compute_loss, failures, said = prepare(model, runtime, False, print), [], []

def fail(gradient):  # that of the table comes last: those of most others have been sent by then
    failures.append(getattr(optimizer, "_next", 0))
    if runtime.rank == 1 and len(failures) in (2, 3):
        raise torch.OutOfMemoryError("CUDA out of memory")
    return gradient

notch = Notch(said.append)
with process_group(runtime):
    optimizer = make_optimizer(model, plan.rates, runtime)
    model.embedding.weight.register_hook(fail)
    for step in range(1, 4):
        ids = torch.randint(37, (8, 8), generator=torch.Generator().manual_seed(step))
        mine = ids[runtime.rank :: runtime.world_size]
        batches = [Batch(rows, rows.roll(-1, 1)) for rows in mine.split(2)]
        train_step(model, optimizer, batches, plan, compute_loss, runtime, step, notch)
    assert runtime.rank != 1 or failures[1] > 0, "nothing had been sent when it failed"
    torch.save((dict(model.state_dict()), notch.pieces, said), f"{sys.argv[1]}/{runtime.rank}.pt")
"""


def test_processes_agree_on_the_notch_though_some_gradients_were_sent_already(tmp_path):
    def train(world_size: int) -> list:
        folder = tmp_path / str(world_size)
        folder.mkdir()
        well(together(PROGRAM, folder, world_size=world_size))
        return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(world_size)]

    ((expected, pieces, said),) = train(1)
    assert (pieces, said) == (1, [])
    for weights, pieces, said in train(2):
        assert pieces == 2 and len(said) == 1, "both were told, though only one ran out"
        for name, value in weights.items():
            torch.testing.assert_close(value, expected[name], rtol=1e-4, atol=1e-6)


RESIDENT = """
import re, sys, torch
from pathlib import Path
from chatsmith.data.packing import Batch
from chatsmith.model.gpt import GPT
from chatsmith.optim.optimizer import Optimizer
from chatsmith.runtime.device import DTYPES, Runtime
from chatsmith.train.memory import fit_plan
from chatsmith.train.plan import make_plan, model_shape
from chatsmith.train.step import prepare, train_step

depth, width, length, rows = map(int, sys.argv[1:5])
runtime = Runtime(torch.device("cpu"), DTYPES[sys.argv[5]])
shape = model_shape(depth, 512, sequence_length=length, width=width)
model = GPT(shape)
model.init_weights(torch.Generator().manual_seed(1))
compute_loss = prepare(model, runtime, False, print)
plan = make_plan(shape, 10**6, batch_tokens=rows * length, rows_per_microbatch=rows)
plan = fit_plan(model, plan, runtime, print)
optimizer = Optimizer(model, plan.rates)
for step in (1, 2, 3):
    ids = torch.randint(512, (rows, length))
    train_step(model, optimizer, [Batch(ids, ids)], plan, compute_loss, runtime, step)
peak = 1024 * int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
print(plan.foreseen_memory_bytes / peak)
"""


@pytest.mark.long
@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux for the peak of resident memory")
@pytest.mark.parametrize("shape", ["1 64 128 16 bf16", "2 128 128 64 bf16", "3 128 512 8 fp32"])
def test_the_resident_memory_of_training_is_foreseen(shape):
    """Of a process of its own: libraries, tensors, and what malloc keeps."""
    command = [sys.executable, "-c", RESIDENT, *shape.split()]
    found = subprocess.run(command, check=True, capture_output=True, text=True, timeout=600)
    assert float(found.stdout.split()[-1]) == pytest.approx(1, abs=0.25)
