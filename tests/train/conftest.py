"""A tiny model, its plan, and batches without a data folder behind them."""

import io
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from chatsmith.data.packing import NOT_TRAINED_ON, Batch
from chatsmith.model.config import GPTConfig
from chatsmith.model.gpt import GPT
from chatsmith.runtime.console import Reporter
from chatsmith.runtime.device import Runtime
from chatsmith.runtime.states import StateWriter
from chatsmith.train.plan import Plan, make_plan
from chatsmith.train.trainer import TrainingRun
from tests.threads import one_thread

__all__ = ["one_thread"]

VOCAB_SIZE, CONTEXT = 40, 16


@pytest.fixture(scope="session")
def shape() -> GPTConfig:
    return GPTConfig(
        vocab_size=VOCAB_SIZE,
        context_length=CONTEXT,
        num_layers=2,
        num_heads=2,
        head_dim=16,
        value_embedding_layers=(1,),
        bigram_buckets=32,
    )


@pytest.fixture(scope="session")
def runtime() -> Runtime:
    return Runtime(torch.device("cpu"), torch.float32)


@pytest.fixture
def reporter() -> Reporter:
    return Reporter(stream=io.StringIO())


@pytest.fixture
def new_model(shape: GPTConfig) -> Callable[..., GPT]:
    def make(dtype: torch.dtype = torch.float32, seed: int = 1) -> GPT:
        model = GPT(shape)
        model.init_weights(torch.Generator().manual_seed(seed))
        return model.to(dtype)

    return make


@pytest.fixture
def new_plan(shape: GPTConfig) -> Callable[..., Plan]:
    def make(steps: int, rows: int = 4, rows_per_microbatch: int = 2, **options: float) -> Plan:
        return make_plan(
            shape,
            steps * rows * CONTEXT,
            batch_tokens=rows * CONTEXT,
            rows_per_microbatch=rows_per_microbatch,
            **options,
        )

    return make


@pytest.fixture
def batches_from() -> Callable[..., Iterator[Batch]]:
    """Row n of the data depends on n alone, so any way of cutting the rows into batches gives the same rows."""

    def start(rows_per_batch: int, start_row: int = 0, rank: int = 0, world_size: int = 1) -> Iterator[Batch]:
        while True:
            first = start_row + rank * rows_per_batch
            yield make_rows(first, rows_per_batch)
            start_row += rows_per_batch * world_size

    return start


class Kept:
    """Measurements that are kept in memory."""

    def __init__(self) -> None:
        self.values: dict[str, int] = {}

    def get(self, name: str) -> int | None:
        return self.values.get(name)

    def keep(self, name: str, value: int) -> None:
        self.values[name] = value


@pytest.fixture
def training_run(
    tmp_path: Path, runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., TrainingRun]:
    """Runs in folders of their own, which do not measure the machine."""
    monkeypatch.setattr("chatsmith.train.trainer.gemm_peak", lambda *_, **__: 1e12)

    def make(key: str = "key", folder: str = "run", **options: float) -> TrainingRun:
        return TrainingRun(
            "pretrain",
            key,
            tmp_path / folder / "state",
            tmp_path / folder / "metrics.jsonl",
            runtime,
            Reporter(stream=io.StringIO()),
            **options,
        )

    return make


def save_state(folder: Path, tensors: Mapping[str, torch.Tensor], facts: Mapping[str, Any]) -> Path:
    """What `StateWriter` does, in one process and at once. Returns the new state's folder."""
    writer = StateWriter(folder, Runtime(torch.device("cpu"), torch.float32))
    writer.begin(tensors, facts)
    writer.finish()
    return max(path for path in folder.iterdir() if path.name.isdigit())


def make_rows(first: int, count: int) -> Batch:
    rows = []
    for number in range(first, first + count):
        generator = torch.Generator().manual_seed(number)
        row = torch.randint(VOCAB_SIZE, (CONTEXT + 1,), generator=generator)
        row[1::2] = row[::2][: len(row[1::2])]  # every second token can be foretold
        rows.append(row)
    tokens = torch.stack(rows)
    targets = tokens[:, 1:].clone()
    for place, number in enumerate(range(first, first + count)):
        targets[place, : number % 7] = NOT_TRAINED_ON  # unevenly, as in fine-tuning
    return Batch(tokens[:, :-1], targets)
