"""`chatsmith sft`: fine-tune a model on conversations, and write `<run>/sft/bundle`.

Starts from the run's mid-trained or pretrained model, or from any bundle with `--from`; learns from the run's
conversations, from any files with `--conversations`, or from a `--mixture`. `chatsmith mid` is the same command with
other settings, one stage earlier.
"""

import time
from contextlib import ExitStack
from typing import Any

from chatsmith.bundle import bundle_fingerprint
from chatsmith.cli.config import MidConfig
from chatsmith.cli.config import SftConfig as Config
from chatsmith.cli.mixtures import Opener, fingerprint_of, named_sources, show_samples
from chatsmith.cli.training import (
    exclusive,
    facts_of,
    finish,
    is_up_to_date,
    load_start,
    save_trained,
    settings_from,
    time_budget,
    training_run,
)
from chatsmith.data.dataset import file_sha256, load_manifest
from chatsmith.data.mixture import Entry
from chatsmith.data.packing import ConversationRows
from chatsmith.ingest.files import find_files
from chatsmith.ingest.forms import TYPES
from chatsmith.runtime.console import Reporter
from chatsmith.runtime.errors import UserError
from chatsmith.runtime.run_directory import RunDirectory, resolve_bundle, stage_key
from chatsmith.tasks.sources import Source, conversation_source
from chatsmith.train.sft import fine_tune
from chatsmith.train.trainer import TrainingSettings


def main(config: Config) -> None:
    """Fine-tune, unless the run's model is already what this would make."""
    tune(config, "sft", "Fine-tuning", "then fine-tuned on conversations.")


def tune(config: Config | MidConfig, stage: str, title: str, how: str) -> None:
    """Train the model of an earlier stage, or of `config.from_`, on conversations or a mixture."""
    started = time.monotonic()
    run = RunDirectory(config.run)
    with (
        exclusive(run, config, scales_loss=True) as (runtime, reporter),
        ExitStack() as opened,
    ):
        before = "mid" if stage == "sft" and run.bundle("mid").is_dir() else "pretrain"
        start_path = resolve_bundle(config.from_ or run.stage(before))
        if config.mixture:
            sources = named_sources(config, run, runtime, reporter)
            inputs = {"mixture": fingerprint_of(sources)}
        else:
            sources = [_conversations(config, run, reporter)]
            inputs = {"conversations": sources[0][1].fingerprint}
        key = stage_key(config, bundle=bundle_fingerprint(start_path), **inputs)
        if is_up_to_date(run, stage, key, reporter):
            return

        start = load_start(start_path, runtime)
        training = training_run(run, stage, key, config, runtime, reporter, started, start.tokenizer)
        reporter.stage(title, f"{start.path}, on {runtime.describe()}")
        context = start.config.context_length
        opener = Opener(
            run, start.tokenizer, context, config.seed, runtime, reporter, opened, 60 * config.disk_wait
        )
        mixture = opener.mixture(sources, learns_all=getattr(config, "loss", "") == "all")
        if runtime.is_main:
            show_samples(mixture, start.tokenizer, reporter)
        plan, result = fine_tune(
            training,
            start,
            mixture,
            settings_from(config, TrainingSettings),
            validation=opener.validation(sources),
            validation_text=opener.validation_text,
            tokens=config.tokens,
            epochs=config.epochs,
            budget=time_budget(run, training, config.minutes),
        )
        if runtime.is_main:
            facts: dict[str, Any] = facts_of(training, plan, result)
            talks = [part.rows for part in mixture.parts if isinstance(part.rows, ConversationRows)]
            facts |= {
                "conversations": sum(rows.num_conversations for rows in talks),
                "cut": sum(rows.cut for rows in talks),
                "skipped": sum(rows.skipped for rows in talks),
                "mixture": mixture.facts(plan.steps * plan.rows_per_step),
            }
            summary = f"A small assistant: pretrained on text, {how}"
            save_trained(
                run, stage, start.model, start.tokenizer, plan, facts, summary=summary, seed=config.seed
            )
            finish(run, stage, key, config, facts)


def _conversations(config: Config | MidConfig, run: RunDirectory, reporter: Reporter) -> tuple[Entry, Source]:
    """What there is to learn from without a mixture: the files given, or the run's conversations."""
    if isinstance(config, Config) and config.conversations:
        files = {
            "train": find_files(config.conversations, TYPES),
            "validation": find_files(config.validation_conversations, TYPES),
        }
        fingerprint = " ".join(file_sha256(file) for named in files.values() for file in named)
        name = ", ".join(map(str, files["train"]))
        return Entry(name), conversation_source(files.__getitem__, fingerprint, "", reporter.notice)
    data = load_manifest(run.data)
    if data.conversations is None:
        raise UserError(f"{run.path} has no conversations to learn from; give some with --conversations PATH")
    return Entry("conversations"), Source(data.conversations.fingerprint, read=data.read_conversations)
