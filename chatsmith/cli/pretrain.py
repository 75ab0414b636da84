"""`chatsmith pretrain`, `mid` and `sft`: training on tokens, each from a model to the next one, `<run>/STAGE/bundle`.

`pretrain` begins from scratch, on the run's documents; with `--from BUNDLE` it goes on from that model, with its
tokenizer. `sft` fine-tunes the run's mid-trained or pretrained model, or any bundle with `--from`, on conversations:
the run's, or any files with `--conversations`. `mid` is the same one stage earlier, on a mixture of documents and
conversations. All of them take a `--mixture`, which `Opener` makes rows of.

Text is tokenized in the background while training goes on. Interrupted, a stage saves, and resumes the next time. A
budget in minutes is measured once, kept in the run's recipe.toml, and every later run with the same settings trains on
the same number of tokens.
"""

import json
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from hashlib import sha256
from itertools import chain, islice
from pathlib import Path

from chatsmith.backends.fully_sharded import gather
from chatsmith.bundle import Bundle, bundle_fingerprint, load_bundle
from chatsmith.cli.config import MidConfig, PretrainConfig, SftConfig
from chatsmith.cli.data import eval_folder
from chatsmith.cli.inspect_data import show_rendered
from chatsmith.cli.training import Stage, facts_of, load_start, shape_of, training_stage, with_dial
from chatsmith.data.dataset import FILE_NAME, DataManifest, SplitName, file_sha256, load_manifest
from chatsmith.data.mixture import Entry, Mixture, Part
from chatsmith.data.packing import NOT_TRAINED_ON, ConversationRows, NothingToLearnError, TrainingRows
from chatsmith.data.tokens import ABOUT, Progress, TokenCache
from chatsmith.ingest.files import find_files
from chatsmith.ingest.forms import TYPES
from chatsmith.ingest.hub import is_first_here, open_tokens, use_shared_tokens
from chatsmith.ingest.tokenizing import cache_conversations
from chatsmith.model.config import model_cost
from chatsmith.runtime.atomic import write_text
from chatsmith.runtime.console import Reporter, counted
from chatsmith.runtime.distributed import sum_number
from chatsmith.runtime.errors import UserError
from chatsmith.runtime.run_directory import RunDirectory, resolve_bundle, run_of
from chatsmith.tasks.sources import Source, Surroundings, conversation_source, open_source
from chatsmith.text.chat import Conversation, Rendered
from chatsmith.text.tokenizer import Tokenizer
from chatsmith.train.pretrain import pretrain
from chatsmith.train.sft import fine_tune
from chatsmith.train.trainer import TrainingSettings
from chatsmith.worlds.kindergarten.world import spelling_words

BESIDE = " | "
"""Between the hashes of files to train on and those of files to validate on."""
CACHE_FORMAT = 1
"""Raised when equal files no longer give equal conversations, or these equal ids: the tokens outlive a run."""
VALIDATION_ITEMS = 500
"""Conversations of each source of a mixture that are measured on, at most."""


def main(config: PretrainConfig) -> None:
    """Pretrain the model of `config.run`, unless it is already what this would make."""
    config = with_dial(config)
    with training_stage("pretrain", config, scales_loss=True) as stage:
        run, runtime = stage.run, stage.runtime
        manifest = load_manifest(run.data)
        start = load_bundle(resolve_bundle(config.from_)) if config.from_ else None
        tokenizer = _tokenizer(run, start)
        inputs = {"documents": manifest.documents.fingerprint, "tokenizer": tokenizer.fingerprint}
        sources = named_sources(stage)
        if sources:
            inputs["mixture"] = fingerprint_of(sources)
        if start:
            inputs["bundle"] = bundle_fingerprint(start.path)
        if stage.is_up_to_date(**inputs):
            return

        if start:
            stage.freeze(start)
        shape = start.config if start else shape_of(config, tokenizer.vocab_size)
        opener = Opener(stage, tokenizer, shape.context_length)
        if sources:
            rows = opener.mixture(sources)
        else:
            rows = TrainingRows(opener.text(manifest, "train"), shape.context_length, config.seed)
        training = stage.training_run(tokenizer, shape)
        size = f"{counted(shape.num_layers, 'layer')}, {shape.model_dim} channels, vocabulary {shape.vocab_size:,}"
        stage.reporter.stage("Pretraining", f"{size}, on {runtime.describe()}")
        model, plan, result = pretrain(
            training,
            start.model if start else shape,
            tokenizer,
            rows,
            opener.text(manifest, "validation"),
            stage.settings(TrainingSettings),
            tokens=config.tokens or int(config.ratio * model_cost(shape).scaling_parameters),
            budget=stage.budget(training),
        )
        whole = gather(model, runtime)
        if runtime.is_main:
            facts = facts_of(training, plan, result, model)
            if isinstance(rows, Mixture):
                facts["mixture"] = rows.facts(plan.steps * plan.rows_per_step)
            how = f"trained further from {_named(start.path)}" if start else "trained from scratch"
            summary = f"A language model that continues text, {how}; not yet fine-tuned to chat."
            stage.finish(whole, tokenizer, plan, facts, summary)


