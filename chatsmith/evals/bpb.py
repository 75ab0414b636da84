"""Bits per byte of a model over text, with how much text that was and how sure the figure is.

The measure itself is `model.loss.bits_per_byte`; this adds progress, the device, the counts and an interval. The text
is the validation text of the model's run, or any files that are named.
"""

import math
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from chatsmith.data.conversations import holds_conversations
from chatsmith.data.dataset import load_manifest, survey
from chatsmith.data.documents import find_files
from chatsmith.data.packing import NOT_TRAINED_ON, Batch, ValidationRows
from chatsmith.data.tokens import TokenCache, open_token_cache
from chatsmith.evals.evaluation import Evaluation
from chatsmith.evals.results import SuiteResult
from chatsmith.evals.statistics import ratio_interval
from chatsmith.ingest.hub import open_tokens
from chatsmith.model.gpt import GPT
from chatsmith.model.loss import bits_per_byte
from chatsmith.runtime.console import Reporter
from chatsmith.runtime.errors import UserError

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
    """Bits per byte on the validation text, or the rows of it that `max_examples` allows. Raises UserError if there is
    no text."""
    runtime, bundle = evaluation.runtime, evaluation.bundle
    length = bundle.config.context_length
    with _validation_text(evaluation) as cache:
        rows = ValidationRows(cache, length)
        if rows.num_targets == 0:
            raise UserError(f"{evaluation.model} has no validation text; give its run some, or name a file")
        num_rows = min(rows.num_rows, evaluation.max_examples or rows.num_rows)
        batches = rows.batches(
            max(1, evaluation.batch_tokens // length),
            rank=runtime.rank,
            world_size=runtime.world_size,
            max_rows=evaluation.max_examples,
        )
        mine = score_text(
            bundle.model,
            batches,
            bundle.tokenizer.token_byte_lengths,
            reporter=evaluation.reporter,
            total_tokens=rows.num_targets * num_rows // rows.num_rows // runtime.world_size,
        )
    by_rank = evaluation.collect([mine.parts], runtime.world_size)
    score = replace(mine, parts=tuple(tuple(part) for parts in by_rank for part in parts))
    transcript = tuple({"bits": bits, "bytes": size, "tokens": tokens} for bits, size, tokens in score.parts)
    return SuiteResult("base", score.to_json(), score.seconds, transcript=transcript)


@contextmanager
def _validation_text(evaluation: Evaluation) -> Iterator[TokenCache]:
    """The text as a token cache: that of the run, which the main process builds if need be, or a temporary one of the
    files that are named. Raises UserError if there is no text in them."""
    tokenizer, paths = evaluation.bundle.tokenizer, evaluation.text
    if not paths:
        assert evaluation.data is not None and evaluation.tokens is not None
        manifest = evaluation.manifest or load_manifest(evaluation.data)
        is_main = evaluation.runtime.is_main
        with open_tokens(evaluation.tokens, manifest, tokenizer, "validation", build=is_main) as cache:
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
