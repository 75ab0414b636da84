"""Several processes are one: the sharded optimizer compared with the whole one, over gloo, in float64."""

import copy
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file
from torch.testing._internal.distributed.fake_pg import FakeStore

from chatsmith.model.config import GPTConfig
from chatsmith.model.gpt import GPT
from chatsmith.optim import sharded
from chatsmith.optim.optimizer import Optimizer, Rates
from chatsmith.optim.sharded import ShardedOptimizer, whole_state
from tests.processes import together, well

LONG = pytest.mark.long
CONFIG = GPTConfig(
    vocab_size=37,
    context_length=8,
    num_layers=3,
    num_heads=2,
    head_dim=8,
    value_embedding_layers=(0, 2),
    bigram_buckets=20,
)
RATES = Rates(0.02, 0.01, 0.1, 0.1, 0.1, 0.02, 0.01)

PROGRAM = """
import os, sys, torch, torch.distributed as dist
from chatsmith.model.config import GPTConfig
from chatsmith.model.gpt import GPT
from chatsmith.optim.optimizer import Optimizer, Rates
from chatsmith.optim.sharded import ShardedOptimizer
from chatsmith.train.checkpoint import load_training
from safetensors.torch import save_file, load_file

folder, steps, resume = sys.argv[1], int(sys.argv[2]), sys.argv[3:]
rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
torch.set_num_threads(1)
if world > 1:
    dist.init_process_group("gloo")
config = GPTConfig(vocab_size=37, context_length=8, num_layers=3, num_heads=2, head_dim=8,
                   value_embedding_layers=(0, 2), bigram_buckets=20)
model = GPT(config)
model.init_weights(torch.Generator().manual_seed(3))
model.double()
with torch.no_grad():
    generator = torch.Generator().manual_seed(5)
    for parameter in model.parameters():  # zeros would hide what travels wrongly
        parameter.add_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64) * 0.02)
rates = Rates(0.02, 0.01, 0.1, 0.1, 0.1, 0.02, 0.01, weight_decay=0.1)
wire = torch.bfloat16 if "BF16_WIRE" in os.environ else None
optimizer = ShardedOptimizer(model, rates, rank, world, wire) if world > 1 else Optimizer(model, rates)
first = 0
if resume:
    state = {}
    for file in sorted(os.listdir(resume[0])):
        state |= load_file(os.path.join(resume[0], file))
    load_training(model, optimizer, {k: v for k, v in state.items() if not k.startswith("whole.")})
    first = int(state["done"])
early = 0
for step in range(first, steps):
    optimizer.zero_grad()
    rows = list(range(12))[rank::world]
    if step == 1 and world > 1:  # the last process has nothing to learn from
        rows = list(range(12))[rank :: world - 1] if rank < world - 1 else []
    for index, row in enumerate(rows):
        if index == len(rows) - 1 and world > 1:
            optimizer.last_backward()
        tokens = torch.randint(37, (1, 9), generator=torch.Generator().manual_seed(100 * step + row))
        logits = model.logits(model(tokens[:, :-1]))
        loss = torch.nn.functional.cross_entropy(logits[0], tokens[0, 1:], reduction="sum") / 96
        loss.backward()
    if world > 1:
        early = optimizer._next if rows else early  # without a backward pass nothing is sent early
        optimizer.reduce_gradients()
    optimizer.step(1.0, 0.9, 1.0)
save = {"model." + k: v.detach().clone() for k, v in optimizer.named_weights().items()}
save |= {k: v.contiguous().clone() for k, v in optimizer.named_state().items()}
if rank == 0:
    save |= {"whole." + k: v.clone() for k, v in model.state_dict().items()}
    save["done"] = torch.tensor(steps)
save_file(save, os.path.join(folder, f"{rank}.safetensors"))
if world > 1:
    assert early == len(optimizer.buckets), (early, len(optimizer.buckets))
    dist.barrier()
    dist.destroy_process_group()
"""


def train(folder: Path, world_size: int, steps: int, resume: Path | None = None, **environment: str) -> Path:
    """Train in `world_size` processes; the folder with their states, the weights among those of the first."""
    folder.mkdir()
    well(
        together(PROGRAM, folder, steps, *([resume] if resume else []), world_size=world_size, **environment)
    )
    return folder


def weights(folder: Path) -> dict:
    return {k: v for k, v in load_file(folder / "0.safetensors").items() if k.startswith("whole.")}


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(tmp_path_factory.mktemp("alone") / "4", 1, 4)


