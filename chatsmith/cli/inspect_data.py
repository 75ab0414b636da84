"""`chatsmith data inspect`: look at what a model learns from, at each step of the way.

It shows files and counts, some documents, one document cut into tokens, how documents share rows, and one
conversation with the tokens the model learns to say. It changes nothing and needs no trained model; without a
tokenizer it shows what there is before one.
"""

import sys
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.text import Text

from chatsmith.cli.config import InspectConfig as Config
from chatsmith.cli.settings import expanded
from chatsmith.data.dataset import DataManifest, SourceFile, Split, load_manifest
from chatsmith.data.packing import RowPacker, Rows
from chatsmith.ingest import hub
from chatsmith.ingest.survey import survey
from chatsmith.report.reference_vocabularies import beginning
from chatsmith.runtime.console import Reporter, printable
from chatsmith.runtime.run_directory import RunDirectory
from chatsmith.text.chat import Rendered, render
from chatsmith.text.tokenizer import Tokenizer

FILES_SHOWN = 20
CHARACTERS_SHOWN = 600
TOKENS_SHOWN = 160
PACKED_DOCUMENTS = 2_048
PACKED_CHARACTERS = 4_000_000  # enough for fair statistics, in about a second
ROWS_SHOWN = 8
ROW_WIDTH = 64

# Neighboring tokens differ, and each color reads well on light and dark terminals.
TOKEN_STYLES = ("black on cyan", "black on green", "black on yellow", "black on magenta")
LEARNED_STYLE, GIVEN_STYLE = "black on green", "dim"


def main(config: Config) -> None:
    """Print all views. Raises UserError where data or tokenizer cannot be read."""

    reporter = Reporter()
    run = RunDirectory(config.run)
    if config.data:
        paths = []
        for path in config.data:
            first = hub.find_shards(path).files[:1] if hub.is_source(path) else ()
            hub.fetch(first, reporter)
            paths.append(first[0].path if first else expanded(path))
        manifest = survey(paths)
        title = ", ".join(str(path) for path in config.data[:3])
    else:
        manifest = load_manifest(run.data)
        title = str(run.path)
    place = expanded(config.tokenizer) if config.tokenizer else run.tokenizer
    tokenizer = Tokenizer.load(place) if config.tokenizer or place.is_dir() else None
    reporter.stage("Data", title)
    show_manifest(manifest, reporter)
    _show_documents(manifest, config.documents, reporter)
    if tokenizer is None:
        reporter.line("\nThere is no tokenizer yet: make one with `chatsmith tokenizer`, or name one.")
        return
    _show_tokens_of_a_document(manifest, tokenizer, reporter)
    _show_packing(manifest, tokenizer, config.sequence_length, reporter)
    for conversation in islice(manifest.read_conversations("train"), 1):
        show_rendered("A conversation", render(conversation, tokenizer), tokenizer, reporter)


def show_manifest(manifest: DataManifest, reporter: Reporter) -> None:
    """Print what was found: the files, the splits, and what a person should know about them."""
    splits = [("documents", manifest.documents), ("conversations", manifest.conversations)]
    rows = [row for name, split in splits if split for row in _file_rows(name, split)]
    if len(rows) > FILES_SHOWN:
        rows = [*rows[:FILES_SHOWN], [f"and {len(rows) - FILES_SHOWN:,} more", "", "", "", ""]]
    reporter.table("Files", ["file", "holds", "used for", "items", "characters"], rows)
    rows = [
        [name, _counted(one.train_items, one.train), f"{one.validation_items:,}", _METHODS[one.method]]
        for name, one in splits
        if one
    ]
    reporter.table("Split", ["", "to train on", "to measure on", "chosen by"], rows)
    if not manifest.conversations:
        reporter.notice("no conversations were given: the model will continue text, but not chat")
    for notice in manifest.notices:
        reporter.notice(notice)


_METHODS = {
    "files": "separate files",
    "content": "a hash of each one's content",
    "tail": "cutting the only one",
    "none": "nothing is held out",
}


def _file_rows(name: str, split: Split) -> list[list[str]]:
    train_use = "training" if split.method in ("files", "none") else "both"
    used = [(file, train_use) for file in split.train] + [(file, "validation") for file in split.validation]
    return [
        [_shown(file.path), name, use, _counted(file.items, [file]), f"{file.characters:,}"]
        for file, use in used
    ]


def _counted(items: int, files: Sequence[SourceFile]) -> str:
    """A number of items; shards of a hub are not read before they are used."""
    return "to come" if not items and any(file.is_remote for file in files) else f"{items:,}"


def _shown(path: Path) -> str:
    """A path as short as it is clear: relative where it lies below here."""
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


