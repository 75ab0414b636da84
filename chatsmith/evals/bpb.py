"""Bits per byte of a model over text, with how much text that was and how sure the figure is.

The measure itself is `model.loss.bits_per_byte`; this adds progress, the device, the counts and an interval. The text
is the validation text of the model's run, with a sample of its training text beside it, or any files that are named.
"""

import math
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from chatsmith.data.conversations import holds_conversations
from chatsmith.data.dataset import SplitName, load_manifest
from chatsmith.data.packing import NOT_TRAINED_ON, Batch, TrainingRows, ValidationRows
from chatsmith.data.tokens import TokenCache
from chatsmith.evals.evaluation import Evaluation
from chatsmith.evals.results import SuiteResult
from chatsmith.evals.samples import samples
from chatsmith.evals.statistics import ratio_interval
from chatsmith.ingest.files import find_files
from chatsmith.ingest.hub import open_tokens
from chatsmith.ingest.survey import survey
from chatsmith.ingest.tokenizing import open_token_cache
from chatsmith.model.gpt import GPT
from chatsmith.model.loss import bits_per_byte
from chatsmith.runtime.console import Reporter
from chatsmith.runtime.errors import UserError

TRAINING_TOKENS = 65_536
"""Tokens of training text that are scored: far apart from the validation text's, the figures tell overfitting."""

TextPart = tuple[float, int, int]
"""Bits, bytes and tokens of one batch."""


@dataclass(frozen=True)
class TextScore:
    """What the model spent on the text; it took `seconds`."""

    parts: tuple[TextPart, ...]
    seconds: float
    vocab_size: int

    @property
    def bytes(self) -> int:
        """Bytes of text."""
        return sum(bytes for _, bytes, _ in self.parts)

    @property
    def tokens(self) -> int:
        """The same as tokens of this model."""
        return sum(tokens for _, _, tokens in self.parts)

    @property
    def bits_per_byte(self) -> float:
        """Bits for all of the text by its bytes; NaN for no text at all."""
        return sum(bits for bits, _, _ in self.parts) / self.bytes if self.bytes else math.nan

    @property
    def chance(self) -> float:
        """Bits per byte of guessing: every token of the vocabulary equally likely. Less than 8, for the tokenizer knows
        something, too."""
        return math.log2(self.vocab_size) * self.tokens / self.bytes if self.bytes else math.nan

    def to_json(self) -> dict[str, Any]:
        """What `evaluate --json` prints as "base". The interval says how much other text of this kind, and as much of
        it, could change the figure; batches of rows in random order are what is drawn anew."""
        low, high = ratio_interval([(bits, float(bytes)) for bits, bytes, _ in self.parts])
        return {
            "bits_per_byte": self.bits_per_byte,
            "low": None if math.isnan(low) else low,  # JSON knows no NaN
            "high": None if math.isnan(high) else high,
            "bytes": self.bytes,
            "tokens": self.tokens,
            "chance": None if math.isnan(self.chance) else self.chance,
            "seconds": round(self.seconds, 2),
        }


def score_text(
    model: GPT,
    batches: Iterable[Batch],
    token_byte_lengths: np.ndarray,
    *,
    reporter: Reporter,
    total_tokens: int | None = None,
) -> TextScore:
    """Score every target of `batches` that stands for bytes; `token_byte_lengths` (V,) says how many it does.

    `total_tokens` (None: unknown) is for the progress bar alone.
    """
    device = next(model.parameters()).device
    byte_lengths = torch.from_numpy(np.array(token_byte_lengths))  # (V,)
    lengths_on_device = byte_lengths.to(device)
    started = time.perf_counter()
    parts: list[TextPart] = []
    with reporter.progress("bits per byte", total_tokens, "tokens") as bar:
        for batch in batches:
            predicted = batch.targets[batch.targets != NOT_TRAINED_ON]
            lengths = byte_lengths[predicted]
            num_bytes = int(lengths.sum())
            if num_bytes:
                pair = (batch.inputs.to(device), batch.targets.to(device))
                bits = bits_per_byte(model, [pair], lengths_on_device) * num_bytes
                parts.append((bits, num_bytes, int((lengths > 0).sum())))
            bar.advance(predicted.numel())
    return TextScore(tuple(parts), time.perf_counter() - started, len(byte_lengths))