@pytest.mark.parametrize("world_size", [2, pytest.param(3, marks=LONG), pytest.param(4, marks=LONG)])
def test_several_processes_train_the_weights_of_one(world_size, alone, tmp_path):
    several = weights(train(tmp_path / "several", world_size, 4))
    for name, expected in weights(alone).items():
        error = (several[name] - expected).abs().max() / expected.abs().max().clamp(min=1e-12)
        assert error < 1e-10, (name, error)


@pytest.mark.parametrize(
    ("before", "after"),
    [(3, 2), *(pytest.param(a, b, marks=LONG) for a, b in [(1, 3), (2, 1), (4, 3), (2, 4), (1, 4), (4, 1)])],
)
def test_a_state_resumes_with_another_number_of_processes(before, after, alone, tmp_path):
    first = train(tmp_path / "first", before, 2)
    resumed = weights(train(tmp_path / "second", after, 4, resume=first))
    for name, expected in weights(alone).items():
        error = (resumed[name] - expected).abs().max() / expected.abs().max().clamp(min=1e-12)
        assert error < 1e-10, (name, error)


def test_weights_that_travel_in_bf16_are_exact_where_they_are_updated(alone, tmp_path):
    """A resumed run goes on from the exact weights, and what everybody computes with are these, rounded."""
    whole = train(tmp_path / "whole", 2, 4, BF16_WIRE="1")
    first = train(tmp_path / "first", 2, 2, BF16_WIRE="1")
    resumed = train(tmp_path / "second", 2, 4, resume=first, BF16_WIRE="1")
    rounded = weights(whole)
    for name, value in weights(resumed).items():
        assert torch.equal(value, rounded[name]), name
    state = load_file(whole / "0.safetensors") | load_file(whole / "1.safetensors")
    exact = whole_state({k: v for k, v in state.items() if k.startswith("model.")}, GPT(CONFIG))
    moved = 0
    for name, expected in weights(alone).items():
        own = exact[name.replace("whole.", "model.")]
        error = (own - expected).norm() / expected.norm().clamp(min=1e-12)
        assert error < 0.05, (name, error)
        moved += not torch.equal(own, rounded[name])
        assert torch.equal(own.bfloat16(), rounded[name].bfloat16())
    assert moved > 10


@pytest.fixture(params=[8, 64])
def pretended_group(request):
    """Many processes of which only this one is there: collectives return at once, and bring nothing."""
    dist.init_process_group("fake", store=FakeStore(), rank=3, world_size=request.param)
    yield request.param
    dist.destroy_process_group()


def test_traffic_stays_within_its_budget_and_starts_in_the_backward_pass(pretended_group, monkeypatch):
    """Two bytes for every gradient and two for every new weight, in messages of at most 256 MB, though there are more
    processes than matrices."""
    config = GPTConfig(
        vocab_size=512,
        context_length=8,
        num_layers=9,
        num_heads=2,
        head_dim=16,
        value_embedding_layers=(1, 7),
    )
    model = GPT(config)
    model.init_weights(torch.Generator().manual_seed(1))
    optimizer = ShardedOptimizer(model, RATES, 3, pretended_group, wire=torch.bfloat16)
    sent: list[int] = []
    gathered: list[int] = []

    def counted(count: list[int], which: int, collective):
        def call(*tensors, **options):
            count.append(tensors[which].nbytes)
            assert tensors[which].dtype == torch.bfloat16
            return collective(*tensors, **options)

        return call

    monkeypatch.setattr(sharded, "_reduce_scatter", counted(sent, 1, sharded._reduce_scatter))
    monkeypatch.setattr(sharded, "_all_gather", counted(gathered, 0, sharded._all_gather))
    monkeypatch.setattr(dist, "reduce", counted(sent, 0, dist.reduce))
    monkeypatch.setattr(dist, "broadcast", counted(gathered, 0, dist.broadcast))
    started_at_first_block: list[int] = []
    model.blocks[0].mlp.down.weight.register_post_accumulate_grad_hook(
        lambda _: started_at_first_block.append(len(sent))
    )
    optimizer.last_backward()
    model.logits(model(torch.arange(8)[None])).square().mean().backward()
    during = len(sent)
    optimizer.step(1.0, 0.9, 1.0)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    assert during == len(optimizer.buckets) == len(sent) == len(gathered)
    # Buckets of eight layers are complete with the second block; with 64 processes only the head's comes so early.
    assert started_at_first_block[0] >= (6 if pretended_group == 8 else 1)
    assert sum(sent) + sum(gathered) <= 2 * 2 * parameters
    assert max(sent + gathered) <= 256 * 2**20