def _tokenizer(run: RunDirectory, start: Bundle | None) -> Tokenizer:
    """The run's, or that of the model to start from. Raises UserError where these differ."""
    if start is None:
        return Tokenizer.load(run.tokenizer)
    if run.tokenizer.is_dir() and Tokenizer.load(run.tokenizer).fingerprint != start.tokenizer.fingerprint:
        raise UserError(
            f"{start.path} has another tokenizer than {run.tokenizer}; go on in a run without the tokenizer stage"
        )
    return start.tokenizer


def _named(bundle: Path) -> str:
    """What a model card calls another model: it may be published, and a path of this machine says nothing there."""
    origin = run_of(bundle)
    return f"{origin[0].path.name}, {origin[1]}" if origin else bundle.name


def fine_tuning(config: SftConfig | MidConfig) -> None:
    """Fine-tune, unless the run's model is already what this would make."""
    if isinstance(config, SftConfig):
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

        start = load_start(start_path, "cpu")
        stage.freeze(start)
        training = stage.training_run(start.tokenizer, start.config)
        reporter.stage(title, f"{start.path}, on {runtime.describe()}")
        opener = Opener(stage, start.tokenizer, start.config.context_length)
        mixture = opener.mixture(sources, learns_all=getattr(config, "loss", "") == "all")
        if runtime.is_main:
            show_samples(mixture, start.tokenizer, reporter)
        plan, result = fine_tune(
            training,
            start,
            mixture,
            stage.settings(TrainingSettings),
            validation=opener.validation(sources),
            validation_text=opener.validation_text,
            tokens=config.tokens,
            epochs=config.epochs,
            budget=stage.budget(training),
        )
        whole = gather(start.model, runtime)
        if runtime.is_main:
            talks = [part.rows for part in mixture.parts if isinstance(part.rows, ConversationRows)]
            facts = facts_of(training, plan, result, start.model) | {
                "conversations": sum(rows.num_conversations for rows in talks),
                "cut": sum(rows.cut for rows in talks),
                "skipped": sum(rows.skipped for rows in talks),
                "mixture": mixture.facts(plan.steps * plan.rows_per_step),
            }
            summary = f"A small assistant: pretrained on text, {how}"
            stage.finish(whole, start.tokenizer, plan, facts, summary)


def _conversations(config: SftConfig | MidConfig, stage: Stage) -> tuple[Entry, Source]:
    """What there is to learn from without a mixture: the files given, or the run's conversations."""
    if isinstance(config, SftConfig) and config.conversations:
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


# ---- what is learned from ----


def named_sources(stage: Stage) -> list[tuple[Entry, Source]]:
    """What the stage's mixture names. Raises UserError for what cannot be found."""
    config, runtime = stage.config, stage.runtime
    around = Surroundings(
        lambda: load_manifest(stage.run.data),
        eval_folder(config.eval_data),
        frozenset(spelling_words()),
        stage.reporter.notice,
    )
    entries = [Entry.parse(text) for text in config.mixture]
    if not runtime.is_main:
        sum_number(0, runtime)  # the main process has downloaded what was missing
    found = [(entry, open_source(entry.source, around)) for entry in entries]
    if runtime.is_main:
        sum_number(0, runtime)
    return found


def fingerprint_of(sources: Sequence[tuple[Entry, Source]]) -> str:
    """Changes with what is learned, and with how much of it."""
    return " ".join(f"{entry} {source.fingerprint}" for entry, source in sources)


