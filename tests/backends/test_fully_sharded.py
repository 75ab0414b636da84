"""Weights cut among processes train what whole ones do; none of them holds more than its part; any of the others goes
on from their state."""

import copy
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file
from torch import Tensor
from torch.distributed._tools.mem_tracker import MemTracker
from torch.distributed.tensor import DTensor
from torch.testing._internal.distributed.fake_pg import FakeStore
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from chatsmith.backends.fully_sharded import place_sharded
from chatsmith.data.packing import Batch
from chatsmith.model.config import GPTConfig
from chatsmith.model.gpt import GPT
from chatsmith.runtime.device import Runtime
from chatsmith.runtime.errors import UserError
from chatsmith.runtime.rank import Rank, per_machine
from chatsmith.train.memory import Way, find_fit, step_memory
from chatsmith.train.plan import make_plan, model_shape
from chatsmith.train.step import prepare

ROOT = Path(__file__).parents[2]
LONG = pytest.mark.long

PROGRAM = """
import sys, torch
from pathlib import Path
from safetensors.torch import load_file, save_file
from chatsmith.backends.fully_sharded import gather, place_sharded
from chatsmith.data.packing import NOT_TRAINED_ON, Batch
from chatsmith.model.config import GPTConfig
from chatsmith.model.gpt import GPT
from chatsmith.model.loss import bits_per_byte
from chatsmith.optim.sharded import make_optimizer
from chatsmith.runtime.device import detect_runtime
from chatsmith.runtime.distributed import process_group
from chatsmith.train.checkpoint import load_training
from chatsmith.train.memory import RECOMPUTING
from chatsmith.train.plan import make_plan
from chatsmith.train.step import prepare, train_step

folder, MACHINES = Path(sys.argv[1]), int(sys.argv[2])
torch.set_num_threads(1)
runtime = detect_runtime("cpu", "fp32")
ranks = range(runtime.rank, 8, runtime.world_size)
shape = GPTConfig(vocab_size=37, context_length=8, num_layers=3, num_heads=2, head_dim=8,
                  value_embedding_layers=(0, 2), bigram_buckets=20)


def new(dtype, how):
    model = GPT(shape)
    model.init_weights(torch.Generator().manual_seed(3))
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for weight in model.parameters():  # zeros would hide what travels wrongly
            weight.add_(torch.randn(weight.shape, generator=generator) * 0.02)
    model.to(dtype)
    if how != "zero2" and runtime.world_size > 1:
        place_sharded(model, runtime, runtime.world_size // MACHINES)
    compute_loss = prepare(model, runtime, False, print)
    model.compute_dtype = dtype
    if how == "recompute":
        model.run_block = RECOMPUTING["blocks"]
    return model, compute_loss


def batches(step, masked, together):
    # Of the masked rows, the last process has none to learn from, and cannot leave them out.
    each = []
    for number in ranks:
        ids = torch.randint(37, (1, 9), generator=torch.Generator().manual_seed(100 * step + number))
        learns = not masked or number % 2 == 0
        each.append(Batch(ids[:, :-1], ids[:, 1:] if learns else torch.full((1, 8), NOT_TRAINED_ON)))
    return [Batch(*map(torch.cat, zip(*each)))] if together else each


def train(name, dtype, how, first, last, resume="", masked=False, evaluates=False):
    model, compute_loss = new(dtype, how)
    plan = make_plan(shape, 24 * 64, batch_tokens=64, rows_per_microbatch=1, world_size=runtime.world_size)
    optimizer = make_optimizer(model, plan.rates, runtime)
    if resume:
        state = {}
        for part in sorted((folder / resume).glob("*.safetensors")):
            state |= load_file(part)
        load_training(model, optimizer, state)
    local = lambda one: one.to_local() if hasattr(one, "to_local") else one
    sizes, update = [], optimizer.step

    def counted(*arguments):
        weights = list(optimizer.named.values())
        held = [*weights, *(one.grad for one in weights if one.grad is not None)]  # ZeRO-2 has sent and dropped them
        sizes.append(sum(local(one).nbytes for one in held))
        update(*arguments)

    optimizer.step = counted
    for step in range(first, last):
        if evaluates:
            ids = torch.arange(8)[None]
            bits_per_byte(model, [(ids, ids)], torch.ones(37))
        train_step(model, optimizer, batches(step, masked, last > 2), plan, compute_loss, runtime, step + 1)
    weights = {"model." + key: value for key, value in optimizer.named_weights().items()}
    parts = {key: value.detach().contiguous().clone() for key, value in (weights | optimizer.named_state()).items()}
    sizes[-1] += sum(value.nbytes for value in optimizer.named_state().values())
    (folder / name).mkdir(exist_ok=True)
    (folder / name / f"{runtime.rank}.bytes").write_text(str(sizes[-1]))
    save_file(parts, folder / name / f"{runtime.rank}.safetensors")
    model = gather(model, runtime)
    optimizer.close()
    if runtime.is_main:
        save_file({key: value.clone() for key, value in model.state_dict().items()}, folder / f"{name}.weights")


with process_group(runtime):
    exec(sys.argv[3])
"""