@pytest.mark.parametrize("dtype", [None, torch.float16])
def test_gradients_are_dropped_as_they_are_sent(pretended_group, dtype):
    """But in float16, where an overflow is looked for before the update."""
    model = GPT(CONFIG)
    model.init_weights(torch.Generator().manual_seed(1))
    model.compute_dtype = dtype
    optimizer = ShardedOptimizer(model, RATES, 3, pretended_group)
    left: list[set[str]] = []
    model.embedding.weight.register_post_accumulate_grad_hook(
        lambda _: left.append({name for name, one in optimizer.named.items() if one.grad is not None})
    )
    for is_last in (False, True):
        if is_last:
            optimizer.last_backward()
        model.logits(model(torch.arange(8)[None])).float().square().mean().backward()
    kept = set(optimizer.small) if dtype is None else optimizer.named.keys()
    assert left[0] == optimizer.named.keys() and left[1] <= {*kept, "smear_gate.weight", "smear_strength"}
    optimizer.step(1.0, 0.9, 1.0)
    assert {name for name, one in optimizer.named.items() if one.grad is not None} == set(optimizer.small)


def test_nobody_owns_what_another_owns(pretended_group):
    """The pieces of all processes together are every matrix and every row once, dealt out evenly."""
    model = GPT(GPTConfig(vocab_size=515, context_length=8, num_layers=5, num_heads=2, head_dim=16))
    optimizer = ShardedOptimizer(model, RATES, 3, pretended_group)
    owned = [piece for bucket in optimizer.buckets for piece in bucket.pieces if piece]
    assert len(set(owned)) == len(owned)
    entries = sum(piece.stop - piece.start for piece in owned)
    dealt = [n for n in optimizer.named if n not in optimizer.small]
    assert entries == sum(len(sharded._entries(name, optimizer.named[name])) for name in dealt)
    shares = [0] * pretended_group
    for bucket in optimizer.buckets:
        for rank, piece in enumerate(bucket.pieces):
            shares[rank] += piece.of(optimizer.named[piece.name]).numel() if piece else 0
    largest = max(named.numel() for name, named in optimizer.named.items() if ".mlp." in name)
    assert max(shares) <= sum(shares) / pretended_group + 1.1 * largest


@pytest.mark.parametrize("world_size", [2, 3, 4, 8, 64])
def test_a_state_that_is_dealt_out_and_put_together_is_the_same(world_size):
    """So any number of processes resumes what any other number saved. Nothing of it may be missing."""
    model = GPT(CONFIG)
    model.init_weights(torch.Generator().manual_seed(1))
    optimizer = Optimizer(model, RATES)
    model.logits(model(torch.arange(16).view(2, 8))).square().mean().backward()
    optimizer.step(1.0, 0.9, 1.0)
    whole = optimizer.named_state() | {f"model.{name}": value for name, value in model.state_dict().items()}
    parts: dict[str, torch.Tensor] = {}
    for rank in range(world_size):
        own = ShardedOptimizer(copy.deepcopy(model), RATES, rank, world_size, wire=torch.bfloat16)
        own.load_named_state(whole)
        parts |= own.named_state() | {f"model.{name}": value for name, value in own.named_weights().items()}
    assert sum("@" in key for key in parts) > 20
    together = whole_state(dict(parts), model)
    assert together.keys() == whole.keys()
    for name, value in whole.items():
        assert torch.equal(together[name], value), name
    lost = next(key for key in parts if key.startswith("adamw.exp_avg.head.weight@"))
    with pytest.raises(KeyError, match=r"head\.weight"):
        whole_state({key: value for key, value in parts.items() if key != lost}, model)


def test_a_state_from_before_the_first_update_is_restored(pretended_group):
    """Steps may have nothing to learn from, and a kill may come after them: AdamW has no state yet."""
    model = GPT(CONFIG)
    optimizer = ShardedOptimizer(model, RATES, 3, pretended_group)
    before, whole = optimizer.named_state().keys(), Optimizer(model, RATES).named_state()
    assert not any(name.startswith("adamw.") for name in whole)
    optimizer.load_named_state(whole)
    assert optimizer.named_state().keys() == before
