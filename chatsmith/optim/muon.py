"""Muon: momentum, orthogonalized, for the matrices of the blocks.

Jordan et al. 2024 (kellerjordan.github.io/posts/muon) with three refinements that pay at no cost in tokens:
the Polar Express polynomials (Amsel et al. 2025, arXiv:2505.16932) instead of a fixed Newton-Schulz step; NorMuon's
second moment per output neuron (Li et al. 2025, arXiv:2510.05491); and cautious weight decay (Chen et al. 2025,
arXiv:2510.12402), which only shrinks weights that the update shrinks too.

Matrices of one shape are stacked and orthogonalized together, and a parameter of shape (3, m, n) counts as three.
In float32 the iteration runs on the small m x m Gram matrix, so that the long side is touched twice and not ten times.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping

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


STACKED_NUMBERS = 2**26
"""On a GPU about so many numbers are orthogonalized at once (0.25 GB): enough to keep it busy, and memory is scarce."""


VARIANCE_DECAY = 0.9
"""How much of NorMuon's second moments stays after a step."""


def orthogonalize(matrices: Tensor, in_bf16: bool = False) -> Tensor:
    """The nearest semi-orthogonal matrix, roughly, to each of matrices (..., m, n): all singular values near 1.

    With X the scaled input (m <= n) and A = X X^T, every iterate is Q X for a polynomial Q of A, so only m x m
    products are needed until the end. That takes float32: on a Gram matrix TF32 makes singular values of 2.2 and bf16
    explodes. With `in_bf16` every iterate is made from the one before, which forgives rounding: more arithmetic, for
    processors that multiply bf16 two or 15 times as fast. What it adds is 1 to 4 % of the update (docs/lab-log.md).
    """
    x = matrices.float().flatten(0, -3) if matrices.dim() > 2 else matrices.float()[None]
    tall = x.shape[-2] > x.shape[-1]
    if tall:
        x = x.mT
    x = x / (x.norm(dim=(-2, -1), keepdim=True) * 1.01 + 1e-7)
    x = _iterate(x.bfloat16()) if in_bf16 else _iterate_gram(x)
    return (x.mT if tall else x).reshape(matrices.shape).to(matrices.dtype)


def _iterate(x: Tensor) -> Tensor:
    for a, b, c in POLAR_EXPRESS:
        gram = x @ x.mT
        # Added before the product is rounded: half the error.
        factor = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        x = torch.baddbmm(x, factor, x, beta=a)
    return x


def _iterate_gram(x: Tensor) -> Tensor:
    gram = x @ x.mT
    factor: Tensor | None = None
    total: Tensor | None = None
    for a, b, c in POLAR_EXPRESS:
        if factor is not None:
            gram = factor @ gram @ factor
        factor = c * (gram @ gram) + b * gram
        factor.diagonal(dim1=-2, dim2=-1).add_(a)
        total = factor if total is None else total @ factor
    assert total is not None
    return total @ x


def move(weights: Tensor, update: Tensor, rate: float, decay: float) -> None:
    """Change weights, or some of their rows, by `-rate * update`; decay only what the update makes smaller."""
    if decay:
        weights -= decay * weights * (update * weights >= 0)
    weights.add_(update, alpha=-rate)


def rate_of(shape: torch.Size, learning_rate: float) -> float:
    """The learning rate of a matrix of `shape` (m, n): tall ones take larger steps."""
    return learning_rate * max(1.0, shape[0] / shape[1]) ** 0.5


class Muon:
    """The optimizer of all matrix parameters. `parameters` maps names to tensors of shape (..., m, n); `in_bf16`: see
    `orthogonalize`."""

    def __init__(self, parameters: dict[str, Tensor], *, in_bf16: bool = False) -> None:
        self.parameters, self.in_bf16 = parameters, in_bf16
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
        by_shape: dict[torch.Size, list[str]] = defaultdict(list)
        for name, parameter in self.parameters.items():
            if parameter.grad is not None:
                by_shape[parameter.shape[-2:]].append(name)
        for shape, names in by_shape.items():
            size = len(names)
            if self.parameters[names[0]].device.type == "cuda":
                size = max(1, STACKED_NUMBERS // self.parameters[names[0]].numel())
            rate = rate_of(shape, learning_rate)
            for start in range(0, len(names), size):
                self._step_together(names[start : start + size], shape, momentum, rate, weight_decay)

    def _step_together(
        self, names: list[str], shape: torch.Size, momentum: float, rate: float, weight_decay: float
    ) -> None:
        gradients = {name: gradient for name in names if (gradient := self.parameters[name].grad) is not None}
        for name, update in self.updates_from(gradients, shape, momentum):
            move(self.parameters[name], update, rate, rate * weight_decay)

    def updates_from(
        self, gradients: Mapping[str, Tensor], shape: torch.Size, momentum: float
    ) -> Iterator[tuple[str, Tensor]]:
        """Names and updates, before the learning rate, of matrices of one `shape` (m, n), from whole gradients."""
        directions = []
        for name, gradient in gradients.items():
            self.momenta[name].lerp_(gradient, 1 - momentum)
            # Nesterov: look one step ahead along the momentum.
            directions.append(gradient.lerp(self.momenta[name], momentum).view(-1, *shape))
        stacked = orthogonalize(torch.cat(directions), self.in_bf16)
        for name, update in zip(gradients, stacked.split([len(d) for d in directions]), strict=True):
            update = update.view_as(self.momenta[name])
            # NorMuon: rows with large updates are damped, and the whole keeps its norm.
            variance = self.variances[name]
            variance.lerp_(update.square().mean(dim=-1, keepdim=True), 1 - VARIANCE_DECAY)
            corrected = variance / (1 - VARIANCE_DECAY**self.updates)
            size = update.norm(dim=(-2, -1), keepdim=True)
            update = update * corrected.clamp(min=1e-10).rsqrt()
            yield name, update * (size / update.norm(dim=(-2, -1), keepdim=True).clamp(min=1e-10))

    def named_state(self) -> dict[str, Tensor]:
        """Everything a resumed run needs, by parameter name."""
        state = {f"muon.momentum.{name}": value for name, value in self.momenta.items()}
        state |= {f"muon.variance.{name}": value for name, value in self.variances.items()}
        state["muon.updates"] = torch.tensor(self.updates)
        return state

    def load_named_state(self, state: Mapping[str, Tensor]) -> None:
        """Restore what `named_state` gave. Raises KeyError for a missing name."""
        for name in self.parameters:
            self.momenta[name].copy_(state[f"muon.momentum.{name}"])
            self.variances[name].copy_(state[f"muon.variance.{name}"])
        self.updates = int(state["muon.updates"])
