"""What goes wrong in reinforcement learning, seen from the figures of its rounds, and said in a line.

Nothing earns a reward; the model always says the same; replies never end; the reward function fails. Plain numbers
in, notices out; it knows no models.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from chatsmith.runtime.errors import UserError

PATIENCE = 3
"""Rounds in a row after which a notice is given: one bad round is chance."""

COLLAPSED = 0.05
"""Entropy below this part of the first round's: hardly any choice is left."""

SAME = 0.9
"""Share of groups with equal rewards at which nothing new is tried any more."""

ENDLESS = 0.5
"""Share of replies cut at their longest at which they are said not to end."""


_COUNTED = ("zero", "collapsed", "endless", "first_entropy")


class Watch:
    """Looks at every round's figures; `look` returns what to tell, and raises where going on is pointless."""

    def __init__(self, give_up_after: int, max_tokens: int) -> None:
        self._give_up_after = give_up_after
        self._max_tokens = max_tokens
        self._counts: dict[str, float] = dict.fromkeys(_COUNTED, 0.0)

    def look(self, figures: Mapping[str, float]) -> list[str]:
        """Lines to tell about a round. Raises UserError after `give_up_after` rounds without any reward, and where
        the reward of every reply failed."""
        if figures["failed_rewards"] and figures["failed_rewards"] == figures["replies"]:
            raise UserError(
                "the reward failed for every reply of a step (the notices above say how), so there is nothing to "
                "learn from: correct the function of --reward, or the problems"
            )
        if self._in_a_row("zero", figures["nonzero_rewards"] == 0) >= self._give_up_after:
            raise UserError(
                f"not one reply of the last {self._give_up_after} steps earned a reward, so there is nothing to learn "
                "from: take problems the model solves now and then, fine-tune it on such problems first, or check "
                "the reward"
            )
        notices: list[str] = []
        first = self._counts["first_entropy"] = self._counts["first_entropy"] or figures["entropy"]
        is_same = figures["equal_groups"] >= SAME and figures["pass_at_1"] < SAME
        is_collapsed = is_same and figures["entropy"] < COLLAPSED * first
        if self._in_a_row("collapsed", is_collapsed) == PATIENCE:
            notices.append(
                f"the model says nearly the same every time (entropy {figures['entropy']:.4f}, at first {first:.4f}) "
                "and no longer tries anything new: lower --rate-scale, or hold it near its beginning with --kl"
            )
        if self._in_a_row("endless", figures["truncated"] >= ENDLESS) == PATIENCE:
            notices.append(
                f"{figures['truncated']:.0%} of the replies do not end within {self._max_tokens} tokens and earn "
                "nothing: allow more with --max-tokens, or reward good form with --form-weight 0.1"
            )
        return notices

    def _in_a_row(self, name: str, happens: bool) -> float:
        self._counts[name] = self._counts[name] + 1 if happens else 0.0
        return self._counts[name]

    def named_state(self) -> dict[str, Tensor]:
        """The counts, for a resumed run."""
        return {"watch": torch.tensor(list(self._counts.values()), dtype=torch.float64)}

    def load_named_state(self, state: dict[str, Tensor]) -> None:
        """Restore what `named_state` gave."""
        self._counts = dict(zip(self._counts, state["watch"].tolist(), strict=True))
