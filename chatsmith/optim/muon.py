"""Muon: momentum, orthogonalized, for the matrices of the blocks.

Jordan et al. 2024 (kellerjordan.github.io/posts/muon) with three refinements that pay at no cost in tokens:
the Polar Express polynomials (Amsel et al. 2025, arXiv:2505.16932) instead of a fixed Newton-Schulz step; NorMuon's
second moment per output neuron (Li et al. 2025, arXiv:2510.05491); and cautious weight decay (Chen et al. 2025,
arXiv:2510.12402), which only shrinks weights that the update shrinks too.

Matrices of one shape are stacked and orthogonalized together, and a parameter of shape (3, m, n) counts as three.
The iteration runs on the small m x m Gram matrix, so that the long side is touched twice and not ten times.
"""

from collections import Counter, defaultdict

import torch
from torch import Tensor

POLAR_EXPRESS = (
    (8.156554524902461, -22.48329292557795, 15.878769915207462),
    (4.042929935166739, -2.808917465908714, 0.5000178451051316),
    (3.8916678022926607, -2.772484153217685, 0.5060648178503393),
    (3.285753657755655, -2.3681294933425376, 0.46449024233003106),
    (2.3465413258596377, -1.7097828382687081, 0.42323551169305323),
)
"""Coefficients (a, b, c) of the odd quintic polynomials, optimal in sequence for singular values in [0.001, 1]."""


MOST_AT_ONCE_ON_GPU = 2**24
"""Numbers that a GPU orthogonalizes at once: nine times as many are in memory, and its products fill it anyway. A CPU
takes all of a shape."""


def orthogonalize(matrices: Tensor, steps: int = 5) -> Tensor:
    """The nearest semi-orthogonal matrix, roughly, to each of matrices (..., m, n): all singular values near 1.

    With X the scaled input (m <= n) and A = X X^T, every iterate is Q X for a polynomial Q of A, so only m x m
    products are needed until the end. In float32: on a Gram matrix bf16 loses the small singular values.
    """
    x = matrices.float()
    tall = x.shape[-2] > x.shape[-1]
    if tall:
        x = x.mT
    x = x / (x.norm(dim=(-2, -1), keepdim=True) * 1.01 + 1e-7)
    gram = x @ x.mT
    total: Tensor | None = None
    for step, (a, b, c) in enumerate(POLAR_EXPRESS[:steps]):
        factor = c * (gram @ gram) + b * gram
        factor.diagonal(dim1=-2, dim2=-1).add_(a)
        total = factor if total is None else total @ factor
        if step + 1 < steps:
            gram = factor @ gram @ factor
    assert total is not None
    x = total @ x
    return (x.mT if tall else x).to(matrices.dtype)


class Muon:
    """The optimizer of all matrix parameters. `parameters` maps names to tensors of shape (..., m, n)."""

    def __init__(self, parameters: dict[str, Tensor], *, variance_decay: float = 0.9, steps: int = 5) -> None:
        self.parameters = parameters
        self.variance_decay = variance_decay
        self.steps = steps
        self.momenta = {name: torch.zeros_like(p) for name, p in parameters.items()}
        self.variances = {name: torch.zeros_like(p[..., :1]) for name, p in parameters.items()}
        self.updates = 0

    @torch.no_grad()
    def step(self, learning_rate: float, momentum: float, weight_decay: float) -> None:
        """Apply one update from the `.grad` of every parameter.

        `learning_rate` is the root-mean-square step of a square matrix's rows in units of 1/sqrt(n), scaled by
        sqrt(m / n) for tall ones; `weight_decay` multiplies it.
        """
        self.updates += 1
        by_shape: dict[tuple[int, int, int], list[str]] = defaultdict(list)
        counted: Counter[tuple[int, int]] = Counter()
        for name, parameter in self.parameters.items():
            if parameter.grad is not None:
                rows, columns = parameter.shape[-2:]
                turn = counted[rows, columns] // MOST_AT_ONCE_ON_GPU if parameter.is_cuda else 0
                by_shape[rows, columns, turn].append(name)
                counted[rows, columns] += parameter.numel()
        for (rows, columns, _), names in by_shape.items():
            directions = []
            for name in names:
                gradient = self.parameters[name].grad
                assert gradient is not None
                self.momenta[name].lerp_(gradient, 1 - momentum)
                # Nesterov: look one step ahead along the momentum.
                directions.append(gradient.lerp(self.momenta[name], momentum).view(-1, rows, columns))
            stacked = orthogonalize(torch.cat(directions), self.steps)
            rate = learning_rate * max(1.0, rows / columns) ** 0.5
            for name, update in zip(names, stacked.split([len(d) for d in directions]), strict=True):
                self._apply(name, update.view_as(self.parameters[name]), rate, rate * weight_decay)

    def _apply(self, name: str, update: Tensor, rate: float, decay: float) -> None:
        # NorMuon: rows with large updates are damped, and the whole keeps its norm.
        variance = self.variances[name]
        variance.lerp_(update.square().mean(dim=-1, keepdim=True), 1 - self.variance_decay)
        corrected = variance / (1 - self.variance_decay**self.updates)
        size = update.norm(dim=(-2, -1), keepdim=True)
        update = update * corrected.clamp(min=1e-10).rsqrt()
        update = update * (size / update.norm(dim=(-2, -1), keepdim=True).clamp(min=1e-10))
        parameter = self.parameters[name]
        if decay:
            parameter -= decay * parameter * (update * parameter >= 0)
        parameter.add_(update, alpha=-rate)

    def named_state(self) -> dict[str, Tensor]:
        """Everything a resumed run needs, by parameter name."""
        state = {f"muon.momentum.{name}": value for name, value in self.momenta.items()}
        state |= {f"muon.variance.{name}": value for name, value in self.variances.items()}
        state["muon.updates"] = torch.tensor(self.updates)
        return state

    def load_named_state(self, state: dict[str, Tensor]) -> None:
        """Restore what `named_state` gave. Raises KeyError for a missing name."""
        for name in self.parameters:
            self.momenta[name].copy_(state[f"muon.momentum.{name}"])
            self.variances[name].copy_(state[f"muon.variance.{name}"])
        self.updates = int(state["muon.updates"])
