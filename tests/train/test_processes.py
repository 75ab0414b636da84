"""One to four processes train one run, through the whole loop: stopped by one of them, resumed by any number."""

import json
from itertools import product
from pathlib import Path

import pytest
from safetensors.torch import load_file

from chatsmith.runtime.states import saved_states
from tests.processes import together, well

STEPS, STOPPED = 24, 8

PROGRAM = f"""
import io, os, signal, sys, torch
from pathlib import Path
from safetensors.torch import save_file
from chatsmith.model.config import GPTConfig
from chatsmith.model.gpt import GPT
from chatsmith.runtime.console import Reporter
from chatsmith.runtime.device import detect_runtime
from chatsmith.runtime.distributed import process_group
from chatsmith.train import trainer
from chatsmith.train.plan import make_plan
from chatsmith.train.step import prepare
from chatsmith.train.trainer import Job, TrainingRun, TrainingStoppedError, fit
from tests.train.conftest import make_rows

folder, stop = Path(sys.argv[1]), int(sys.argv[2])
torch.set_num_threads(1)
trainer.gemm_peak = lambda *_, **__: 1e12
runtime = detect_runtime("cpu", "fp32")
shape = GPTConfig(vocab_size=40, context_length=16, num_layers=3, num_heads=2, head_dim=16,
                  value_embedding_layers=(1,), bigram_buckets=33)

def batches(row):
    while True:
        if stop and row == 12 * (stop - 1) and runtime.rank == runtime.world_size - 1:
            os.kill(os.getpid(), signal.SIGINT)  # reaches one of them
        yield make_rows(row + runtime.rank, 1)
        row += runtime.world_size

with process_group(runtime):
    model = GPT(shape)
    model.init_weights(torch.Generator().manual_seed(1))
    plan = make_plan(shape, {STEPS} * 12 * 16, batch_tokens=12 * 16, rows_per_microbatch=1,
                     world_size=runtime.world_size, rate_scale=8.0)
    run = TrainingRun("pretrain", "key", folder / "state", folder / "metrics.jsonl", runtime,
                      Reporter(stream=io.StringIO()), save_seconds=0.0)
    try:
        fit(run, model, plan, Job(batches, prepare(model, runtime, False, print)))
    except TrainingStoppedError:
        assert stop
    if runtime.is_main:
        save_file(model.state_dict(), folder / "weights.safetensors")
"""


def train(folder: Path, world_size: int, stop: int = 0) -> Path:
    """Train in so many processes, to the end or to step `stop`."""
    folder.mkdir(exist_ok=True)
    well(together(PROGRAM, folder, stop, world_size=world_size))
    return folder


def losses(folder: Path) -> list[float]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(1, len(lines) + 1))
    return [line["loss"] for line in lines]


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(tmp_path_factory.mktemp("alone"), 1)


PAIRS = [(before, after) for before, after in product(range(1, 5), repeat=2) if before != after]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("before", "after"),
    [pair if pair == (2, 1) else pytest.param(*pair, marks=pytest.mark.long) for pair in PAIRS],
)
def test_a_run_that_one_process_is_asked_to_stop_is_resumed_by_any_number(before, after, alone, tmp_path):
    folder = train(tmp_path / "run", before, stop=STOPPED)
    state, *_ = reversed(saved_states(folder / "state"))
    assert state.facts["step"] == STOPPED
    files = sorted(path.name for path in state.folder.glob("*.safetensors"))
    assert len(files) == before
    train(folder, after)
    assert losses(folder) == pytest.approx(losses(alone), rel=2e-3)
    expected = load_file(alone / "weights.safetensors")
    for name, value in load_file(folder / "weights.safetensors").items():
        assert (value - expected[name]).norm() <= 2e-3 * expected[name].norm().clamp(min=1e-6), name


"""Adam divides gradients that are mere rounding by their own size, so this is not as close as one step."""