def run(folder: Path, world_size: int, code: str, machines: int = 1) -> Path:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    setting = {"WORLD_SIZE": str(world_size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    setting |= {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(folder), str(machines), code],
            env=os.environ | setting | {"RANK": str(rank)},
        )
        for rank in range(world_size)
    ]
    assert [process.wait(600) for process in processes] == [0] * world_size
    return folder


def distance(one: Path, other: Path) -> float:
    """The largest of all weights' differences, relative to the weights."""
    first, second = load_file(one), load_file(other)
    assert first.keys() == second.keys()
    return max(float((first[name] - second[name]).norm() / first[name].norm()) for name in first)


ALONE = """
for how in ("step", "masked", "four"):
    train(how, torch.float64, "zero2", 0, {"four": 4}.get(how, 1), masked=how == "masked")
train("two", torch.float64, "zero2", 0, 2)
train("many", torch.float32, "zero2", 0, 24)
"""


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What one process trains."""
    return run(tmp_path_factory.mktemp("alone"), 1, ALONE)


CUT = """
train("step", torch.float64, "full", 0, 1, evaluates=True)
train("masked", torch.float64, "full", 0, 1, masked=True)
train("recompute", torch.float64, "recompute", 0, 1)
train("two", torch.float64, "full", 0, 2)
train("zero2", torch.float64, "zero2", 0, 2)
for name, how, before in [("a", "full", "two"), ("b", "full", "zero2"), ("c", "zero2", "two")]:
    train(name, torch.float64, how, 2, 4, before)
train("d", torch.float64, "full", 2, 4, "ALONE")
"""


@pytest.fixture(scope="module")
def cut(alone: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """And two, whose weights are cut."""
    return run(tmp_path_factory.mktemp("cut"), 2, CUT.replace("ALONE", str(alone / "two")))


def test_cut_weights_train_what_whole_ones_do(alone: Path, cut: Path) -> None:
    """After an evaluation, which leaves the head whole; with nothing to learn in one batch; with blocks recomputed."""
    assert distance(alone / "step.weights", cut / "step.weights") <= 1e-12
    assert distance(alone / "masked.weights", cut / "masked.weights") <= 1e-12
    assert distance(alone / "step.weights", cut / "recompute.weights") <= 1e-12


def test_a_process_has_its_part_of_weights_gradients_and_state(alone: Path, cut: Path) -> None:
    """Counted on its tensors, in the update: nothing but gates and scalars is there twice."""
    whole = int((alone / "step" / "0.bytes").read_text())
    shares = [int((cut / "step" / f"{rank}.bytes").read_text()) for rank in range(2)]
    assert sum(shares) <= 1.03 * whole and max(shares) <= 0.52 * whole


def test_any_way_of_sharing_resumes_any_other(alone: Path, cut: Path, tmp_path: Path) -> None:
    """One process, two with the optimizer's state dealt out, two with everything cut."""
    for name in "abcd":
        assert distance(alone / "four.weights", cut / f"{name}.weights") <= 1e-10, name
    whole = run(tmp_path, 1, f'train("e", torch.float64, "zero2", 2, 4, {str(cut / "two")!r})')
    assert distance(alone / "four.weights", whole / "e.weights") <= 1e-10


