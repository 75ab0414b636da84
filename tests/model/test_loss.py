"""The hand-written loss is the plain one: in value, in every gradient, and for whatever is not trained on."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from chatsmith.model import loss as loss_module
from chatsmith.model.config import GPTConfig
from chatsmith.model.gpt import GPT
from chatsmith.model.loss import (
    IGNORED,
    bits_per_byte,
    chunked_cross_entropy,
    chunked_divergence,
    token_losses,
)

ROWS = 23  # with chunks of 7 the last one is shorter


@pytest.fixture
def small_chunks(monkeypatch):
    monkeypatch.setattr(loss_module, "ROWS_PER_CHUNK", 7)


def example(model: GPT, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    """Hidden states large enough to reach the bend of the softcap, targets of which some are ignored, weights."""
    generator = torch.Generator().manual_seed(1)
    hidden = 4 * torch.randn(ROWS, model.config.model_dim, generator=generator)
    targets = torch.randint(model.config.vocab_size, (ROWS,), generator=generator)
    targets[[0, 8, ROWS - 1]] = IGNORED
    weights = torch.rand(ROWS, generator=generator, dtype=torch.float64)
    return hidden.to(dtype).requires_grad_(), targets, weights


def plain_loss(model: GPT, hidden: Tensor, targets: Tensor, weights: Tensor | None) -> Tensor:
    """What torch makes of it, with all logits at once."""
    losses = F.cross_entropy(model.logits(hidden), targets, ignore_index=IGNORED, reduction="none")
    return losses.sum() / (targets != IGNORED).sum() if weights is None else (losses * weights).sum()


def gradients(model: GPT, loss: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
    # Times 3, so that a gradient that ignores what comes after the loss is seen.
    return torch.autograd.grad(3 * loss, (hidden, model.head.weight))


@pytest.mark.parametrize("weighted", [False, True])
def test_a_gradient_written_over_the_logits_gets_larger_chunks_and_gives_the_same(
    random_model, small_chunks, monkeypatch, weighted
):
    monkeypatch.setattr(loss_module, "FUSED_ROWS", 11)
    model, rows = random_model(), []
    hidden, targets, weights = example(model)

    def in_place(raw, *rest):
        rows.append(len(raw))
        loss, gradient = loss_module.chunk_gradient(raw, *rest)
        return loss, raw.copy_(gradient)

    given = weights if weighted else None
    found, wanted = (
        gradients(model, chunked_cross_entropy(model, hidden, targets, given, gradient_of), hidden)
        for gradient_of in (in_place, loss_module.chunk_gradient)
    )
    assert rows == [7, 11, 5]
    for ours, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("weighted", [False, True])
def test_loss_and_gradients_equal_the_plain_ones(random_model, small_chunks, weighted):
    model = random_model()
    hidden, targets, weights = example(model)
    given = weights if weighted else None
    written = chunked_cross_entropy(model, hidden, targets, given)
    plain = plain_loss(model, hidden, targets, given)
    torch.testing.assert_close(written, plain, rtol=1e-12, atol=0)
    for ours, theirs in zip(gradients(model, written, hidden), gradients(model, plain, hidden), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)


def test_divergence_and_gradients_equal_the_plain_ones(random_model, small_chunks):
    model, reference = random_model(), random_model()
    with torch.no_grad():
        reference.head.weight += 0.3
    hidden, targets, _ = example(model)
    theirs = hidden.detach() + 0.5
    written = chunked_divergence(model, hidden, reference, theirs, targets)
    logprobs = [one.logits(x).log_softmax(dim=-1) for one, x in ((model, hidden), (reference, theirs))]
    each = F.kl_div(logprobs[0], logprobs[1].detach(), reduction="none", log_target=True).sum(dim=-1)
    is_worse = torch.tensor(
        [
            target != IGNORED and bool(mine[target] < wanted[target])
            for target, mine, wanted in zip(targets.tolist(), *logprobs, strict=True)
        ]
    )
    assert 0 < is_worse.sum() < (targets != IGNORED).sum() < len(targets)
    plain = each[is_worse].sum()
    assert plain > 0.1
    torch.testing.assert_close(written, plain, rtol=1e-12, atol=0)
    for ours, theirs in zip(gradients(model, written, hidden), gradients(model, plain, hidden), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)


def test_bf16_activations_keep_the_gradient_of_float32_masters(random_model, small_chunks):
    exact = random_model()
    hidden, targets, weights = example(exact)
    expected = gradients(exact, plain_loss(exact, hidden, targets, weights), hidden)
    model = random_model(dtype=torch.float32)
    rounded = hidden.detach().bfloat16().requires_grad_()
    found = gradients(model, chunked_cross_entropy(model, rounded, targets, weights), rounded)
    assert [gradient.dtype for gradient in found] == [torch.bfloat16, torch.float32]
    for ours, theirs in zip(found, expected, strict=True):
        assert (ours.double() - theirs).norm() < 0.03 * theirs.norm()


def test_nothing_to_train_on_is_no_loss_and_no_gradient(random_model):
    model = random_model()
    hidden, targets, _ = example(model)
    loss = chunked_cross_entropy(model, hidden, torch.full_like(targets, IGNORED))
    assert loss.item() == 0
    assert all(gradient.abs().max() == 0 for gradient in gradients(model, loss, hidden))


def test_token_losses_are_those_of_each_target(random_model, small_chunks):
    model = random_model()
    hidden, targets, _ = example(model)
    losses = token_losses(model, hidden, targets)
    for row in range(ROWS):
        expected = 0.0
        if targets[row] != IGNORED:
            expected = -model.logits(hidden[row]).log_softmax(-1)[targets[row]].item()
        assert losses[row].item() == pytest.approx(expected, rel=1e-12)
    assert not losses.requires_grad


@pytest.fixture
def undecided() -> GPT:
    """A model that gives each of 8 ids the same probability: every target costs 3 bits."""
    model = GPT(GPTConfig(vocab_size=8, context_length=4, num_layers=1, num_heads=1, head_dim=16))
    model.init_weights(torch.Generator().manual_seed(0))
    torch.nn.init.zeros_(model.head.weight)
    return model


def test_bits_per_byte_is_bits_of_text_over_bytes_of_text(undecided):
    lengths = torch.tensor([1, 2, 3, 4, 5, 6, 7, 0])  # id 7 is special: no text
    batches = [
        (torch.zeros(1, 4, dtype=torch.int64), torch.tensor([[0, 2, 7, IGNORED]])),  # 2 tokens, 4 bytes
        (torch.zeros(2, 2, dtype=torch.int64), torch.tensor([[5, 7], [IGNORED, 1]])),  # 2 tokens, 8 bytes
    ]
    assert bits_per_byte(undecided, batches, lengths) == pytest.approx(4 * 3 / 12, rel=1e-6)


def test_bits_per_byte_of_no_text_is_not_a_number(undecided):
    batches = [(torch.zeros(1, 2, dtype=torch.int64), torch.tensor([[7, IGNORED]]))]
    assert math.isnan(bits_per_byte(undecided, batches, torch.tensor([1] * 7 + [0])))
