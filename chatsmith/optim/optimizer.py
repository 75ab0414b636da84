"""Which parameter is trained how: every parameter of a GPT has one role, and each role its own settings."""

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields, replace

import torch
from torch import Tensor

from chatsmith.model.gpt import GPT
from chatsmith.optim.adamw import AdamGroup, AdamW
from chatsmith.optim.muon import Muon


@dataclass(frozen=True)
class Rates:
    """Peak learning rates by role, and what else the optimizers need. `make_plan` computes them."""

    matrix: float
    head: float
    embedding: float
    value_embedding: float
    bigram: float
    scalar: float
    gate: float
    weight_decay: float = 0.0
    """Decay of the matrices, in units of their learning rate."""

    def scaled(self, factor: float, shares: Mapping[str, float] | None = None) -> "Rates":
        """All learning rates times `factor`, those of the roles in `shares` times their share as well."""
        changed = {role: getattr(self, role) * factor * (shares or {}).get(role, 1.0) for role in ROLES}
        return replace(self, **changed)


ROLES = tuple(field.name for field in fields(Rates) if field.default is MISSING)
"""The roles are the fields of `Rates` that have no default."""

_ROLE_OF_PART = {
    "blocks": "matrix",
    "head": "head",
    "embedding": "embedding",
    "value_embeddings": "value_embedding",
    "bigram": "bigram",
    "residual_scalars": "scalar",
    "smear_strength": "scalar",
}


def role_of(name: str) -> str:
    """The role of the parameter called `name` in a GPT."""
    return "gate" if "gate" in name else _ROLE_OF_PART[name.split(".")[0]]


def trained_parameters(model: GPT) -> dict[str, Tensor]:
    """Those that are not frozen, by name."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def betas_of(role: str) -> tuple[float, float]:
    """Adam's decay rates: rows of tables are seldom seen, so their second moments look further back."""
    return (0.8, 0.995) if role in ("embedding", "value_embedding", "bigram") else (0.8, 0.95)


def runs_in_bf16(model: GPT) -> bool:
    """Whether the model computes in bf16: then Muon does, too."""
    return model.compute_dtype == torch.bfloat16


def muon_and_adamw(by_role: dict[str, dict[str, Tensor]], rates: Rates, in_bf16: bool) -> tuple[Muon, AdamW]:
    """Muon for the role "matrix", AdamW for the others."""
    matrices = by_role.pop("matrix", {})
    rest = by_role or {"scalar": {}}  # torch's AdamW wants a group, be it empty
    groups = [AdamGroup(named, getattr(rates, role), betas_of(role)) for role, named in rest.items()]
    return Muon(matrices, in_bf16=in_bf16), AdamW(groups)


class Optimizer:
    """Muon for the matrices and AdamW for the rest, driven as one."""

    is_collective = False
    """Whether processes meet in each forward and backward pass, so that all have to do as many."""

    def __init__(self, model: GPT, rates: Rates) -> None:
        self.rates = rates
        self.named: dict[str, Tensor] = trained_parameters(model)
        by_role: dict[str, dict[str, Tensor]] = {}
        for name, parameter in self.named.items():
            by_role.setdefault(role_of(name), {})[name] = parameter
        self.muon, self.adamw = muon_and_adamw(by_role, rates, runs_in_bf16(model))

    def step(self, scale: float, momentum: float, decay_scale: float, loss_scale: float = 1.0) -> None:
        """One update: all learning rates times `scale`, Muon's momentum, and the weight decay times `decay_scale`;
        gradients are divided by `loss_scale`."""
        for parameter in self.named.values() if loss_scale != 1.0 else ():
            if parameter.grad is not None:
                parameter.grad /= loss_scale
        self.muon.step(self.rates.matrix * scale, momentum, self.rates.weight_decay * decay_scale)
        self.adamw.step(scale)

    def last_backward(self) -> None:
        """The next backward pass is the step's last. One process has nothing to send."""

    def start_over(self) -> None:
        """Drop the step's gradients: its backward passes are done again."""
        self.zero_grad()

    def reduce_gradients(self) -> None:
        """All backward passes of the step are done. One process has nothing to sum."""

    def zero_grad(self) -> None:
        """Drop all gradients."""
        for parameter in self.named.values():
            parameter.grad = None

    def named_weights(self) -> dict[str, Tensor]:
        """The weights that this process owns, by parameter name: all."""
        return self.named

    def named_state(self) -> dict[str, Tensor]:
        """Everything a resumed run needs, by parameter name."""
        return self.muon.named_state() | self.adamw.named_state()

    def close(self) -> None:
        """Nothing is left to take back."""

    def load_named_state(self, state: Mapping[str, Tensor]) -> None:
        """Restore what `named_state` gave."""
        self.muon.load_named_state(state)
        self.adamw.load_named_state(state)