@LONG
def test_24_steps_in_float32_train_what_one_process_does(alone: Path, tmp_path: Path) -> None:
    found = run(tmp_path, 2, 'train("many", torch.float32, "full", 0, 24)')
    assert distance(alone / "many.weights", found / "many.weights") <= 2e-3


@LONG
def test_machines_have_the_same_weights_and_one_of_them_saves_its_own(alone: Path, tmp_path: Path) -> None:
    code = 'train("step", torch.float64, "full", 0, 1)\ntrain("many", torch.float32, "full", 0, 24)'
    found = run(tmp_path, 4, code, machines=2)
    assert distance(alone / "step.weights", found / "step.weights") <= 1e-12
    assert distance(alone / "many.weights", found / "many.weights") <= 2e-3
    parts = [load_file(found / "step" / f"{rank}.safetensors") for rank in range(4)]
    assert parts[0] and parts[1] and not parts[2] and not parts[3]


# ---- many processes, of which only this one is there ----


@pytest.fixture
def pretended():
    dist.init_process_group("fake", store=FakeStore(), rank=3, world_size=64)
    yield
    dist.destroy_process_group()


def test_traffic_of_a_deep_model_on_eight_machines(pretended) -> None:
    """Weights of d40 are gathered twice a microbatch (tables as often as they are looked up), gradients reduced once,
    within a machine; between machines, an eighth of the gradients; in the update each matrix goes to its owner and
    back: an eighth of all, twice. A narrow d40: what is counted is relative to its size."""
    config = GPTConfig(
        vocab_size=512, context_length=8, num_layers=40, num_heads=2, head_dim=32,
        value_embedding_layers=tuple(range(1, 40, 2)),
    )  # fmt: skip
    model, runtime = GPT(config), Runtime(torch.device("cpu"), torch.float32, 3, 64)
    model.init_weights(torch.Generator().manual_seed(1))
    whole = copy.deepcopy(model)
    place_sharded(model, runtime, 8)
    plan = make_plan(config, 10**6)
    assert model.new_optimizer
    optimizer = model.new_optimizer(model, plan.rates, runtime)
    sent = {"gather": 0, "reduce": 0, "machines": 0, "owners": 0}

    class Count(TorchDispatchMode):
        def __torch_dispatch__(self, operator, types, arguments=(), options=None):
            name, found = operator.name(), operator(*arguments, **(options or {}))
            tensors = [one for one in tree_leaves(arguments) if isinstance(one, Tensor)]
            size = max((one.nbytes for one in tensors), default=0)
            if "alltoall" in name:
                sent["owners"] += tensors[1].nbytes
            elif "allgather" in name or "all_gather_into" in name:
                sent["gather"] += size if "c10d::" in name else found.nbytes
            elif "reduce_scatter" in name:
                sent["reduce"] += size
            elif "allreduce" in name or "all_reduce" in name:
                sent["machines"] += size
            return found

    batch = Batch(torch.arange(8)[None], torch.arange(8)[None])
    with Count():
        prepare(model, runtime, False, print)(model, batch, 1.0).backward()
        optimizer.step(1.0, 0.9, 1.0)
    roles = {"blocks": 0, "head": 0, "embedding": 0, "value_embeddings": 0}
    for name, weight in whole.named_parameters():
        if weight.dim() > 1 and "gate" not in name and name.split(".")[0] in roles:
            roles[name.split(".")[0]] += weight.nbytes
    tables = roles["embedding"] + roles["value_embeddings"]
    looked_up = tables + roles["embedding"]
    assert sent["gather"] == pytest.approx(2 * roles["blocks"] + roles["head"] + looked_up, rel=0.01)
    assert sent["reduce"] == pytest.approx(roles["blocks"] + roles["head"] + looked_up, rel=0.01)
    assert sent["machines"] == pytest.approx((roles["blocks"] + roles["head"] + tables) / 8, rel=0.05)
    assert sent["owners"] == pytest.approx(2 * roles["blocks"] / 8, rel=0.01)


