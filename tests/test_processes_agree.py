"""One to four processes give the weights of one, whatever is trained: in float64 to rounding after a step, and bit for
bit where sums have one order; in float32 nearly after 24. Reinforcement learning is compared on fixed rollouts."""

from pathlib import Path

import pytest
from safetensors.torch import load_file
from torch import Tensor

from tests.processes import together, well

PROGRAM = """
import copy, random, sys, torch
from pathlib import Path
from safetensors.torch import save_file
from chatsmith.data.packing import NOT_TRAINED_ON, Batch
from chatsmith.model.config import GPTConfig
from chatsmith.model.gpt import GPT
from chatsmith.optim.sharded import make_optimizer
from chatsmith.rl.objective import Clip, RLLoss, ScoredReply, rollout_batches, text_batches, with_reference
from chatsmith.runtime.device import detect_runtime
from chatsmith.runtime.distributed import process_group
from chatsmith.train.plan import make_plan
from chatsmith.train.step import prepare, train_step
from tests.train.conftest import make_rows

folder, ROWS = Path(sys.argv[1]), 12
torch.set_num_threads(1)
shape = GPTConfig(vocab_size=40, context_length=16, num_layers=3, num_heads=2, head_dim=16,
                  value_embedding_layers=(1,), bigram_buckets=33)


def new_model(dtype):
    model = GPT(shape)
    model.init_weights(torch.Generator().manual_seed(1))
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in model.parameters():  # zeros would hide what travels wrongly
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.02)
    return model.to(dtype)


def row(number, job):
    batch = make_rows(number, 1)
    if job != "sft":
        return batch
    generator = torch.Generator().manual_seed(number)  # conversations teach a part of a row, or nothing
    learned = torch.rand(batch.targets.shape, generator=generator) < number % 3 / 3
    return Batch(batch.inputs, torch.where(learned, batch.targets, NOT_TRAINED_ON))


def reply(number):
    rng = random.Random(number)
    ids = [rng.randrange(40) for _ in range(rng.randint(2, 7))]
    return ScoredReply([1, rng.randrange(40), 2], ids, [rng.random() < 0.8 or place == 0 for place in range(len(ids))],
                       [-3.7 + rng.random() for _ in ids], rng.choice([-1.0, 0.5, 2.0]))


def batches_of(job, step, rows, reference):
    mine = range(step * rows + runtime.rank, (step + 1) * rows, runtime.world_size)
    each = [row(number, job) for number in mine]
    if job == "one by one":
        return each
    if job != "rl":
        return [Batch(*map(torch.cat, zip(*each)))]
    replies = rollout_batches([reply(number) for number in mine], len(mine), 1)
    replies = [with_reference(batch, reference) for batch in replies]
    return [*replies, *text_batches([one.inputs[0].tolist() for one in each], 16, len(mine), 1)]


def train(job, steps, rows=ROWS):
    model, reference = new_model(runtime.compute_dtype), new_model(runtime.compute_dtype)
    with torch.no_grad():
        reference.head.weight.mul_(1.1)
    plan = make_plan(shape, steps * rows * 16, batch_tokens=rows * 16, rows_per_microbatch=1,
                     world_size=runtime.world_size)
    loss = prepare(model, runtime, False, print)
    rl = RLLoss(Clip(), 0.01, reference, 1.0)
    optimizer = make_optimizer(model, plan.rates, runtime)
    for step in range(steps):
        batches = batches_of(job, step, rows, reference)
        if job == "rl":
            rl.expect(batches, runtime)
        train_step(model, optimizer, batches, plan, rl if job == "rl" else loss, runtime, step + 1)
    optimizer.close()
    return {name: value.clone() for name, value in model.state_dict().items()}


found = {}
runtime = detect_runtime("cpu", "fp64")
with process_group(runtime):
    for job in ("pretrain", "sft", "rl"):
        found[f"one step of {job}"] = train(job, 1)
    if runtime.world_size < 3:
        found["same order"] = train("one by one", 3, rows=2)
    runtime = detect_runtime("cpu", "fp32")
    for job in ("pretrain", "sft", "rl"):
        found[f"24 steps of {job}"] = train(job, 24)
if runtime.is_main:
    save_file({f"{kind}/{name}": value for kind, one in found.items() for name, value in one.items()},
              folder / "weights.safetensors")
"""


def train(folder: Path, world_size: int) -> dict[str, dict[str, Tensor]]:
    """What so many processes make of each job: weights by name."""
    well(together(PROGRAM, folder, world_size=world_size))
    found: dict[str, dict[str, Tensor]] = {}
    for key, value in load_file(folder / "weights.safetensors").items():
        job, _, name = key.partition("/")
        found.setdefault(job, {})[name] = value
    return found


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Tensor]]:
    return train(tmp_path_factory.mktemp("alone"), 1)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    "world_size", [2, pytest.param(3, marks=pytest.mark.long), pytest.param(4, marks=pytest.mark.long)]
)
def test_several_processes_make_of_every_job_what_one_makes(world_size, alone, tmp_path):
    several = train(tmp_path, world_size)
    assert len(several) == (7 if world_size == 2 else 6)
    for job, found in several.items():
        for name, expected in alone[job].items():
            off = (found[name] - expected).norm() / expected.norm().clamp(min=1e-6)
            assert off <= (2e-3 if "24" in job else 0 if job == "same order" else 1e-12), (
                job,
                name,
                float(off),
            )
