"""`chatsmith sft`: fine-tune a model on conversations, and write `<run>/sft/bundle`.

Starts from the run's pretrained model, or from any bundle with `--from`; learns from the run's conversations, or from
any files with `--conversations`.
"""

import time
from collections.abc import Iterator
from pathlib import Path

from chatsmith.bundle import bundle_fingerprint, load_bundle
from chatsmith.cli.config import SftConfig as Config
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
from chatsmith.runtime.console import Reporter
from chatsmith.runtime.errors import UserError
from chatsmith.runtime.run_directory import RunDirectory, resolve_bundle, stage_key
from chatsmith.text.chat import Conversation
from chatsmith.train.sft import fine_tune
from chatsmith.train.trainer import TrainingSettings

STAGE = "sft"


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
        training = training_run(run, STAGE, key, config, runtime, reporter, started, start.tokenizer)
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
                f"there is no conversation to learn from in {data.origin}; give some", setting="conversations"
            ) from error
        if runtime.is_main:
            facts = facts_of(training, plan, result)
            facts |= {"conversations": rows.num_conversations, "cut": rows.cut, "skipped": rows.skipped}
            summary = "A small assistant: pretrained on text, then fine-tuned on conversations."
            save_trained(
                run, STAGE, start.model, start.tokenizer, plan, facts, summary=summary, seed=config.seed
            )
            finish(run, STAGE, key, config, facts)


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
