"""The engine's own view of a model: the same network and parameters, with products made for decoding.

A view shares the parameters of the model it is made from, so that what a trainer changes in place shows at once.
Only quantized weights are a copy, which `refresh` brings up to date, in place as well.
"""

import sys
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from chatsmith.backends.native import LANES, Library, Weights
from chatsmith.engine.backend import shared_copy
from chatsmith.model.gpt import GPT, Block, Linear

Quantization = Literal["bf16", "int8"]

MOST_ROWS = 64
"""From more rows on, torch's product is as fast: the work is arithmetic, no longer reading weights."""

FEWEST_OUTPUTS = 64
"""Smaller products (gates) are not worth a call, nor a loss of precision."""


def decoding_view(
    model: GPT, library: Library | None, quantize: Quantization | None = None, *, exact: bool = False
) -> GPT:
    """A view of `model` whose large products, of few rows (`exact`: of any number), run through `library`, where there
    is one.

    `quantize` keeps the weights of those products in fewer bytes: "bf16", or "int8" with a scale a row (symmetric, by
    the largest). What is computed with them is computed in the model's own type.
    """
    rounds = (model.compute_dtype or model.embedding.weight.dtype) == torch.bfloat16
    most_rows = sys.maxsize if exact else MOST_ROWS
    view = shared_copy(model)
    on_cpu = model.embedding.weight.device.type == "cpu"
    for module in list(view.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, Linear) and child.weight[..., 0].numel() >= FEWEST_OUTPUTS:
                kept = library if on_cpu else None
                setattr(module, name, _for_decoding(child, kept, quantize, rounds, most_rows))
    return view


@torch.no_grad()
def refresh(view: GPT, model: GPT) -> None:
    """Quantize the model's present weights into the view's own tensors, where recorded graphs and C look for them."""
    for name, module in view.named_modules():
        if isinstance(module, Int8Linear | StreamedLinear | Linear):
            source: Any = model.get_submodule(name).weight  # no parameter where the architecture fixes it
            if isinstance(module, Int8Linear):
                module.load(source)
            elif module.weight is not source:
                module.weight.copy_(source)


def products(block: nn.Module) -> tuple[nn.Module, ...]:
    """The large products of a block, in the order in which they are taken."""
    assert isinstance(block, Block)
    return (block.attention.qkv, block.attention.out, block.mlp.up, block.mlp.down)


def weight_bytes(view: GPT) -> int:
    """Bytes of the weights that every step of decoding reads: those of the blocks' large products and the head."""
    read = [linear for block in view.blocks for linear in products(block)] + [view.head]
    return sum(tensor.nbytes for linear in read for tensor in (*linear.parameters(), *linear.buffers()))


def _for_decoding(
    linear: Linear, library: Library | None, quantize: Quantization | None, rounds: bool, most_rows: int
) -> nn.Module:
    weight = linear.weight
    usable = library if weight.shape[-1] % LANES == 0 else None
    if quantize == "int8":
        return Int8Linear(weight, usable, rounds, most_rows)
    if quantize == "bf16":
        weight = nn.Parameter(weight.detach().to(torch.bfloat16), requires_grad=False)
    if usable is not None and weight.dtype in (torch.float32, torch.bfloat16):
        return StreamedLinear(weight, usable, rounds, most_rows)
    linear.weight = weight  # of the view, not of the model
    return linear


class StreamedLinear(nn.Module):
    """A Linear whose product with few rows is the library's. `rounds`: the model computes in bf16."""

    def __init__(
        self, weight: nn.Parameter, library: Library, rounds: bool, most_rows: int = MOST_ROWS
    ) -> None:
        super().__init__()
        self._most_rows = most_rows
        self.weight = weight
        self.weights = Weights.of(weight, rounds=rounds)
        self._library = library

    def forward(self, x: Tensor) -> Tensor:
        if x.numel() > self._most_rows * x.shape[-1]:
            return F.linear(x, self.weight.flatten(0, -2).to(x.dtype))
        return _product(self._library, x, self.weights)


class Int8Linear(nn.Module):
    """A Linear with weights rounded to int8: each row in 127ths of its largest."""

    weight: Tensor
    scale: Tensor

    def __init__(
        self, weight: Tensor, library: Library | None, rounds: bool, most_rows: int = MOST_ROWS
    ) -> None:
        super().__init__()
        self._most_rows = most_rows
        rows = weight[..., 0].numel()
        self.register_buffer("scale", torch.empty(rows, device=weight.device))
        self.register_buffer("weight", torch.empty_like(weight.detach().view(rows, -1), dtype=torch.int8))
        self.load(weight)
        self.weights = Weights.of(self.weight, self.scale, rounds=rounds) if library is not None else None
        self._library = library

    def load(self, weight: Tensor) -> None:
        """Round `weight` (..., columns) into the tensors of this module."""
        wide = weight.detach().flatten(0, -2).float()
        self.scale.copy_((wide.abs().amax(dim=1) / 127).clamp(min=1e-12))
        self.weight.copy_((wide / self.scale[:, None]).round())

    def forward(self, x: Tensor) -> Tensor:
        if self._library is None or self.weights is None or x.numel() > self._most_rows * x.shape[-1]:
            return F.linear(x, self.weight.to(x.dtype)) * self.scale.to(x.dtype)
        return _product(self._library, x, self.weights)


def _product(library: Library, x: Tensor, weights: Weights) -> Tensor:
    y = library.linear(x.reshape(-1, x.shape[-1]).float(), weights)
    return y.view(*x.shape[:-1], weights.rows).to(x.dtype)
