"""What `pretrain`, `mid` and `sft` share of mixtures: from the texts of the settings to rows, and what people see."""

import json
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from hashlib import sha256
from itertools import chain, islice
from pathlib import Path

from chatsmith.cli.data import eval_folder
from chatsmith.cli.inspect_data import show_rendered
from chatsmith.cli.training import Stage
from chatsmith.data.dataset import FILE_NAME, DataManifest, SplitName, load_manifest
from chatsmith.data.mixture import Entry, Mixture, Part, cache_conversations
from chatsmith.data.packing import NOT_TRAINED_ON, ConversationRows, NothingToLearnError, TrainingRows
from chatsmith.data.tokens import ABOUT, Progress, TokenCache
from chatsmith.ingest.hub import is_first_here, open_tokens, use_shared_tokens
from chatsmith.runtime.atomic import write_text
from chatsmith.runtime.console import Reporter
from chatsmith.runtime.distributed import sum_number
from chatsmith.runtime.errors import UserError
from chatsmith.tasks.sources import Source, Surroundings, open_source
from chatsmith.text.chat import Conversation, Rendered
from chatsmith.text.tokenizer import Tokenizer
from chatsmith.worlds.kindergarten.world import spelling_words

CACHE_FORMAT = 1
"""Raised when equal files no longer give equal conversations, or these equal ids: the tokens outlive a run."""
VALIDATION_ITEMS = 500
"""Conversations of each source of a mixture that are measured on, at most."""


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
            cache = open_tokens(folder, manifest, self.tokenizer, split, build=self.stage.runtime.is_main)
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
            end = [*ids, tokenizer.bos_id].index(
                tokenizer.bos_id, 1
            )  # where the row's next conversation begins
            mask = [0, *(batch.targets[0] != NOT_TRAINED_ON).int().tolist()]
            show_rendered(
                f"A conversation of {entry.source}", Rendered(ids[:end], mask[:end]), tokenizer, reporter
            )
