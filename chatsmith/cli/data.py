"""`chatsmith data prepare`: find and read all data once, split it, and write `<run>/data/manifest.json`.

Later stages read only what the manifest names. The word `kindergarten` among the data stands for the built-in
world, whose texts and conversations are generated into `<run>/data`. Other files are read where they are, and never
copied or changed. `chatsmith data inspect` is in `inspect_data`.
"""

import time
from collections.abc import Iterator, Sequence
from hashlib import sha256
from pathlib import Path
from typing import TypeVar

from chatsmith.cli.config import KINDERGARTEN
from chatsmith.cli.config import DataConfig as Config
from chatsmith.cli.inspect_data import show_manifest
from chatsmith.cli.settings import expanded
from chatsmith.data.dataset import DataManifest, load_manifest, survey
from chatsmith.data.documents import find_files
from chatsmith.ingest.forms import TYPES, conversation_files, write_conversations, write_documents
from chatsmith.runtime.atomic import new_folder
from chatsmith.runtime.console import Bar, Reporter
from chatsmith.runtime.errors import UserError
from chatsmith.runtime.run_directory import RunDirectory, stage_key
from chatsmith.worlds.kindergarten import GENERATOR_VERSION, Kindergarten

STAGE = "data"

Item = TypeVar("Item")


def main(config: Config) -> None:
    """Write the manifest of `config.run`, unless it is already what this would write. Raises UserError for
    data that cannot be read, naming the file."""

    reporter = Reporter()
    run = RunDirectory(config.run)
    with run.lock():
        _check_outside(config, run)
        # Another generator's texts are other data.
        generator = GENERATOR_VERSION if KINDERGARTEN in config.data else ""
        key = stage_key(config, files=_listing(config), generator=generator)
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
        run.mark_done(STAGE, key, facts, [run.data / "manifest.json"], config)


def _gather(config: Config, folder: Path, reporter: Reporter) -> DataManifest:

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


def _generate_kindergarten(config: Config, folder: Path, reporter: Reporter) -> None:

    documents, conversations = config.kindergarten_documents, config.kindergarten_conversations
    held_out = config.kindergarten_validation
    task = Kindergarten(config.seed, documents, conversations, held_out)
    with reporter.progress("generating", documents + conversations + 2 * held_out, "texts") as bar:
        for split in ("train", "validation"):
            write_documents(folder / f"{split}.parquet", _counted(task.documents(split), bar))
            write_conversations(
                folder / f"conversations_{split}.jsonl", _counted(task.conversations(split), bar)
            )


def _counted(items: Iterator[Item], bar: Bar) -> Iterator[Item]:
    for item in items:
        yield item
        bar.advance()


def _named(paths: Sequence[Path]) -> list[Path]:
    return [expanded(path) for path in paths if path != KINDERGARTEN]


def _all_named(config: Config) -> list[Path]:
    return _named((*config.data, *config.validation, *config.conversations, *config.validation_conversations))


def _check_outside(config: Config, run: RunDirectory) -> None:
    """Refuse data inside the folder that this stage replaces."""
    for path in _all_named(config):
        if path.resolve().is_relative_to(run.data.resolve()):
            raise UserError(
                f"{path} lies in {run.data}, which this command rebuilds; move it and name it again"
            )


def _listing(config: Config) -> str:
    """A hash of the names, sizes and times of the files named: what tells a changed folder quickly."""

    texts = find_files(_named((*config.data, *config.validation)))
    chats = find_files(_named((*config.conversations, *config.validation_conversations)), TYPES)
    files = ((file, file.stat()) for file in dict.fromkeys((*texts, *chats)))
    lines = (f"{file} {status.st_size} {status.st_mtime_ns}" for file, status in files)
    return sha256("\n".join(lines).encode("utf-8", "surrogateescape")).hexdigest()


def _is_intact(run: RunDirectory) -> bool:

    try:
        load_manifest(run.data)
    except UserError:
        return False
    return True


def _figures(manifest: DataManifest) -> dict[str, int]:
    chat = manifest.conversations
    return {
        "documents": manifest.documents.train_items,
        "validation_documents": manifest.documents.validation_items,
        "conversations": chat.train_items if chat else 0,
        "validation_conversations": chat.validation_items if chat else 0,
    }
