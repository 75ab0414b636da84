"""Holding a model on texts to what it said of them before: practising one thing, it keeps the rest.

Practice moves weights that carry everything else, too. To learn those texts once more (Ouyang et al. 2022,
arXiv:2203.02155) teaches what they tell at the cost of what they do not tell. Here the model is its own teacher (Li &
Hoiem 2016, "Learning without forgetting", arXiv:1606.09282), to which the text itself is mixed in a little (soft and
hard targets: Hinton et al. 2015, arXiv:1503.02531). With s the probabilities under the weights training began with, p
those under the weights of now, o what comes next in the text, `truth` the share of that, and N the tokens of the step,

    L = weight / N  sum_t [ (1 - truth) KL(s(. | t) || p(. | t))  -  truth ln p(o_t) ]

wherever a text goes on. The first term has no gradient as long as nothing is forgotten, and one back to where it was as
soon as something is; a text says so at each of its places, of what stands there and of all that does not.

It does not choose texts.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from chatsmith.data.batch import NOT_TRAINED_ON
from chatsmith.model.gpt import GPT
from chatsmith.model.loss import chunked_cross_entropy, chunked_divergence
from chatsmith.train.policy_gradient import filled_up


class HeldText(NamedTuple):
    """A text on which the model is held."""

    ids: Sequence[int]
    truth: float = 0.0
    """How much of what the model is held to is the text itself."""


class TextBatch(NamedTuple):
    """Texts as rows, padded at the end."""

    inputs: Tensor
    """(B, T) int64 ids."""
    targets: Tensor
    """(B, T) int64: the id that comes next; -1 in padding."""
    truth: Tensor
    """(B, T), each row's."""

    @property
    def num_targets(self) -> int:
        """After how many ids the model is held."""
        return int((self.targets != NOT_TRAINED_ON).sum())

    def to(self, device: torch.device) -> "TextBatch":
        """The same batch on `device`."""
        return TextBatch(*(one.to(device) for one in self))


def text_batches(
    texts: Sequence[HeldText],
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
    ordered = sorted(texts, key=lambda text: len(text.ids), reverse=True)
    return [
        _batch(ordered[start : start + rows_per_batch], multiple, most_inputs)
        for start in range(0, rows_per_batch * count, rows_per_batch)
    ]


def _batch(texts: Sequence[HeldText], multiple: int, most_inputs: int | None) -> TextBatch:
    longest = max((len(text.ids) - 1 for text in texts), default=0)
    inputs = torch.zeros((len(texts), filled_up(longest, multiple, most_inputs)), dtype=torch.int64)
    targets, truth = torch.full_like(inputs, NOT_TRAINED_ON), torch.zeros(inputs.shape)
    for row, text in enumerate(texts):
        ids = torch.tensor(text.ids)
        inputs[row, : len(ids) - 1], targets[row, : len(ids) - 1] = ids[:-1], ids[1:]
        truth[row] = text.truth
    return TextBatch(inputs, targets, truth)


@dataclass
class Distillation:
    """The loss of a `TextBatch`, to be passed to the training loop."""

    reference: GPT
    weight: float
    tokens: float = 0.0
    """Places seen since `take_tally` was called, each as much as it weighs in the divergence."""
    divergence: float = 0.0
    """The sum of the KL over them, in nats: how much was forgotten."""

    def __call__(self, model: GPT, batch: TextBatch, scale: float) -> Tensor:
        """The batch's part of L, with its graph; `scale` is 1/N."""
        is_text = batch.targets != NOT_TRAINED_ON
        with torch.no_grad():
            theirs = self.reference(batch.inputs)[is_text]  # (n, C)
        hidden, truth = model(batch.inputs)[is_text], batch.truth[is_text]
        forgotten = chunked_divergence(model, hidden, self.reference, theirs, 1 - truth)
        told = chunked_cross_entropy(model, hidden, batch.targets[is_text], truth)
        self.tokens += (1 - truth).sum().item()
        self.divergence += forgotten.item()
        return scale * self.weight * (forgotten + told)

    def take_tally(self) -> dict[str, float]:
        """What was seen since the last time, as sums that can be added up over processes."""
        taken = {"held": self.tokens, "held_kl": self.divergence}
        self.tokens, self.divergence = 0.0, 0.0
        return taken
