"""`chatsmith tokenizer`: train the run's tokenizer and write `<run>/tokenizer/tokenizer.json`.

Reads what `chatsmith data prepare` described; learns from an even sample of the training documents and
conversations, and reports bytes per token on held-out text. Never reads validation text to
train, and never touches the network.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import replace
from itertools import chain, islice
from threading import Thread
from typing import TypeVar

from chatsmith.cli.config import TokenizerConfig as Config
from chatsmith.data.dataset import DataManifest, Split, SplitName, load_manifest
from chatsmith.ingest.hub import fetch, start_downloads
from chatsmith.report.reference_vocabularies import REFERENCE_VOCABULARIES, load_offline
from chatsmith.runtime.console import Reporter, format_seconds
from chatsmith.runtime.errors import UserError
from chatsmith.runtime.run_directory import RunDirectory, stage_key
from chatsmith.text.tokenizer import Tokenizer, sample_evenly, train_tokenizer

STAGE = "tokenizer"
T = TypeVar("T")

# Enough for two digits of bytes per token on any corpus, and little enough to take a second.
HELD_OUT_CHARACTERS = 2_000_000

EXAMPLES = ("12 + 345 = 357", "def add(a, b):\n    return a + b", "Crème brûlée, 東京 🙂")
"""Shown after some lines of the text at hand."""
OWN_EXAMPLES, LONGEST_EXAMPLE = 3, 60


def main(config: Config) -> None:
    """Train and save the tokenizer of `config.run`, unless it is already what this would make."""

    reporter = Reporter()
    run = RunDirectory(config.run)
    with run.lock():
        whole = load_manifest(run.data)
        manifest = _enough(whole, config.sample_megabytes * 1e6)
        cap = {"cap": str(config.document_characters)} if config.document_characters else {}
        key = stage_key(config, data=manifest.fingerprint, **cap)
        if _is_current(run, key):
            reporter.line(f"The tokenizer in {run.tokenizer} is up to date.")
            return
        reporter.stage("Tokenizer", f"learning up to {config.vocab_size:,} tokens from the training text")
        # All of them come while this goes on; here the first ones are waited for.
        downloads = start_downloads(chain(manifest.documents.validation, whole.documents.train))
        fetch((*manifest.documents.validation, *manifest.documents.train), reporter)
        downloads.check()
        started = time.monotonic()
        tokenizer = _train(config, manifest, reporter)
        seconds = time.monotonic() - started
        file = tokenizer.save(run.tokenizer)
        facts = {"vocab_size": tokenizer.vocab_size, "seconds": round(seconds, 2)}
        facts["bytes_per_token"] = _report(tokenizer, seconds, manifest, reporter)
        run.mark_done(STAGE, key, {**facts, "fingerprint": tokenizer.fingerprint}, [file], config)


def interruptible(work: Callable[[], T]) -> T:
    """The result of `work`, in a thread: native code that takes a minute would not let Ctrl-C through."""
    done: Future[T] = Future()

    def run() -> None:
        try:
            done.set_result(work())
        except BaseException as error:
            done.set_exception(error)

    Thread(target=run, daemon=True).start()
    return done.result()


def _enough(manifest: DataManifest, characters: float) -> DataManifest:
    """The manifest with no more shards of a hub, from the first on, than hold so many characters: more shards do not
    change the tokenizer."""
    kept, found = [], 0
    for file in manifest.documents.train:
        if not file.is_remote or found < characters:
            kept.append(file)
            found += file.characters if file.is_remote else 0
    return replace(manifest, documents=replace(manifest.documents, train=tuple(kept)))


def _is_current(run: RunDirectory, key: str) -> bool:
    """Whether the stage is done and the file is still the one it wrote (a damaged one is made again)."""

    if not run.is_done(STAGE, key):
        return False
    try:
        fingerprint = Tokenizer.load(run.tokenizer).fingerprint
    except UserError:
        return False
    return fingerprint == (run.done_facts(STAGE) or {}).get("fingerprint")


def _train(config: Config, manifest: DataManifest, reporter: Reporter) -> Tokenizer:

    available = _characters(manifest.documents) + _characters(manifest.conversations)
    share = config.sample_megabytes * 1e6 / max(available, 1)
    expected = min(share, 1.0) * available
    with reporter.progress("reading", expected, "characters") as bar:

        def sample() -> Iterator[str]:
            read = 0
            texts = _all_texts(manifest, "train")
            if config.document_characters:
                texts = (text[: config.document_characters] for text in texts)
            for text in sample_evenly(texts, share):
                read += len(text)
                bar.advance(len(text))
                yield text
            # The files' sizes also count what is held out, and the JSON around conversations.
            bar.advance(max(0, expected - read))

        tokenizer = interruptible(lambda: train_tokenizer(sample(), config.vocab_size, config.split))
    if tokenizer.vocab_size < config.vocab_size:
        reporter.notice(
            f"the text is too small for {config.vocab_size:,} tokens: no more than {tokenizer.vocab_size:,} "
            "occur often enough, and the vocabulary has that size"
        )
    return tokenizer


def _characters(split: Split | None) -> int:
    return sum(file.characters for file in split.train) if split else 0


def _all_texts(manifest: DataManifest, split: SplitName) -> Iterator[str]:
    yield from _document_texts(manifest, split)
    yield from _conversation_texts(manifest, split)


def _document_texts(manifest: DataManifest, split: SplitName) -> Iterator[str]:
    for document in manifest.read_documents(split):
        yield document.text


def _conversation_texts(manifest: DataManifest, split: SplitName) -> Iterator[str]:
    for conversation in manifest.read_conversations(split):
        for message in conversation:
            for part in message.parts:
                yield part.text


def _report(tokenizer: Tokenizer, seconds: float, manifest: DataManifest, reporter: Reporter) -> float | None:
    """Print size, compression and examples; returns bytes per token on held-out documents (None: no such)."""

    held_out = [_first(texts(manifest, "validation")) for texts in (_document_texts, _conversation_texts)]
    figures = [_bytes_per_token(texts, tokenizer.encode_batch) for texts in held_out]
    rows = [["this tokenizer", f"{tokenizer.vocab_size:,}", *map(_shown, figures)]]
    for vocabulary in REFERENCE_VOCABULARIES:
        encoding = load_offline(vocabulary)
        if encoding is None:
            rows.append([vocabulary.name, "not available offline", "", ""])
        else:
            others = [_bytes_per_token(texts, encoding.encode_ordinary_batch) for texts in held_out]
            rows.append([vocabulary.name, f"{encoding.n_vocab:,}", *map(_shown, others)])
    reporter.table(
        "Bytes per token, on held-out text",
        ["vocabulary", "ids", "documents", "conversations"],
        rows,
    )
    reporter.table(
        "Examples, one token between bars", ["tokens", "text"], _example_rows(tokenizer, _own_lines(manifest))
    )
    reporter.line(f"Trained in {format_seconds(seconds)}.")
    return figures[0]


def _first(texts: Iterator[str]) -> list[str]:
    """The first chunks of `texts`, up to HELD_OUT_CHARACTERS in all."""

    chosen, characters = [], 0
    for text in sample_evenly(texts, share=1.0):
        chosen.append(text)
        characters += len(text)
        if characters >= HELD_OUT_CHARACTERS:
            break
    return chosen


def _bytes_per_token(
    texts: Sequence[str], encode_batch: Callable[[list[str]], list[list[int]]]
) -> float | None:
    num_tokens = sum(len(ids) for ids in encode_batch(list(texts)))
    num_bytes = sum(len(text.encode("utf-8", "replace")) for text in texts)
    return round(num_bytes / num_tokens, 4) if num_tokens else None


def _shown(bytes_per_token: float | None) -> str:
    return "none held out" if bytes_per_token is None else f"{bytes_per_token:.2f}"


def _own_lines(manifest: DataManifest) -> list[str]:
    texts = chain(_all_texts(manifest, "validation"), _all_texts(manifest, "train"))
    lines = (text.strip().partition("\n")[0][:LONGEST_EXAMPLE] for text in texts)
    return list(islice((line for line in lines if line), OWN_EXAMPLES))


def _example_rows(tokenizer: Tokenizer, own: Sequence[str]) -> list[list[str]]:
    rows = []
    for text in (*own, *EXAMPLES):
        ids = tokenizer.encode(text)
        rows.append([str(len(ids)), "|".join(_visible(tokenizer.decode_bytes([id])) for id in ids)])
    return rows


def _visible(token: bytes) -> str:
    """A token as text, or in hexadecimal if it is a part of a character."""
    try:
        return token.decode("utf-8").replace("\n", "⏎")
    except UnicodeDecodeError:
        return token.hex(" ").upper()
