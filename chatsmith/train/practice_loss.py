"""What reinforcement learning minimises: practise on replies (`policy_gradient`), and forget nothing of what texts say
(`distillation`).

Each is a mean over its own tokens of the step, on all processes: more samples of a problem make the one surer, and more
texts the other, and neither the stronger.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from chatsmith.model.gpt import GPT
from chatsmith.runtime.device import Runtime
from chatsmith.runtime.distributed import sum_numbers
from chatsmith.train.distillation import Distillation, TextBatch
from chatsmith.train.policy_gradient import PolicyGradient, RolloutBatch, Tally


@dataclass
class PracticeLoss:
    """The loss of batches of either kind, to be passed to the training loop."""

    policy: PolicyGradient
    holding: Distillation
    text_share: float = 0.0
    """Of the step's tokens, on all processes, those of texts."""

    def expect(self, batches: Sequence[RolloutBatch | TextBatch], runtime: Runtime) -> None:
        """Count the tokens of the step that these batches, and those of the other processes, make."""
        texts = sum(batch.num_targets for batch in batches if isinstance(batch, TextBatch))
        every = sum(batch.num_targets for batch in batches)
        sums = sum_numbers({"texts": float(texts), "every": float(every)}, runtime)
        self.text_share = sums["texts"] / max(sums["every"], 1.0)

    def __call__(self, model: GPT, batch: RolloutBatch | TextBatch, scale: float) -> Tensor:
        """The batch's part of the loss, with its graph; `scale` is one by the tokens of the step."""
        if isinstance(batch, TextBatch):
            return self.holding(model, batch, scale / self.text_share)
        return self.policy(model, batch, scale / (1 - self.text_share))

    def take_tally(self) -> tuple[Tally, dict[str, float]]:
        """What was seen since the last time: of replies, and of texts, as sums that can be added up over processes."""
        return self.policy.take_tally(), self.holding.take_tally()
