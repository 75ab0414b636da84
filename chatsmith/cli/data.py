"""`chatsmith data prepare`: find and read all data once, split it, and write `<run>/data/manifest.json`.

Later stages read only what the manifest names. The word `kindergarten` among the data stands for the built-in
task, whose texts and conversations are generated into `<run>/data`. Files of the person's are read where they
are and never copied or changed. `chatsmith data inspect` is in `inspect_data`.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from chatsmith.cli.inspect_data import InspectConfig, inspect, show_manifest
from chatsmith.runtime.errors import UserError

if TYPE_CHECKING:
    from chatsmith.data.dataset import DataManifest
    from chatsmith.runtime.logs import Bar, Reporter
    from chatsmith.runtime.run_directory import RunDirectory

__all__ = ["Config", "InspectConfig", "inspect", "main"]

STAGE = "data"
KINDERGARTEN = Path("kindergarten")

Item = TypeVar("Item")


@dataclass(frozen=True)
class Config:
    """Gather the data of a run and keep some of it for validation."""

    run: Path = Path("runs/kindergarten")
    """Run directory, made if need be."""

    data: tuple[Path, ...] = (KINDERGARTEN,)
    """Text to train on: files or folders of .parquet, .jsonl[.gz|.zst], .txt, .md; or the word kindergarten
    for the built-in world. Files called validation or test inside a folder are not trained on."""

    validation: tuple[Path, ...] = ()
    """Text to measure on. By default files called validation; without any, documents are held out."""

    conversations: tuple[Path, ...] = ()
    """Conversations for fine-tuning: .jsonl, .json or .parquet of messages, ShareGPT, Alpaca, prompt/completion, ..."""

    validation_conversations: tuple[Path, ...] = ()
    """Conversations to measure on. By default as with `validation`."""

    held_out: float = 0.01
    """Share of the documents, and of the conversations, held out where no validation files are found."""

    seed: int = 1
    """Which kindergarten is generated."""

    kindergarten_documents: int = 40_000
    """How many documents of the kindergarten are generated to train on."""

    kindergarten_conversations: int = 40_000
    """How many conversations of the kindergarten are generated to fine-tune on."""

    kindergarten_validation: int = 500
    """How many more of each are generated to measure on."""

    def __post_init__(self) -> None:
        if not self.data:
            raise UserError("there is no text to train on; name files or folders with --data")
        if not 0 < self.held_out <= 0.5:
            raise UserError(f"held_out is {self.held_out}; it must be a share above 0, at most 0.5")
        for name in ("kindergarten_documents", "kindergarten_conversations", "kindergarten_validation"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if self.seed < 0:
            raise UserError(f"seed is {self.seed}; it must be 0 or more")


def main(config: Config) -> None:
    """Write the manifest of `config.run`, unless it is already what this would write. Raises UserError for
    data that cannot be read, naming the file."""
    from chatsmith.data.dataset import load_manifest
    from chatsmith.runtime.atomic import new_folder
    from chatsmith.runtime.logs import Reporter
    from chatsmith.runtime.run_directory import RunDirectory, stage_key

    reporter = Reporter()
    run = RunDirectory(config.run)
    with run.lock():
        _check_outside(config, run)
        key = stage_key(config, files=_listing(config), generator=_generator(config))
        if run.is_done(STAGE, key) and _is_intact(run):
            reporter.line(f"The data in {run.data} is up to date.")
            return
        reporter.stage("Data", ", ".join(str(path) for path in config.data[:3]))
        started = time.monotonic()
        with new_folder(run.data) as folder:
            _gather(config, folder, reporter).save(folder)
        manifest = load_manifest(run.data)
        show_manifest(manifest, reporter)
        facts = {"seconds": round(time.monotonic() - started, 2), **_figures(manifest)}
        run.mark_done(STAGE, key, facts, outputs=[run.data / "manifest.json"])


def _gather(config: Config, folder: Path, reporter: "Reporter") -> "DataManifest":
    from chatsmith.data.dataset import survey
    from chatsmith.ingest.forms import conversation_files

    data, validation = _named(config.data), _named(config.validation)
    conversations = _named(config.conversations)
    validation_conversations = _named(config.validation_conversations)
    is_kindergarten = KINDERGARTEN in config.data
    if is_kindergarten:
        _generate_kindergarten(config, folder, reporter)
        data.insert(0, folder / "train.parquet")
        validation.insert(0, folder / "validation.parquet")
        conversations.insert(0, folder / "conversations_train.jsonl")
        validation_conversations.insert(0, folder / "conversations_validation.jsonl")
    return survey(
        data,
        chats=conversation_files(folder / "conversations"),
        validation=validation,
        conversations=conversations,
        validation_conversations=validation_conversations,
        held_out=config.held_out,
        source="kindergarten" if is_kindergarten else "files",
    )


def _generate_kindergarten(config: Config, folder: Path, reporter: "Reporter") -> None:
    from chatsmith.ingest.forms import write_conversations, write_documents
    from chatsmith.worlds.kindergarten import Kindergarten

    documents, conversations = config.kindergarten_documents, config.kindergarten_conversations
    held_out = config.kindergarten_validation
    task = Kindergarten(config.seed, documents, conversations, held_out)
    with reporter.progress("generating", documents + conversations + 2 * held_out, "texts") as bar:
        for split in ("train", "validation"):
            write_documents(folder / f"{split}.parquet", _counted(task.documents(split), bar))
            write_conversations(
                folder / f"conversations_{split}.jsonl", _counted(task.conversations(split), bar)
            )


def _counted(items: Iterator[Item], bar: "Bar") -> Iterator[Item]:
    for item in items:
        yield item
        bar.advance()


def _named(paths: Sequence[Path]) -> list[Path]:
    return [path.expanduser() for path in paths if path != KINDERGARTEN]


def _all_named(config: Config) -> list[Path]:
    return _named((*config.data, *config.validation, *config.conversations, *config.validation_conversations))


def _check_outside(config: Config, run: "RunDirectory") -> None:
    """Refuse data inside the folder that this stage replaces."""
    for path in _all_named(config):
        if path.resolve().is_relative_to(run.data.resolve()):
            raise UserError(f"{path} lies in {run.data}, which is made anew here; move it and name it again")


def _listing(config: Config) -> str:
    """A hash of the names, sizes and times of the files named: what tells a changed folder quickly."""
    from chatsmith.data.documents import find_files
    from chatsmith.ingest.forms import TYPES

    texts = find_files(_named((*config.data, *config.validation)))
    chats = find_files(_named((*config.conversations, *config.validation_conversations)), TYPES)
    files = ((file, file.stat()) for file in dict.fromkeys((*texts, *chats)))
    lines = (f"{file} {status.st_size} {status.st_mtime_ns}" for file, status in files)
    return sha256("\n".join(lines).encode("utf-8", "surrogateescape")).hexdigest()


def _generator(config: Config) -> str:
    """The version of what generates: another kindergarten's texts are other data."""
    if KINDERGARTEN not in config.data:
        return ""
    from chatsmith.worlds.kindergarten import GENERATOR_VERSION

    return GENERATOR_VERSION


def _is_intact(run: "RunDirectory") -> bool:
    from chatsmith.data.dataset import load_manifest

    try:
        load_manifest(run.data)
    except UserError:
        return False
    return True


def _figures(manifest: "DataManifest") -> dict[str, int]:
    chat = manifest.conversations
    return {
        "documents": manifest.documents.train_items,
        "validation_documents": manifest.documents.validation_items,
        "conversations": chat.train_items if chat else 0,
        "validation_conversations": chat.validation_items if chat else 0,
    }
