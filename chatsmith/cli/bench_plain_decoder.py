"""The plain way to decode, which the engine is measured against: one batch that starts, advances and ends together.

A contiguous cache, every row at the same position, torch's operations, no scheduler: what a first implementation
looks like (nanochat's is of this kind). Nothing but benchmarks and tests uses it.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from chatsmith.model.attention import attention_scale
from chatsmith.model.gpt import GPT


class PlainCache:
    """Keys and values of all rows, (L, B, H, T, D); called as the model's `attend`."""

    def __init__(self, model: GPT, batch: int, length: int) -> None:
        config = model.config
        assert not any(config.windows), "windows are not its business"
        shape = (config.num_layers, batch, config.num_heads, length, config.head_dim)
        weight = model.embedding.weight
        self._keys, self._values = (
            torch.empty(shape, dtype=model.compute_dtype or weight.dtype, device=weight.device)
            for _ in range(2)
        )
        self.length = 0
        """Positions filled, before the tokens of this pass."""

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Attend; q, k, v and the result are (B, T, H, D)."""
        q, k, v = (x.transpose(1, 2) for x in (q, k, v))
        end = self.length + q.shape[2]
        self._keys[layer, :, :, self.length : end] = k
        self._values[layer, :, :, self.length : end] = v
        keys, values = self._keys[layer, :, :, :end], self._values[layer, :, :, :end]
        scale = attention_scale(q.shape[-1])
        is_whole = q.shape[2] == end
        assert is_whole or q.shape[2] == 1
        y = F.scaled_dot_product_attention(q, keys, values, is_causal=is_whole and end > 1, scale=scale)
        return y.transpose(1, 2)


@torch.inference_mode()
def decode_plainly(
    model: GPT, prompts: Sequence[Sequence[int]], num_new: int, *, samples: bool = False
) -> list[list[int]]:
    """The most likely `num_new` ids after each prompt, or sampled ones; all prompts are of one length."""
    tokens = torch.tensor([list(prompt) for prompt in prompts], device=model.embedding.weight.device)
    cache = PlainCache(model, len(tokens), tokens.shape[1] + num_new)
    hidden = model(tokens, attend=cache)[:, -1]
    cache.length = tokens.shape[1]
    previous = tokens[:, -1:]
    found: list[Tensor] = []
    for index in range(num_new):
        logits = model.logits(hidden)
        chosen = logits.softmax(-1).multinomial(1) if samples else logits.argmax(-1, keepdim=True)
        found.append(chosen)
        if index + 1 < num_new:
            positions = torch.full_like(chosen, cache.length)
            hidden = model(chosen, previous=previous, positions=positions, attend=cache)[:, -1]
            cache.length += 1
            previous = chosen
    return torch.cat(found, dim=1).tolist()
