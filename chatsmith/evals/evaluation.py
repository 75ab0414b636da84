"""One model that is measured: which, on what, how, by which processes, and where its results go.

The model is loaded when the first task needs it, so that what is known costs nothing. With several processes each takes
every n-th item; the main one writes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from chatsmith.bundle import Bundle, load_bundle
from chatsmith.data.dataset import DataManifest
from chatsmith.engine.engine import Engine
from chatsmith.evals.results import KINDERGARTEN, ResultFiles, SplitName
from chatsmith.evals.scoring import EngineScorer, Scorer, TransformersScorer
from chatsmith.llm import LLM
from chatsmith.runtime.console import Reporter
from chatsmith.runtime.device import Runtime
from chatsmith.runtime.distributed import gathered

Item = TypeVar("Item")


@dataclass(frozen=True)
class Evaluation:
    """A model, and everything that its scores depend on."""

    model: Path
    """The bundle, or the folder of a transformers checkpoint."""
    fingerprint: str
    """What is in it, as a hash."""
    runtime: Runtime
    reporter: Reporter
    benchmarks: Path
    """The folder of the benchmarks' files."""
    files: ResultFiles | None = None
    """Where results are kept; None: nowhere."""
    manifest: DataManifest | None = None
    """What the model's run learns from; None where it has no data of its own, or they cannot be used."""
    tokens: Path | None = None
    """The folder of its token cache."""
    text: tuple[Path, ...] = ()
    """Measure bits per byte on this text, and not on that of the run."""
    is_transformers: bool = False
    split: SplitName = "exam"
    max_examples: int | None = None
    tries: int = 1
    """For each HumanEval problem."""
    loaded: Bundle | None = None
    """The model, where it is in memory already."""
    tasks: tuple[str, ...] = ()
    """Only these of the suites' tasks, as SUITE/TASK; none: all."""
    prompts: str = "own"
    """Whose wording of the chat tasks: own or nanochat."""
    dtype: str = "auto"
    batch_size: int = 64
    """Replies written at once."""
    batch_tokens: int = 8192
    """Tokens of validation text scored at once."""

    @property
    def was_taught_kindergarten(self) -> bool:
        """Whether that is known of the model's run."""
        return self.manifest is not None and self.manifest.source == KINDERGARTEN

    @property
    def part(self) -> str:
        """The benchmarks' own name of the split."""
        return "test" if self.split == "exam" else "development"

    @cached_property
    def bundle(self) -> Bundle:
        """The model, loaded."""
        if self.loaded:
            return self.loaded
        self.reporter.line(self.runtime.describe())
        return load_bundle(self.model, device=self.runtime.device, dtype=self.runtime.compute_dtype)

    @cached_property
    def scorer(self) -> Scorer:
        """What says how likely the model finds a text."""
        if self.is_transformers:
            runtime = self.runtime
            return TransformersScorer(self.model, device=runtime.device, dtype=runtime.compute_dtype)
        return EngineScorer(self.bundle)

    @cached_property
    def engine(self) -> Engine:
        """What writes the model's replies, with the calculator at hand."""
        size = self.batch_size
        return LLM(self.bundle, exact=False, max_running=size, tokens_per_step=max(1024, size)).engine

    def share(self, items: Sequence[Item]) -> Sequence[Item]:
        """The items that this process works on."""
        return items[self.runtime.rank :: self.runtime.world_size]

    def collect(self, mine: Sequence[Any], total: int) -> list[Any]:
        """Everybody's values in the order of the items, on every process; `mine` belong to `share(items)`. All
        processes must call it."""
        everything: list[Any] = [None] * total
        for rank, of_one in enumerate(gathered([list(mine)], self.runtime)):
            everything[rank :: self.runtime.world_size] = of_one
        return everything
