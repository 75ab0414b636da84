"""Notices about reinforcement learning that goes wrong, from the metrics of each round."""

from collections.abc import Mapping

from chatsmith.runtime.errors import UserError

PATIENCE = 3
"""Rounds in a row after which a notice is given: one bad round is chance."""

COLLAPSED = 0.05
"""Entropy below this part of the first round's: hardly any choice is left."""

SAME = 0.9
"""Share of groups with equal rewards at which nothing new is tried any more."""

ENDLESS = 0.5
"""Share of replies cut at the longest length at which they are said not to end."""


class RewardMonitor:
    """Looks for what goes wrong in the metrics of each round: nothing earns a reward, the reward function fails, the
    policy has collapsed, replies do not end."""

    def __init__(self, give_up_after: int, max_tokens: int) -> None:
        self._give_up_after = give_up_after
        self._max_tokens = max_tokens
        names = ("zero", "collapsed", "endless", "first_entropy", "same")
        self.counts: dict[str, float] = dict.fromkeys(names, 0.0)

    def check(self, metrics: Mapping[str, float]) -> list[str]:
        """Notices about a round. Raises UserError after `give_up_after` rounds without any reward, and where the reward
        function failed for every reply."""
        if metrics["failed_rewards"] and metrics["failed_rewards"] == metrics["replies"]:
            raise UserError(
                "the reward failed for every reply of a step (the notices above say how), so there is nothing to "
                "learn from: correct the reward function, or the problems",
                setting="reward",
            )
        if self._in_a_row("zero", metrics["nonzero_rewards"] == 0) >= self._give_up_after:
            raise UserError(
                f"not one reply of the last {self._give_up_after} steps earned a reward, so there is nothing to learn "
                "from: take problems the model solves now and then, fine-tune it on such problems first, or check "
                "the reward"
            )
        notices: list[str] = []
        first = self.counts["first_entropy"] = self.counts["first_entropy"] or metrics["entropy"]
        is_same = metrics["equal_groups"] >= SAME and metrics["pass_at_1"] < SAME
        is_collapsed = is_same and metrics["entropy"] < COLLAPSED * first
        is_idle = is_same and not is_collapsed and metrics["nonzero_rewards"] > 0
        if self._in_a_row("same", is_idle) == PATIENCE:
            notices.append(
                f"in {metrics['equal_groups']:.0%} of the groups all replies earn the same, so there is next to "
                "nothing to learn from them: take problems that the model solves now and then, more samples of each, "
                "or a reward that tells replies apart"
            )
        if self._in_a_row("collapsed", is_collapsed) == PATIENCE:
            notices.append(
                f"the model gives nearly the same reply every time (entropy {metrics['entropy']:.4f}, at first "
                f"{first:.4f}) and no longer tries anything new: lower the learning rate, or add a KL penalty"
            )
        if self._in_a_row("endless", metrics["truncated"] >= ENDLESS) == PATIENCE:
            notices.append(
                f"{metrics['truncated']:.0%} of the replies do not end within {self._max_tokens} tokens: "
                "allow longer ones, or add a small format reward"
            )
        return notices

    def _in_a_row(self, name: str, happens: bool) -> float:
        self.counts[name] = self.counts[name] + 1 if happens else 0.0
        return self.counts[name]
