"""`chatsmith tokenizer`: train the run's tokenizer and write `<run>/tokenizer/tokenizer.json`.

Reads what `chatsmith data prepare` described; learns from an even sample of the training documents and
conversations, and reports bytes per token on held-out text. Never reads validation text to
train, and never touches the network.
"""

import atexit
import os
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import replace
from itertools import chain, islice
from threading import Thread
from typing import TypeVar

from chatsmith.cli.config import TokenizerConfig as Config
from chatsmith.cli.inspect_data import visible
from chatsmith.data.dataset import DataManifest, SplitName, load_manifest
from chatsmith.ingest.hub import fetch, start_downloads
from chatsmith.report.reference_vocabularies import beginning, compare
from chatsmith.runtime.console import Reporter, format_seconds
from chatsmith.runtime.errors import UserError
from chatsmith.runtime.run_directory import RunDirectory, stage_key
from chatsmith.runtime.signals import StoppedError
from chatsmith.text.tokenizer import Tokenizer, train_tokenizer

STAGE = "tokenizer"
T = TypeVar("T")

# Enough for two digits of bytes per token on any corpus, and little enough to take a second.
HELD_OUT_CHARACTERS = 2_000_000

# Long enough that the cuts, which can split a word, do not matter; short enough that a sample of 1% of a few
# long books still has text from all over them.
CHUNK_CHARACTERS = 4096

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
    try:
        return done.result()
    except StoppedError as stop:
        # Python aborts where it ends while native code calls it back ("exception not rethrown").
        print(end="", flush=True)
        atexit.register(os._exit, stop.code)
        raise


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
    if run.is_done(STAGE, key):
        with suppress(UserError):
            fingerprint = (run.done_facts(STAGE) or {}).get("fingerprint")
            return Tokenizer.load(run.tokenizer).fingerprint == fingerprint
    return False


def _train(config: Config, manifest: DataManifest, reporter: Reporter) -> Tokenizer:
    splits = (manifest.documents, manifest.conversations)
    available = sum(file.characters for split in splits if split for file in split.train)
    share = config.sample_megabytes * 1e6 / max(available, 1)
    expected = min(share, 1.0) * available
    with reporter.progress("reading", expected, "characters") as bar:

        def sample() -> Iterator[str]:
            read = 0
            texts = chain.from_iterable(_texts(manifest, "train").values())
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


def sample_evenly(texts: Iterable[str], share: float) -> Iterator[str]:
    """Chunks of the texts that make up about `share` (0 to 1) of their characters, evenly spread.

    A share of 1 or more gives everything. The sample exceeds its share by at most one chunk.
    """
    seen = taken = 0
    for text in texts:
        for start in range(0, len(text), CHUNK_CHARACTERS):
            chunk = text[start : start + CHUNK_CHARACTERS]
            seen += len(chunk)
            if taken < share * seen:
                taken += len(chunk)
                yield chunk


def _texts(manifest: DataManifest, split: SplitName) -> dict[str, Iterator[str]]:
    """The documents, and the parts of the conversations."""
    talks = manifest.read_conversations(split)
    return {
        "documents": (document.text for document in manifest.read_documents(split)),
        "conversations": (part.text for talk in talks for message in talk for part in message.parts),
    }


def _report(tokenizer: Tokenizer, seconds: float, manifest: DataManifest, reporter: Reporter) -> float | None:
    """Print size, compression and examples; returns bytes per token on held-out documents (None: no such)."""
    held_out = {
        kind: beginning(sample_evenly(texts, share=1.0), HELD_OUT_CHARACTERS)
        for kind, texts in _texts(manifest, "validation").items()
    }
    compared, rows = compare(tokenizer, held_out), list[list[str]]()
    for name, found in compared.items():
        if found:
            shown = (f"{found[kind]:.2f}" if kind in found else "none held out" for kind in held_out)
            rows.append([name, f"{found['ids']:,}", *shown])
        else:
            rows.append([name, "not available offline", "", ""])
    reporter.table("Bytes per token, on held-out text", ["vocabulary", "ids", *held_out], rows)
    texts = chain(*_texts(manifest, "validation").values(), *_texts(manifest, "train").values())
    lines = filter(None, (text.strip().partition("\n")[0][:LONGEST_EXAMPLE] for text in texts))
    encoded = [tokenizer.encode(text) for text in (*islice(lines, OWN_EXAMPLES), *EXAMPLES)]
    rows = [[str(len(ids)), "|".join(visible(tokenizer, one) for one in ids)] for ids in encoded]
    rows = [[count, text.replace("\n", "⏎")] for count, text in rows]
    reporter.table("Examples, one token between bars", ["tokens", "text"], rows)
    reporter.line(f"Trained in {format_seconds(seconds)}.")
    own = compared["this tokenizer"] or {}
    return round(own["documents"], 4) if "documents" in own else None