def measure_text(evaluation: Evaluation) -> SuiteResult:
    """Bits per byte on the validation text, or the rows of it that `max_examples` allows, and on as much of the
    training text, TRAINING_TOKENS at most; and what the model says to fixed prompts. Raises UserError if there is no
    text."""
    runtime, length = evaluation.runtime, evaluation.bundle.config.context_length
    rows_at_once, most = max(1, evaluation.batch_tokens // length), evaluation.max_examples
    with _text(evaluation, "validation") as cache:
        rows = ValidationRows(cache, length)
        if rows.num_targets == 0:
            raise UserError(f"{evaluation.model} has no validation text; give its run some, or name a file")
        num_rows = min(rows.num_rows, most or rows.num_rows)
        share = {"rank": runtime.rank, "world_size": runtime.world_size}
        batches = rows.batches(rows_at_once, **share, max_rows=most)
        score = _score(evaluation, batches, rows.num_targets * num_rows // rows.num_rows)
    transcript = [{"bits": bits, "bytes": size, "tokens": tokens} for bits, size, tokens in score.parts]
    if evaluation.text:
        return SuiteResult("base", score.to_json(), score.seconds, transcript=tuple(transcript))
    num_rows = min(num_rows, max(1, TRAINING_TOKENS // length))
    with _text(evaluation, "train") as cache:
        rows_at_once = min(rows_at_once, math.ceil(num_rows / runtime.world_size))
        batches = TrainingRows(cache, length, seed=0).batches(rows_at_once, **share)
        taken = islice(batches, math.ceil(num_rows / rows_at_once / runtime.world_size))
        train = _score(evaluation, taken, num_rows * length).to_json()
    transcript += samples(evaluation)
    return SuiteResult("base", score.to_json(), score.seconds, transcript=tuple(transcript), train=train)


def _score(evaluation: Evaluation, batches: Iterable[Batch], total_tokens: int) -> TextScore:
    """The score of the batches of all processes."""
    bundle, world_size = evaluation.bundle, evaluation.runtime.world_size
    lengths, reporter = bundle.tokenizer.token_byte_lengths, evaluation.reporter
    mine = score_text(
        bundle.model, batches, lengths, reporter=reporter, total_tokens=total_tokens // world_size
    )
    by_rank = evaluation.collect([mine.parts], world_size)
    return replace(mine, parts=tuple(tuple(part) for parts in by_rank for part in parts))


@contextmanager
def _text(evaluation: Evaluation, split: SplitName) -> Iterator[TokenCache]:
    """The text as a token cache: that of the run, which the main process builds if need be, or a temporary one of the
    files that are named. Raises UserError if there is no text in them."""
    tokenizer, paths = evaluation.bundle.tokenizer, evaluation.text
    if not paths:
        assert evaluation.data is not None and evaluation.tokens is not None
        manifest = evaluation.manifest or load_manifest(evaluation.data)
        is_main = evaluation.runtime.is_main
        with open_tokens(evaluation.tokens, manifest, tokenizer, split, build=is_main) as cache:
            yield cache
        return
    for file in find_files(paths):
        if holds_conversations(file):
            raise UserError(f"{file} holds conversations; bits per byte are measured on text")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        nothing = folder / "nothing.txt"
        nothing.write_text("-")  # a manifest names something to train on, too
        manifest = survey([nothing], validation=paths)
        with open_token_cache(folder / "tokens", manifest, tokenizer, "validation") as cache:
            yield cache
