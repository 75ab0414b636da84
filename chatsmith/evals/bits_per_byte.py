"""Bits per byte of a model over validation text, with how much text that was.

The measure itself is `model.loss.bits_per_byte`; this adds progress, the device and the counts. It picks no
data: the caller passes batches in which every token is predicted once (`data.packing.ValidationRows`).
"""

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from chatsmith.data.batch import NOT_TRAINED_ON, Batch
from chatsmith.model.gpt import GPT
from chatsmith.model.loss import bits_per_byte
from chatsmith.runtime.logs import Bar, Reporter


@dataclass(frozen=True)
class TextScore:
    """`bits_per_byte` over `bytes` bytes of text, or `tokens` tokens of this model; it took `seconds`."""

    bits_per_byte: float
    bytes: int
    tokens: int
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """What `evaluate --json` prints as "base"."""
        return {"bits_per_byte": self.bits_per_byte, "bytes": self.bytes, "tokens": self.tokens}


def score_text(
    model: GPT,
    batches: Iterable[Batch],
    token_byte_lengths: np.ndarray,
    *,
    reporter: Reporter,
    total_tokens: int | None = None,
) -> TextScore:
    """Score every target of `batches` that stands for bytes; `token_byte_lengths` (V,) says how many it does.

    `total_tokens` (None: unknown) is for the progress bar alone. bits_per_byte is NaN for no text at all.
    """
    device = next(model.parameters()).device
    byte_lengths = torch.from_numpy(np.array(token_byte_lengths))  # (V,)
    started = time.perf_counter()
    counts = _Counts()
    with reporter.progress("bits per byte", total_tokens, "tokens") as bar:
        counted = _counted(batches, byte_lengths, counts, bar)
        on_device = ((batch.inputs.to(device), batch.targets.to(device)) for batch in counted)
        result = bits_per_byte(model, on_device, byte_lengths.to(device))
    return TextScore(result, counts.bytes, counts.tokens, time.perf_counter() - started)


@dataclass
class _Counts:
    bytes: int = 0
    tokens: int = 0


def _counted(batches: Iterable[Batch], byte_lengths: Tensor, counts: _Counts, bar: Bar) -> Iterator[Batch]:
    """The batches unchanged, counted on the CPU; a batch shows as progress once the next one is asked for."""
    for batch in batches:
        yield batch
        predicted = batch.targets[batch.targets != NOT_TRAINED_ON]
        lengths = byte_lengths[predicted]
        counts.bytes += int(lengths.sum())
        counts.tokens += int((lengths > 0).sum())
        bar.advance(predicted.numel())
