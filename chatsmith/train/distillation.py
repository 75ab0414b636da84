"""Holding a model on texts to what it said of them before: practising one thing, it keeps the rest.

Practice moves weights that carry everything else, too. To learn those texts once more (Ouyang et al. 2022,
arXiv:2203.02155) teaches what they tell at the cost of what they do not tell. Here the model is its own teacher instead
(Li & Hoiem 2016, "Learning without forgetting", arXiv:1606.09282): with s the probabilities under the weights training
began with, p those under the weights of now, and N the tokens of the step,

    L = weight / N  sum_t KL(s(. | t) || p(. | t))

over the whole vocabulary, wherever a text goes on. There is no gradient as long as nothing is forgotten, and one back
to where it was as soon as something is; a text says so at each of its places, of what stands there and of all that does
not.

It does not choose texts.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from chatsmith.model.gpt import GPT
from chatsmith.model.loss import chunked_divergence
from chatsmith.train.policy_gradient import filled_up


class TextBatch(NamedTuple):
    """Texts as rows, padded at the end."""

    inputs: Tensor
    """(B, T) int64 ids; without a text's last, as nobody ever learnt what comes after that."""
    is_text: Tensor
    """(B, T) bool: False in padding."""

    @property
    def num_targets(self) -> int:
        """After how many ids the model is held."""
        return int(self.is_text.sum())

    def to(self, device: torch.device) -> "TextBatch":
        """The same batch on `device`."""
        return TextBatch(self.inputs.to(device), self.is_text.to(device))


def text_batches(
    texts: Sequence[Sequence[int]],
    rows_per_batch: int,
    count: int,
    *,
    multiple: int = 1,
    most_inputs: int | None = None,
) -> list[TextBatch]:
    """The texts as `count` batches of at most `rows_per_batch` rows, the last ones perhaps empty.

    Texts of like length share a batch; rows are padded to a multiple of `multiple` places, as far as `most_inputs`
    allows.
    """
    assert len(texts) <= rows_per_batch * count
    ordered = sorted(texts, key=len, reverse=True)
    return [
        _batch(ordered[start : start + rows_per_batch], multiple, most_inputs)
        for start in range(0, rows_per_batch * count, rows_per_batch)
    ]


def _batch(texts: Sequence[Sequence[int]], multiple: int, most_inputs: int | None) -> TextBatch:
    inputs = [text[:-1] for text in texts]
    width = filled_up(max(map(len, inputs), default=0), multiple, most_inputs)
    padded = [[*ids, *[0] * (width - len(ids))] for ids in inputs]
    lengths = torch.tensor([len(ids) for ids in inputs], dtype=torch.int64)
    is_text = torch.arange(width) < lengths[:, None]
    return TextBatch(torch.tensor(padded, dtype=torch.int64).view(len(texts), width), is_text)


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
        with torch.no_grad():
            theirs = self.reference(batch.inputs)[batch.is_text]  # (n, C)
        found = chunked_divergence(model, model(batch.inputs)[batch.is_text], self.reference, theirs)
        self.tokens += len(theirs)
        self.divergence += found.item()
        return scale * self.weight * found

    def take_tally(self) -> dict[str, float]:
        """What was seen since the last time, as sums that can be added up over processes."""
        taken = {"held": float(self.tokens), "held_kl": self.divergence}
        self.tokens, self.divergence = 0, 0.0
        return taken
