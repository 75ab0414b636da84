"""AdamW (Loshchilov & Hutter 2019, arXiv:1711.05101) for what is not a matrix of the blocks.

torch's fused kernel does the arithmetic in one pass; this file only gives its state names.
"""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor


class AdamGroup(NamedTuple):
    """Parameters of one role with their settings."""

    parameters: dict[str, Tensor]
    learning_rate: float
    betas: tuple[float, float]


class AdamW:
    """torch.optim.AdamW over named groups; the schedule scales all learning rates together."""

    def __init__(self, groups: list[AdamGroup]) -> None:
        self.groups = groups
        self.names = [name for group in groups for name in group.parameters]
        settings = [
            {"params": list(named.values()), "lr": rate, "betas": betas} for named, rate, betas in groups
        ]
        # eps far below any gradient here: rare tokens' rows have tiny second moments (nanochat uses the same).
        self.inner = torch.optim.AdamW(settings, eps=1e-10, weight_decay=0.0, fused=True)

    def step(self, scale: float) -> None:
        """Apply one update with every group's learning rate multiplied by `scale`."""
        for group, settings in zip(self.groups, self.inner.param_groups, strict=True):
            settings["lr"] = group.learning_rate * scale
        self.inner.step()

    def named_state(self) -> dict[str, Tensor]:
        """Everything a resumed run needs, by parameter name."""
        state = self.inner.state_dict()["state"]
        return {
            f"adamw.{key}.{self.names[index]}": value
            for index, values in state.items()
            for key, value in values.items()
        }

    def load_named_state(self, state: Mapping[str, Tensor]) -> None:
        """Restore what `named_state` gave; a parameter that had no state has none."""
        positions = {name: index for index, name in enumerate(self.names)}
        restored: dict[int, dict[str, Tensor]] = {}
        for key, value in state.items():
            if key.startswith("adamw."):
                _, field, name = key.split(".", 2)
                restored.setdefault(positions[name], {})[field] = value
        self.inner.load_state_dict(
            {"state": restored, "param_groups": self.inner.state_dict()["param_groups"]}
        )
