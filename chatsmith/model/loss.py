"""The training loss and bits per byte, without ever holding all logits.

At V = 32,768 the logits of one row are 64 times larger than its hidden states, so the head, the softcap and the
cross-entropy are done a few rows at a time, and each chunk's gradients are formed in the forward pass while its
logits are at hand (the idea of Liger Kernel and Apple's Cut Cross-Entropy, arXiv:2411.09009).
"""

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from chatsmith.model.gpt import GPT

IGNORED = -1
"""A target that is not trained on."""

ROWS_PER_CHUNK = 1024
"""1,024 rows of logits at V = 8,192 are 32 MB in float32: they stay near the caches of a desktop CPU."""

FUSED_ROWS = 4096
"""After the first chunk, where a kernel writes the gradient over the logits: of V = 32,768 in bf16 they are 268 MB.
Every chunk adds to the head's gradient, 12 bytes a number, which takes a GPU longer than the product of 1,024 rows."""

ChunkGradient = Callable[[Tensor, Tensor, float, Tensor], tuple[Tensor, Tensor]]
"""Of raw logits (n, V), what they are compared with (n, ...), the softcap and weights (n,): a loss and its gradient."""


def token_losses(model: GPT, hidden: Tensor, targets: Tensor) -> Tensor:
    """Nats of each target, 0 where it is IGNORED: hidden (N, C), targets (N,) -> (N,). Without gradients."""
    with torch.no_grad():
        parts = [
            F.cross_entropy(model.logits(rows), wanted, ignore_index=IGNORED, reduction="none")
            for rows, wanted in zip(hidden.split(ROWS_PER_CHUNK), targets.split(ROWS_PER_CHUNK), strict=True)
        ]
        return torch.cat(parts)


def logprob_gradient(raw: Tensor, targets: Tensor, softcap: float) -> tuple[Tensor, Tensor]:
    """ln p of each target, (n,), and the gradient of -ln p by the raw logits, (n, V): raw (n, V), targets (n,).

    With z = softcap * tanh(raw / softcap):  d(-ln p)/draw = (softmax(z) - onehot) * (1 - (z / softcap)^2).
    """
    raw = raw.to(torch.promote_types(raw.dtype, torch.float32))
    bent = torch.tanh(raw / softcap)  # (n, V)
    capped = softcap * bent
    log_total = torch.logsumexp(capped, dim=-1)  # (n,)
    chosen = capped.gather(1, targets[:, None])[:, 0]
    ids = torch.arange(raw.shape[1], device=raw.device)
    gradient = torch.exp(capped - log_total[:, None]) - (ids[None, :] == targets[:, None]).to(capped.dtype)
    return chosen - log_total, gradient * (1 - bent * bent)


