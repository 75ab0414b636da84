"""The blocks' products in fp8 (Micikevicius et al. 2022, arXiv:2209.05433), by torchao: up to twice the rate of bf16.

Inputs, weights and gradients are scaled by the largest number of each tensor and rounded to float8 before each of the
three products of a linear layer. Master weights, what else a block computes, embeddings, head and optimizer stay as
they are, and so does all that is computed without gradients: evaluations measure the model that the bundle will hold.
"""

# torchao is optional.
# pyright: reportMissingImports=false

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from chatsmith.backends.lora import large_products
from chatsmith.model.gpt import GPT
from chatsmith.runtime.errors import UserError


def fp8_products(device: torch.device, emulate: bool = False) -> Callable[[GPT], None]:
    """What makes a model on `device` train in fp8; `emulate` rounds as fp8 does and multiplies in float32, anywhere.

    Raises UserError where the hardware has no fp8 or torchao is missing, and, later, for sizes that it cannot multiply.
    """
    has_fp8 = device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 9)
    if not has_fp8 and not emulate:
        raise UserError(
            f"fp8 needs an NVIDIA GPU of the Ada or Hopper generation or newer; this is {device}",
            setting="fp8",
        )
    try:
        from torchao.float8 import Float8LinearConfig
        from torchao.float8.float8_linear import Float8Linear, matmul_with_hp_or_float8_args
    except ImportError:
        raise UserError("fp8 needs a package: pip install 'chatsmith[fp8]'", setting="fp8") from None
    # torchao converts nn.Linear alone, whose weight is one matrix; ours may be three, so its product is called instead.
    config = Float8LinearConfig(emulate=emulate)
    settings = Float8Linear(16, 16, bias=False, config=config, device="meta").linear_mm_config

    def product(x: Tensor, weight: Tensor) -> Tensor:
        if not torch.is_grad_enabled():
            return F.linear(x, weight)
        return matmul_with_hp_or_float8_args.apply(x, weight.t(), settings, config)  # pyright: ignore[reportReturnType]

    def convert(model: GPT) -> None:
        shape = model.config
        if any(size % 16 for size in (shape.model_dim, shape.mlp_dim, shape.context_length)):
            raise UserError("fp8 takes a width and a sequence length that are multiples of 16", setting="fp8")
        for _, _, linear in large_products(model):
            linear.product = product

    return convert