@dataclass
class Opener:
    """Makes rows of sources for one stage: opens their token caches, which runs share and the main process fills."""

    stage: Stage
    tokenizer: Tokenizer
    sequence_length: int
    texts: dict[tuple[Path, SplitName], TokenCache] = field(default_factory=dict)
    """Caches of documents, none of which may be filled by two workers."""
    validation_text: TokenCache | None = None
    """Of the first source of documents in a mixture."""

    def mixture(self, sources: Sequence[tuple[Entry, Source]], *, learns_all: bool = False) -> Mixture:
        """The rows to train on; shows the shares of several sources.

        Raises UserError for a source without a conversation to learn from.
        """
        mixture = Mixture([self._part(entry, source, learns_all) for entry, source in sources])
        if len(sources) > 1:
            shown = (
                ["source", "items", "epochs", "tokens", "share"] if mixture.has_end else ["source", "share"]
            )
            facts = mixture.facts(mixture.rows_per_pass)
            rows = [[f"{one[name]:,}" if name != "source" else one[name] for name in shown] for one in facts]
            self.stage.reporter.table("One pass over the mixture", shown, rows)
        return mixture

    def validation(self, sources: Sequence[tuple[Entry, Source]]) -> ConversationRows | None:
        """Rows of what the sources have set apart, of several a part of each; None without any that fits."""
        items = VALIDATION_ITEMS if len(sources) > 1 else None
        measured = [source for entry, source in sources if source.read and entry.split == "train"]
        talks = chain(*(islice(source.read("validation"), items) for source in measured if source.read))
        content = " ".join([f"validation {items}", *(source.fingerprint for source in measured)])
        try:
            return self._rows("validation", content, talks)
        except NothingToLearnError as error:
            if error.skipped:
                self.stage.reporter.notice(
                    f"none of the {error.skipped:,} validation conversations fits into {self.sequence_length} tokens, "
                    "so nothing is validated"
                )
            return None

    def text(self, manifest: DataManifest, split: SplitName, folder: Path | None = None) -> TokenCache:
        """The tokens of documents; by default of the run's own."""
        folder = folder or self.stage.run.tokens
        if (folder, split) not in self.texts:
            builds, wait = self.stage.runtime.is_main, 60 * self.stage.config.disk_wait
            cache = open_tokens(folder, manifest, self.tokenizer, split, build=builds, disk_wait=wait)
            self.texts[folder, split] = self.stage.opened.enter_context(closing(cache))
        return self.texts[folder, split]

    def _part(self, entry: Entry, source: Source, learns_all: bool) -> Part:
        if source.about:
            self.stage.reporter.line(f"{entry.source}: {source.about}")
        if source.manifest:
            folder = None if entry.source == "documents" else self._folder(entry.source, source.fingerprint)
            manifest = self._surveyed(folder, source.manifest) if folder else source.manifest()
            cache = self.text(manifest, entry.split, folder)
            self.validation_text = self.validation_text or self.text(manifest, "validation", folder)
            documents = manifest.documents
            items = documents.train_items if entry.split == "train" else documents.validation_items
            cache.wait_for_window(0)
            rows = TrainingRows(cache, self.sequence_length, self.stage.config.seed, cap=entry.cap)
            return Part(entry, rows, min(items, entry.cap or items))
        assert source.read
        talks = islice(source.read(entry.split), entry.cap or None)
        try:
            content = f"{source.fingerprint} {entry.split} {entry.cap}"
            rows = self._rows(entry.source, content, talks, learns_all)
        except NothingToLearnError as error:
            raise UserError(f"{entry.source}: {error}", setting="mixture") from error
        self.stage.reporter.line(
            f"{rows.num_conversations:,} conversations in {rows.rows_per_epoch:,} rows of {self.sequence_length} "
            f"tokens, {1 - rows.utilisation:.0%} of it padding"
        )
        if rows.cut:
            self.stage.reporter.notice(
                f"{rows.cut:,} conversations are longer than a row: only their first turns are used"
            )
        if rows.skipped:
            self.stage.reporter.notice(
                f"{rows.skipped:,} conversations are skipped: not one reply of them fits into a row"
            )
        return Part(entry, rows, rows.num_conversations)

    def _rows(
        self, name: str, content: str, conversations: Iterator[Conversation], learns_all: bool = False
    ) -> ConversationRows:
        key = sha256(json.dumps([CACHE_FORMAT, self.tokenizer.fingerprint, content]).encode()).hexdigest()
        build = self.stage.runtime.is_main or is_first_here()
        folder = self._folder(name, key)
        if not (progress := Progress.load(folder, key)) or not progress.complete:
            # Not in the run, where earlier versions kept it: runs share it.
            folder = use_shared_tokens(self.stage.opened) / key[:32]
            if build:
                write_text(folder / ABOUT, json.dumps({"files": [name], "split": "conversations"}))
        cache = cache_conversations(folder, key, conversations, self.tokenizer, build=build)
        turn_end = self.tokenizer.special("<|assistant_end|>")
        return ConversationRows(
            cache, self.sequence_length, self.stage.config.seed, turn_end_id=turn_end, learns_all=learns_all
        )

    def _surveyed(self, folder: Path, survey: Callable[[], DataManifest]) -> DataManifest:
        """What the main process found when it read the documents through, once."""
        if self.stage.runtime.is_main and not (folder / FILE_NAME).is_file():
            manifest = survey()
            folder.mkdir(parents=True, exist_ok=True)
            manifest.save(folder)
        sum_number(0, self.stage.runtime)
        return load_manifest(folder)

    def _folder(self, name: str, content: str) -> Path:
        readable = re.sub(r"[^\w.-]+", "-", name).strip("-")[-40:]
        return self.stage.run.tokens / f"{readable}-{sha256(content.encode()).hexdigest()[:12]}"


def show_samples(mixture: Mixture, tokenizer: Tokenizer, reporter: Reporter) -> None:
    """A conversation of each source, or two of the only one, as the model gets them, with what it learns to say."""
    talks = [part for part in mixture.parts if isinstance(part.rows, ConversationRows)]
    for entry, rows, _ in talks:
        for row in islice(rows.order(0), 2 if len(talks) == 1 else 1):
            batch = rows.batch([row])
            ids = batch.inputs[0].tolist()
            # Where the row's next conversation begins.
            end = [*ids, tokenizer.bos_id].index(tokenizer.bos_id, 1)
            mask = [0, *(batch.targets[0] != NOT_TRAINED_ON).int().tolist()]
            shown = Rendered(ids[:end], mask[:end])
            show_rendered(f"A conversation of {entry.source}", shown, tokenizer, reporter)
