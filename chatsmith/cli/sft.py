"""`chatsmith sft`: fine-tune a model on conversations, and write `<run>/sft/bundle`.

Starts from the run's mid-trained or pretrained model, or from any bundle with `--from`; learns from the run's
conversations, from any files with `--conversations`, or from a `--mixture`. `chatsmith mid` is the same with other
settings, one stage earlier: a mixture of documents and conversations, before the model is fine-tuned.
"""

from chatsmith.bundle import bundle_fingerprint
from chatsmith.cli.config import MidConfig
from chatsmith.cli.config import SftConfig as Config
from chatsmith.cli.mixtures import Opener, fingerprint_of, named_sources, show_samples
from chatsmith.cli.training import Stage, facts_of, load_start, settings_from, training_stage
from chatsmith.data.dataset import file_sha256, load_manifest
from chatsmith.data.mixture import Entry
from chatsmith.data.packing import ConversationRows
from chatsmith.ingest.files import find_files
from chatsmith.ingest.forms import TYPES
from chatsmith.runtime.errors import UserError
from chatsmith.runtime.run_directory import resolve_bundle
from chatsmith.tasks.sources import Source, conversation_source
from chatsmith.train.sft import fine_tune
from chatsmith.train.trainer import TrainingSettings

BESIDE = " | "
"""Between the hashes of files to train on and those of files to validate on."""


def main(config: Config | MidConfig) -> None:
    """Fine-tune, unless the run's model is already what this would make."""
    if isinstance(config, Config):
        name, title, how = "sft", "Fine-tuning", "then fine-tuned on conversations."
    else:
        name, title, how = "mid", "Mid-training", "then trained further on documents and conversations."
    with training_stage(name, config, scales_loss=True) as stage:
        run, runtime, reporter = stage.run, stage.runtime, stage.reporter
        before = "mid" if name == "sft" and run.bundle("mid").is_dir() else "pretrain"
        start_path = resolve_bundle(config.from_ or run.stage(before))
        if config.mixture:
            sources = named_sources(stage)
            inputs = {"mixture": fingerprint_of(sources)}
        else:
            sources = [_conversations(config, stage)]
            # In the key without what divides the splits, as ever, so that what is done stays done.
            inputs = {"conversations": sources[0][1].fingerprint.replace(BESIDE, " ")}
        if stage.is_up_to_date(bundle=bundle_fingerprint(start_path), **inputs):
            return

        start = load_start(start_path, runtime)
        stage.freeze(start)
        training = stage.training_run(start.tokenizer)
        reporter.stage(title, f"{start.path}, on {runtime.describe()}")
        opener = Opener(stage, start.tokenizer, start.config.context_length)
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
            budget=stage.budget(training),
        )
        if runtime.is_main:
            talks = [part.rows for part in mixture.parts if isinstance(part.rows, ConversationRows)]
            facts = facts_of(training, plan, result) | {
                "conversations": sum(rows.num_conversations for rows in talks),
                "cut": sum(rows.cut for rows in talks),
                "skipped": sum(rows.skipped for rows in talks),
                "mixture": mixture.facts(plan.steps * plan.rows_per_step),
            }
            summary = f"A small assistant: pretrained on text, {how}"
            stage.finish(start.model, start.tokenizer, plan, facts, summary)


def _conversations(config: Config | MidConfig, stage: Stage) -> tuple[Entry, Source]:
    """What there is to learn from without a mixture: the files given, or the run's conversations."""
    if isinstance(config, Config) and config.conversations:
        files = {
            "train": find_files(config.conversations, TYPES),
            "validation": find_files(config.validation_conversations, TYPES),
        }
        hashes = [" ".join(map(file_sha256, named)) for named in files.values() if named]
        fingerprint = BESIDE.join(hashes)
        name = ", ".join(map(str, files["train"]))
        return Entry(name), conversation_source(files.__getitem__, fingerprint, "", stage.reporter.notice)
    data = load_manifest(stage.run.data)
    if data.conversations is None:
        raise UserError(
            f"{config.run} has no conversations to learn from; give some with --conversations PATH"
        )
    return Entry("conversations"), Source(data.conversations.fingerprint, read=data.read_conversations)