def test_what_cannot_be_cut_is_refused_in_one_line(pretended) -> None:
    model = GPT(GPTConfig(vocab_size=64, num_layers=1, num_heads=5, head_dim=4))
    with pytest.raises(UserError, match="8 processes on a machine do not divide 20 channels; take"):
        place_sharded(model, Runtime(torch.device("cpu"), torch.float32, 3, 64), 8)
    with pytest.raises(UserError, match="24 processes on a machine do not divide 64 processes; take"):
        place_sharded(GPT(GPTConfig(vocab_size=64)), Runtime(torch.device("cpu"), torch.float32, 3, 64), 24)


@pytest.mark.parametrize(
    ("environment", "processes"),
    [
        ({"RANK": "0", "LOCAL_WORLD_SIZE": "8"}, 8),
        ({"RANK": "0", "LOCAL_WORLD_SIZE": "1"}, 64),
        ({"SLURM_STEP_TASKS_PER_NODE": "4(x16)"}, 4),
        ({}, 64),
    ],
)
def test_how_many_processes_a_machine_has(environment: dict[str, str], processes: int) -> None:
    assert per_machine(Rank(3, 64), environment) == processes


# ---- memory, and when it is chosen ----


@pytest.mark.parametrize(("length", "rows"), [(64, 2), pytest.param(512, 4, marks=LONG)])
def test_the_peak_of_a_step_is_foreseen(length: int, rows: int) -> None:
    """Where a process is one of four; by a memory tracker, which sees the gathered weights as well."""
    shape = model_shape(4, 4096, sequence_length=length, head_dim=64)
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=4)
    try:
        model, runtime = GPT(shape), Runtime(torch.device("cpu"), torch.float32, 0, 4)
        model.init_weights(torch.Generator().manual_seed(1))
        place_sharded(model, runtime, 4)
        assert model.new_optimizer
        optimizer = model.new_optimizer(model, make_plan(shape, 10**6).rates, runtime)
        compute_loss, ids = (
            prepare(model, runtime, False, print),
            torch.zeros((rows, length), dtype=torch.int64),
        )
        tracker = MemTracker()
        for _ in range(2):  # the first one makes AdamW's moments
            tracker = MemTracker()
            local = (
                weight.to_local() if isinstance(weight, DTensor) else weight for weight in model.parameters()
            )
            tracker.track_external(*optimizer.named_state().values(), *local)
            with tracker:
                compute_loss(model, Batch(ids, ids), 1.0).backward()
                optimizer.step(1.0, 0.9, 1.0)
            optimizer.zero_grad()
        (found,) = tracker.get_tracker_snapshot("peak").values()
    finally:
        dist.destroy_process_group()
    foreseen = step_memory(shape, rows, 1, Way(torch.float32, world_size=4, shards=4))
    assert foreseen["peak"] == pytest.approx(found["Total"], rel=0.15)


def test_it_is_chosen_where_nothing_else_fits() -> None:
    shape = model_shape(48, 32_768, sequence_length=2048, head_dim=128, window_pattern="SSSL")
    way = Way(torch.bfloat16, on_gpu=True, is_compiled=True, world_size=8, most_shards=8)
    small = find_fit(shape, 32, 32, way, 48e9)
    assert small.fits and small.tier.startswith("fully sharded")
    large = find_fit(shape, 32, 32, way, 141e9)
    assert large.fits and "sharded" not in large.tier
    state = ("weights", "gradients", "optimizer")
    whole = step_memory(shape, 1, 1, Way(torch.bfloat16, on_gpu=True))
    assert sum(small.memory[part] for part in state) == pytest.approx(
        sum(whole[part] for part in state) / 8, rel=1e-6
    )