def _show_documents(manifest: DataManifest, count: int, reporter: Reporter) -> None:
    """Documents from all over the training data, a fixed distance apart."""
    if not count:
        return
    distance = max(1, manifest.documents.train_items // count)
    for document in islice(manifest.read_documents("train"), 0, distance * count, distance):
        shown = document.text[:CHARACTERS_SHOWN].rstrip()
        rest = len(document.text) - len(shown)
        reporter.stage(document.source, f"{len(document.text):,} characters")
        reporter.line(shown + (f" … and {rest:,} characters more" if rest else ""))


def _show_tokens_of_a_document(manifest: DataManifest, tokenizer: Tokenizer, reporter: Reporter) -> None:
    text = next(manifest.read_documents("train")).text
    ids = tokenizer.encode(text)
    size = len(text.encode("utf-8"))
    reporter.stage("Tokens", f"the first document: {len(ids):,} tokens, {size / len(ids):.2f} bytes a token")
    styles = [TOKEN_STYLES[index % len(TOKEN_STYLES)] for index in range(TOKENS_SHOWN)]
    _print_tokens([visible(tokenizer, token) for token in ids[:TOKENS_SHOWN]], styles, reporter)


def _show_packing(
    manifest: DataManifest, tokenizer: Tokenizer, sequence_length: int, reporter: Reporter
) -> None:
    """How the first documents fill rows: statistics, and a picture of some rows."""

    documents = islice(manifest.read_documents("train"), PACKED_DOCUMENTS)
    texts = beginning((one.text for one in documents), PACKED_CHARACTERS)
    counts = [len(ids) for ids in tokenizer.encode_batch(texts)]
    offsets = np.cumsum([0, *counts], dtype=np.int64)
    packer = RowPacker(sequence_length + 1)
    full, last = packer.add(offsets), packer.finish(offsets)
    positions = (len(full) + len(last)) * (sequence_length + 1)
    pieces = len(full.piece_counts) + len(last.piece_counts)
    placed = int(full.piece_counts.sum() + last.piece_counts.sum())
    repeated = max(0, placed - sum(counts))
    reporter.table(
        f"Packing the first {len(texts):,} documents into rows of {sequence_length:,} tokens",
        ["what", "how much"],
        [
            ["tokens", f"{sum(counts):,}"],
            ["rows", f"{len(full) + len(last):,}"],
            ["positions with new text", f"{(placed - repeated) / positions:.2%}"],
            ["positions with <|bos|>", f"{pieces / positions:.2%}"],
            ["positions with repeated text, to fill the last row", f"{repeated / positions:.2%}"],
            ["tokens dropped", f"{max(0, sum(counts) - placed) / sum(counts):.2%}"],
        ],
    )
    rows = full if len(full) else last
    reporter.line("\nRows: [ a document begins, ( a document goes on after a cut, - its text")
    for row in np.linspace(0, len(rows) - 1, min(ROWS_SHOWN, len(rows)), dtype=int):
        reporter.line("  " + _picture(rows, int(row), offsets, sequence_length + 1))


def _picture(rows: Rows, row: int, offsets: np.ndarray, row_length: int) -> str:
    """One row, drawn ROW_WIDTH characters wide: where its pieces begin and whether each begins a document."""
    drawn = ["-"] * ROW_WIDTH
    first_offsets = set(offsets.tolist())
    place = 0
    for piece in range(rows.row_starts[row], rows.row_starts[row + 1]):
        begins = int(rows.piece_starts[piece]) in first_offsets
        drawn[place * ROW_WIDTH // row_length] = "[" if begins else "("
        place += int(rows.piece_counts[piece]) + 1
    return "".join(drawn)


def show_rendered(title: str, rendered: Rendered, tokenizer: Tokenizer, reporter: Reporter) -> None:
    """The first tokens of a conversation, those marked that the model learns to say."""
    reporter.stage(
        title,
        f"{len(rendered.ids):,} tokens, of which the model learns to say {sum(rendered.mask):,} (marked)",
    )
    tokens = [visible(tokenizer, token) for token in rendered.ids[: 2 * TOKENS_SHOWN]]
    _print_tokens(tokens, [LEARNED_STYLE if learned else GIVEN_STYLE for learned in rendered.mask], reporter)


def visible(tokenizer: Tokenizer, token: int) -> str:
    """A token's text; a part of a character as its bytes in hexadecimal."""
    content = tokenizer.decode_bytes([token])
    try:
        return printable(content.decode("utf-8"))
    except UnicodeDecodeError:
        return f"<{content.hex(' ')}>"


def _print_tokens(tokens: Sequence[str], styles: Sequence[str], reporter: Reporter) -> None:
    """Tokens in color on a terminal; elsewhere with bars between them, in [brackets] if learned."""
    if sys.stdout.isatty():
        Console().print(Text.assemble(*zip(tokens, styles, strict=False)))
    else:
        marked = (
            f"[{token}]" if style == LEARNED_STYLE and GIVEN_STYLE in styles else token
            for token, style in zip(tokens, styles, strict=False)
        )
        reporter.line("|".join(marked))
