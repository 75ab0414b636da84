"""`chatsmith sft`: fine-tune a model on conversations, and write `<run>/sft/bundle`.

Starts from the run's pretrained model, or from any bundle with `--from`; learns from the run's conversations, or from
any files with `--conversations`.
"""

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from chatsmith.bundle import bundle_fingerprint, load_bundle
from chatsmith.cli.training import (
    exclusive,
    facts_of,
    finish,
    save_trained,
    settings_from,
    time_budget,
    training_run,
)
from chatsmith.data.dataset import SplitName, file_sha256, load_manifest
from chatsmith.data.documents import find_files
from chatsmith.data.packing import NothingToLearnError
from chatsmith.ingest.forms import TYPES, read_files
from chatsmith.runtime.errors import UserError
from chatsmith.runtime.logs import Reporter
from chatsmith.runtime.run_directory import RunDirectory, resolve_bundle, stage_key
from chatsmith.text.chat import Conversation
from chatsmith.train.sft import fine_tune
from chatsmith.train.trainer import TrainingSettings

STAGE = "sft"


@dataclass(frozen=True)
class Config:
    """Fine-tune a model on conversations."""

    NOT_IN_KEY: ClassVar[frozenset[str]] = frozenset(
        {"track", "save_minutes", "rows_per_microbatch", "evaluations", "evaluate_tokens"}
    )

    run: Path = Path("runs/kindergarten")
    """The run directory."""
    from_: Path | None = None
    """The bundle to start from; by default the run's pretrained model."""
    conversations: tuple[Path, ...] = ()
    """Files of conversations to learn from; by default those that `data prepare` found."""
    validation_conversations: tuple[Path, ...] = ()
    """Files of conversations held out; where --conversations is given without them, nothing is held out."""
    epochs: float = 1.0
    """How often every conversation is seen, unless `tokens` or `minutes` are given."""
    tokens: int = 0
    """The horizon in tokens (padding and prompts included); 0 means not given."""
    minutes: float = 0.0
    """The horizon in minutes of this machine, from the start of this command; 0 means not by time."""
    batch_tokens: int = 0
    """Tokens of one optimizer step; 0 means by the plan's rule."""
    rows_per_microbatch: int = 0
    """Rows that go through the network at once; 0 means about 8,192 tokens."""
    rate_scale: float = 0.5
    """Multiplies all learning rates of the plan."""
    evaluations: int = 4
    """How often the held-out conversations are looked at along the way."""
    evaluate_tokens: int = 65_536
    """How much of them that is, in tokens."""
    seed: int = 1
    """Decides the order of the conversations."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:N or mps."""
    dtype: Literal["auto", "fp32", "bf16"] = "auto"
    """What activations are computed in; auto: bf16 where the hardware multiplies it."""
    compile: bool = True
    """Compile the model where that is possible."""
    save_minutes: float = 5.0
    """Save the training state this often."""
    track: Literal["none", "wandb", "tensorboard", "trackio"] = "none"
    """Send the metrics somewhere besides metrics.jsonl."""

    def __post_init__(self) -> None:
        for name in ("tokens", "minutes", "batch_tokens", "rows_per_microbatch", "evaluations", "seed"):
            if getattr(self, name) < 0:
                raise UserError(f"{name} is {getattr(self, name)}; it cannot be negative")
        if self.tokens and self.minutes:
            raise UserError("give the horizon as tokens or as minutes, not both; 0 takes one back")
        if not self.minutes < math.inf:
            raise UserError(f"minutes is {self.minutes}; it must be a number")
        for name in ("epochs", "rate_scale"):
            if not 0 < getattr(self, name) < math.inf:
                raise UserError(f"{name} is {getattr(self, name)}; it must be a number above 0")
        if not self.save_minutes > 0:
            raise UserError(f"save_minutes is {self.save_minutes}; it must be above 0")
        if self.evaluate_tokens < 1:
            raise UserError(f"evaluate_tokens is {self.evaluate_tokens}; it must be at least 1")
        if self.validation_conversations and not self.conversations:
            raise UserError("--validation-conversations goes with --conversations; give both")


def main(config: Config) -> None:
    """Fine-tune, unless the run's model is already what this would make."""
    started = time.monotonic()
    run = RunDirectory(config.run)
    with exclusive(run, config.device, config.dtype) as (runtime, reporter):
        source = resolve_bundle(config.from_ or run.stage("pretrain"))
        data = _Conversations(config, run)
        key = stage_key(config, bundle=bundle_fingerprint(source), conversations=data.fingerprint)
        if run.is_done(STAGE, key):
            reporter.line(f"The fine-tuned model in {run.bundle(STAGE)} is up to date.")
            return

        start = load_bundle(source, device=runtime.device)
        training = training_run(run, STAGE, key, config, runtime, reporter, started)
        reporter.stage("Fine-tuning", f"{start.path}, on {runtime.describe()}")
        try:
            plan, result, rows = fine_tune(
                training,
                start,
                data.read("train", reporter),
                data.read("validation", reporter),
                settings_from(config, TrainingSettings),
                tokens=config.tokens,
                epochs=config.epochs,
                budget=time_budget(run, training, config.minutes),
            )
        except NothingToLearnError as error:
            if error.skipped:
                raise
            raise UserError(
                f"there is no conversation to learn from in {data.origin}; give some with --conversations PATH"
            ) from error
        if runtime.is_main:
            facts = facts_of(training, plan, result)
            facts |= {"conversations": rows.num_conversations, "cut": rows.cut, "skipped": rows.skipped}
            summary = "A small assistant: pretrained on text, then fine-tuned on conversations."
            save_trained(
                run, STAGE, start.model, start.tokenizer, plan, facts, summary=summary, seed=config.seed
            )
            finish(run, STAGE, key, facts)


class _Conversations:
    """Where the conversations come from: the files given, or those of the run's manifest."""

    def __init__(self, config: Config, run: RunDirectory) -> None:
        self.files: dict[SplitName, list[Path]] | None = None
        self.origin = str(run.data)
        if config.conversations:
            self.files = {
                "train": find_files(config.conversations, TYPES),
                "validation": find_files(config.validation_conversations, TYPES),
            }
            self.origin = ", ".join(map(str, self.files["train"]))
            self.fingerprint = " ".join(file_sha256(file) for files in self.files.values() for file in files)
            return
        self.manifest = load_manifest(run.data)
        if self.manifest.conversations is None:
            raise UserError(
                f"{run.path} has no conversations to learn from; give some with --conversations PATH"
            )
        self.fingerprint = self.manifest.conversations.fingerprint

    def read(self, split: SplitName, reporter: Reporter) -> Iterator[Conversation]:
        """The conversations of a split; what is wrong with the files is reported after the last of them."""
        if self.files is None:
            yield from self.manifest.read_conversations(split)
            return
        notices: list[str] = []
        yield from read_files(self.files[split], notices)
        for notice in notices:
            reporter.notice(notice)