def chunk_gradient(raw: Tensor, targets: Tensor, softcap: float, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Weighted cross-entropy of one chunk and its gradient by the raw logits: targets and weights (n,)."""
    logprobs, gradient = logprob_gradient(raw, targets, softcap)
    return -(logprobs * weights).sum(), (gradient * weights[:, None]).to(raw.dtype)


def divergence_gradient(
    raw: Tensor, wanted: Tensor, targets: Tensor, softcap: float
) -> tuple[Tensor, Tensor]:
    """As `chunk_gradient`, of KL(softmax(wanted) || softmax(z)) wherever z finds the target less likely than wanted
    does; wanted (n, V) are logits after their softcap.

    dloss/draw = (softmax(z) - softmax(wanted)) * (1 - (z / softcap)^2).
    """
    raw, wanted = (x.to(torch.promote_types(x.dtype, torch.float32)) for x in (raw, wanted))
    bent = torch.tanh(raw / softcap)  # (n, V)
    logprobs, wanted_logprobs = (softcap * bent).log_softmax(dim=-1), wanted.log_softmax(dim=-1)
    wanted_probs = wanted_logprobs.exp()
    target = targets.clamp(min=0)[:, None]
    is_rarer = logprobs.gather(1, target) < wanted_logprobs.gather(1, target)
    held = is_rarer & (targets != IGNORED)[:, None]  # (n, 1)
    loss = ((wanted_probs * (wanted_logprobs - logprobs)).sum(dim=-1) * held[:, 0]).sum()
    return loss, (logprobs.exp() - wanted_probs) * (1 - bent * bent) * held


class _ChunkedLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        head: Tensor,
        compared: Tensor,
        weights: Tensor,
        softcap: float,
        gradient_of: ChunkGradient,
    ) -> Tensor:
        cast_head = head.to(hidden.dtype)
        loss = torch.zeros((), dtype=weights.dtype, device=hidden.device)
        hidden_gradient = torch.empty_like(hidden)
        head_gradient = torch.zeros_like(head) if ctx.needs_input_grad[1] else None  # LoRA freezes it
        start, at_once = 0, ROWS_PER_CHUNK
        while start < len(hidden):
            rows = slice(start, start + at_once)
            raw = hidden[rows] @ cast_head.T
            part, gradient = gradient_of(raw, compared[rows], softcap, weights[rows])
            start, at_once = rows.stop, FUSED_ROWS if gradient is raw else at_once
            raw = gradient = gradient.to(hidden.dtype)  # one of them is all that is kept
            loss += part
            hidden_gradient[rows] = gradient @ cast_head
            if head_gradient is not None and head.dtype == hidden.dtype:
                head_gradient.addmm_(gradient.T, hidden[rows])
            elif head_gradient is not None:
                head_gradient += gradient.T @ hidden[rows]
        ctx.save_for_backward(hidden_gradient, head_gradient)
        return loss

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (scale,) = gradients
        of_hidden, of_head = (one if one is None else one * scale for one in ctx.saved_tensors)
        return of_hidden, of_head, None, None, None, None


def chunked_loss(
    model: GPT, hidden: Tensor, compared: Tensor, weights: Tensor, gradient_of: ChunkGradient
) -> Tensor:
    """The sum of what `gradient_of` makes of each chunk of hidden (N, C), `compared` (N, ...) and weights (N,);
    differentiable by `hidden` and the head."""
    weights = weights.to(torch.promote_types(hidden.dtype, torch.float32))
    loss = _ChunkedLoss.apply(hidden, model.head.weight, compared, weights, model.config.softcap, gradient_of)
    assert isinstance(loss, Tensor)
    return loss


def chunked_cross_entropy(
    model: GPT,
    hidden: Tensor,
    targets: Tensor,
    weights: Tensor | None = None,
    gradient_of: ChunkGradient = chunk_gradient,
) -> Tensor:
    """Sum over positions of weight x cross-entropy, differentiable by `hidden` and the head.

    hidden (N, C), targets (N,), weights (N,) or None for the mean over targets that are not IGNORED; ignored
    targets always weigh 0. `gradient_of` may be a compiled `chunk_gradient`, or another kernel with its result, which
    may overwrite the logits that it is given.
    """
    wanted = targets != IGNORED
    if weights is None:
        weights = wanted.to(torch.promote_types(hidden.dtype, torch.float32)) / wanted.sum().clamp(min=1)
    return chunked_loss(model, hidden, targets.clamp(min=0), weights * wanted, gradient_of)


def chunked_divergence(
    model: GPT, hidden: Tensor, reference: GPT, reference_hidden: Tensor, targets: Tensor
) -> Tensor:
    """Sum of KL(reference || model), over the whole vocabulary, over those positions where the model finds the target
    less likely than the reference does; differentiable by `hidden` and the head. Both hidden states are (N, C), targets
    (N,); nothing is compared where they are IGNORED."""

    def gradient_of(raw: Tensor, rows: Tensor, softcap: float, weights: Tensor) -> tuple[Tensor, Tensor]:
        theirs = reference.logits(reference_hidden[rows])
        return divergence_gradient(raw, theirs, targets[rows], softcap)

    rows = torch.arange(len(hidden), device=hidden.device)
    return chunked_loss(model, hidden, rows, hidden.new_ones(len(hidden)), gradient_of)


def bits_per_byte(model: GPT, batches: Iterable[tuple[Tensor, Tensor]], token_byte_lengths: Tensor) -> float:
    """Bits the model spends on a byte of text: sum of nats over targets with bytes / (ln 2 x their bytes).

    `batches` yields (inputs, targets), both (B, T); `token_byte_lengths` (V,) is 0 for special tokens, which
    therefore count on neither side. Comparable between tokenizers, unlike the loss. NaN if there is no byte.
    """
    nats, total_bytes = 0.0, 0
    for inputs, targets in batches:
        with torch.no_grad():
            losses = token_losses(model, model(inputs).flatten(0, 1), targets.flatten())
        byte_lengths = token_byte_lengths[targets.flatten().clamp(min=0)] * (targets.flatten() != IGNORED)
        nats += losses[byte_lengths > 0].cpu().double().sum().item()  # Apple's GPUs know no float64
        total_bytes += int(byte_lengths.sum())
    return nats / (math.log(2) * total_bytes) if total_bytes else math.nan
