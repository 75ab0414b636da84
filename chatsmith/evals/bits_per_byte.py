"""Bits per byte of a model over validation text, with how much text that was and how sure the figure is.

The measure itself is `model.loss.bits_per_byte`; this adds progress, the device, the counts and an interval. It picks
no data: the caller passes batches in which every token is predicted once (`data.packing.ValidationRows`).
"""

import math
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from chatsmith.data.packing import NOT_TRAINED_ON, Batch
from chatsmith.evals.statistics import ratio_interval
from chatsmith.model.gpt import GPT
from chatsmith.model.loss import bits_per_byte
from chatsmith.runtime.console import Reporter

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
