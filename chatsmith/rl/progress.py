"""What reinforcement learning carries from step to step besides weights and optimizer: the best weights so far, what
was spent, and what the watch has seen. Saved with the training state, so that a resumed run ends like any other."""

import torch
from torch import Tensor

from chatsmith.model.gpt import GPT
from chatsmith.rl.reward_monitor import Watch


class Progress:
    """`best` is a copy of the weights that answered the development problems best."""

    def __init__(self, watch: Watch) -> None:
        self.watch = watch
        self.best: dict[str, Tensor] = {}
        self.best_score = -1.0
        self.best_step = 0
        self.tokens = 0
        """Sampled tokens that gave a gradient."""
        self.rollout_tokens = 0
        """All tokens of all replies."""
        self.evaluation_seconds = 0.0
        """What asking the development and test problems took, in all sessions."""

    def consider(self, model: GPT, score: float, step: int) -> None:
        """Keep the weights if no earlier ones scored better; of equal ones, the later have practised more."""
        if score >= self.best_score:
            self.best = {name: value.detach().cpu().clone() for name, value in model.state_dict().items()}
            self.best_score, self.best_step = score, step

    def named_state(self) -> dict[str, Tensor]:
        """Everything, by name."""
        numbers = [
            self.best_score,
            self.best_step,
            self.tokens,
            self.rollout_tokens,
            self.evaluation_seconds,
        ]
        state = {f"best.{name}": value for name, value in self.best.items()}
        return state | self.watch.named_state() | {"numbers": torch.tensor(numbers, dtype=torch.float64)}

    def load_named_state(self, state: dict[str, Tensor]) -> None:
        """Restore what `named_state` gave; seconds counted so far in this session stay counted."""
        self.best_score, *counts = state["numbers"].tolist()
        self.best_step, self.tokens, self.rollout_tokens = map(int, counts[:3])
        self.evaluation_seconds += sum(counts[3:])  # a state of an older chatsmith has none
        self.best = {
            name.removeprefix("best."): value for name, value in state.items() if name.startswith("best.")
        }
        self.watch.load_named_state(state)


def blended(start: dict[str, Tensor], best: dict[str, Tensor], share: float) -> dict[str, Tensor]:
    """The weights that lie `share` of the way from `start` to `best`, by name; `best` itself for 1."""
    if share == 1:
        return best
    return {name: torch.lerp(start[name].to(value), value, share) for name, value in best.items()}
