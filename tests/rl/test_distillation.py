"""Holding a model to itself: nothing at first, a pull back later, the same however texts are cut into batches."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from chatsmith.model.gpt import GPT
from chatsmith.rl.objective import Tally, TextBatch, distillation, text_batches

TEXTS = [[1, 2, 3], [4], [5, 6], [7, 8, 9, 10]]


def shaken(new_model, seed: int) -> GPT:
    """Every parameter random, so that none is out of the gradient's reach."""
    model = new_model(torch.float64, seed)
    generator = torch.Generator().manual_seed(seed + 100)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    return model


def gradients(model: GPT) -> dict[str, Tensor]:
    return {name: one.grad for name, one in model.named_parameters() if one.grad is not None}


def plain_divergence(model: GPT, reference: GPT, rows: list[list[list[int]]]) -> Tensor:
    """Row by row of texts, with torch's own operations."""
    total = torch.zeros((), dtype=torch.float64)
    for row in rows:
        ids = torch.tensor([[id for text in row for id in text]])
        mine, theirs = (one.logits(one(ids))[0].log_softmax(-1) for one in (model, reference))
        goes_on = torch.tensor([place < len(text) - 1 for text in row for place in range(len(text))])
        following = ids[0].roll(-1)[:, None]
        held = goes_on & (mine.gather(1, following) < theirs.gather(1, following))[:, 0]
        total = total + F.kl_div(mine[held], theirs[held].detach(), reduction="sum", log_target=True)
    return total


ROWS = [[[7, 8, 9, 10], [4]], [[1, 2, 3], [5, 6]]]
"""The texts in rows of five, best fit."""


def test_value_and_gradient_are_those_of_the_divergence_row_by_row(new_model):
    model, reference = shaken(new_model, 1), shaken(new_model, 2)
    (0.25 * 3.0 * plain_divergence(model, reference, ROWS)).backward()
    expected = gradients(model)
    model.zero_grad()
    tally = Tally()
    total = 0.0
    for batch in text_batches(TEXTS, 5, 1, 4):
        loss = distillation(model, batch, 0.25, tally, reference, weight=3.0)
        loss.backward()
        total += loss.item()
    assert total == pytest.approx(0.75 * plain_divergence(model, reference, ROWS).item())
    found = gradients(model)
    assert found.keys() == expected.keys()
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-8, atol=1e-11, msg=name)
    assert tally.held == 6 and tally.held_kl == pytest.approx(total / 0.75)


def test_a_model_that_forgot_nothing_has_no_gradient(new_model):
    model, reference = shaken(new_model, 1), shaken(new_model, 1)
    (batch,) = text_batches(TEXTS, 4, 4, 1)
    loss = distillation(model, batch, 1.0, Tally(), reference, weight=3.0)
    loss.backward()
    assert abs(loss.item()) < 1e-12
    assert max(gradient.abs().max().item() for gradient in gradients(model).values()) < 1e-12


def test_a_text_that_is_found_likelier_than_before_does_not_hold_the_model(new_model):
    """To become surer of what stands there is not to forget: the same text pulls one way and not the other."""
    reference = new_model(torch.float64, 1)
    text = [[3, 3, 3, 3, 3]]
    likelier, rarer = new_model(torch.float64, 1), new_model(torch.float64, 1)
    hidden = reference(torch.tensor([text[0][:-1]]))[0].mean(dim=0)
    with torch.no_grad():
        likelier.head.weight[3] += 0.1 * hidden
        rarer.head.weight[3] -= 0.1 * hidden
    found = [
        distillation(one, *text_batches(text, 5, 1, 1), 1.0, Tally(), reference, weight=1.0).item()
        for one in (likelier, rarer)
    ]
    assert found[0] == 0 and found[1] > 1e-4


def test_the_reference_stays_as_it_is(new_model):
    model, reference = shaken(new_model, 1), shaken(new_model, 2)
    (batch,) = text_batches(TEXTS, 4, 4, 1)
    distillation(model, batch, 1.0, Tally(), reference, weight=1.0).backward()
    assert gradients(model) and not gradients(reference)


@settings(max_examples=50, deadline=None)
@given(
    texts=st.lists(st.lists(st.integers(1, 9), min_size=1, max_size=9), max_size=9),
    rows=st.integers(1, 4),
    spare=st.integers(0, 2),
    multiple=st.integers(1, 5),
    room=st.integers(0, 4),
)
def test_every_text_is_in_one_batch_once_and_padding_is_not_text(texts, rows, spare, multiple, room):
    count = -(-len(texts) // rows) + spare
    longest = max(map(len, texts), default=1) + room
    batches = text_batches(texts, longest, rows, count, multiple=multiple)
    assert len(batches) == count
    found = []
    for batch in batches:
        assert len(batch.inputs) <= rows and batch.inputs.shape == batch.goes_on.shape
        width = batch.inputs.shape[1]
        assert width <= longest and (width % multiple == 0 or width == longest)
        assert isinstance(batch.to(torch.device("cpu")), TextBatch)
        for ids, goes_on in zip(batch.inputs.tolist(), batch.goes_on.tolist(), strict=True):
            text: list[int] = []
            for id, follows in zip(ids, goes_on, strict=True):
                text += [id] if id else []  # no id of a text is 0
                assert id or not follows, "padding is not text"
                if not follows and text:
                    found.append(text)
                    text = []
    assert sorted(found) == sorted(texts)
    assert sum(batch.num_targets for batch in batches) == sum(len(text) - 1 for text in texts)


def test_texts_share_rows_instead_of_padding_them():
    """Six texts of 10 to 60 ids: 210 of 256 places, where a row each would take 360."""
    (batch,) = text_batches([[1] * length for length in range(10, 61, 10)], 128, 6, 1, multiple=16)
    assert batch.inputs.shape == (2, 128)
