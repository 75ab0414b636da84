"""Holding a model on texts to what it said of them before: practising one thing, it keeps the rest.

Practice moves weights that carry everything else, too. To learn those texts once more (Ouyang et al. 2022,
arXiv:2203.02155) teaches what they tell at the cost of what they do not tell. Here the model is its own teacher instead
(Li & Hoiem 2016, "Learning without forgetting", arXiv:1606.09282): with s the probabilities under the weights training
began with, p those under the weights of now, x the ids of the texts, and N the places of the texts of a step,

    L = weight / N  sum_t [p(x_t+1) < s(x_t+1)] KL(s(. | x_..t) || p(. | x_..t))

over the whole vocabulary, wherever a text goes on and the model finds what stands there less likely than it did. What
it finds likelier it has not forgotten: practice at copying makes it surer in texts as well, and to hold it there, too,
took back a quarter of what practice gave (docs/lab-log.md). There is no gradient as long as nothing is forgotten, and
one back to where it was as soon as something is. Texts share rows, as they did when they were learnt.

It does not choose texts.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from chatsmith.data.batch import NOT_TRAINED_ON
from chatsmith.data.best_fit import Shelves
from chatsmith.model.gpt import GPT
from chatsmith.model.loss import chunked_divergence
from chatsmith.train.policy_gradient import filled_up, padded_places


class TextBatch(NamedTuple):
    """Rows of one text or several, padded at the end."""

    inputs: Tensor
    """(B, T) int64 ids."""
    goes_on: Tensor
    """(B, T) bool: False at the last id of a text, as nobody ever learnt what comes after that, and in padding."""

    @property
    def num_targets(self) -> int:
        """After how many ids the model is held."""
        return int(self.goes_on.sum())

    def to(self, device: torch.device) -> "TextBatch":
        """The same batch on `device`."""
        return TextBatch(self.inputs.to(device), self.goes_on.to(device))


def text_batches(
    texts: Sequence[Sequence[int]],
    row_length: int,
    rows_per_batch: int,
    count: int,
    *,
    multiple: int = 1,
) -> list[TextBatch]:
    """The texts, none longer than `row_length`, as `count` batches of at most `rows_per_batch` rows, the last ones
    perhaps empty.

    As many texts as fit go into a row, best fit; rows are padded to a multiple of `multiple` places, as far as
    `row_length` allows.
    """
    assert len(texts) <= rows_per_batch * count
    shelves: Shelves[Sequence[int]] = Shelves()
    for text in texts:
        shelves.add(len(text), text)
    rows = shelves.take_rows(row_length)
    return [
        _batch(rows[start : start + rows_per_batch], row_length, multiple)
        for start in range(0, rows_per_batch * count, rows_per_batch)
    ]


def _batch(rows: Sequence[Sequence[Sequence[int]]], row_length: int, multiple: int) -> TextBatch:
    width = filled_up(max((sum(map(len, row)) for row in rows), default=0), multiple, row_length)
    inputs = torch.zeros((len(rows), width), dtype=torch.int64)
    goes_on = torch.zeros((len(rows), width), dtype=torch.bool)
    for number, row in enumerate(rows):
        start = 0
        for text in row:
            end = start + len(text)
            inputs[number, start:end] = torch.tensor(text)
            goes_on[number, start : end - 1] = True
            start = end
    return TextBatch(inputs, goes_on)


@dataclass
class Distillation:
    """The loss of a `TextBatch`, to be passed to the training loop."""

    reference: GPT
    weight: float
    tokens: int = 0
    """Places seen since `take_tally` was called."""
    divergence: float = 0.0
    """The sum of the KL over them, in nats: how much was forgotten."""

    def __call__(self, model: GPT, batch: TextBatch, scale: float) -> Tensor:
        """The batch's part of L, with its graph; `scale` is 1/N."""
        places, is_real = padded_places(batch.goes_on)
        # What stands at the next place; a text that goes on has one.
        targets = torch.where(is_real, batch.inputs.flatten().roll(-1)[places], NOT_TRAINED_ON)
        with torch.no_grad():
            theirs = self.reference(batch.inputs).flatten(0, 1)[places]  # (n + filling, C)
        mine = model(batch.inputs).flatten(0, 1)[places]
        found = chunked_divergence(model, mine, self.reference, theirs, targets)
        self.tokens += batch.num_targets
        self.divergence += found.item()
        return scale * self.weight * found

    def take_tally(self) -> dict[str, float]:
        """What was seen since the last time, as sums that can be added up over processes."""
        taken = {"held": float(self.tokens), "held_kl": self.divergence}
        self.tokens, self.divergence = 0, 0.0
        return taken
