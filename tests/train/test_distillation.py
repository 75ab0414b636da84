"""Holding a model to itself: nothing at first, a pull back later, the same however texts are cut into batches."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from chatsmith.model.gpt import GPT
from chatsmith.train.distillation import Distillation, TextBatch, text_batches

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


def plain_divergence(model: GPT, reference: GPT, texts: list[list[int]]) -> Tensor:
    """Text by text, with torch's own operations."""
    total = torch.zeros((), dtype=torch.float64)
    for text in filter(lambda text: len(text) > 1, texts):
        mine, theirs = (
            one.logits(one(torch.tensor([text[:-1]])))[0].log_softmax(-1) for one in (model, reference)
        )
        total = total + F.kl_div(mine, theirs.detach(), reduction="sum", log_target=True)
    return total


def test_value_and_gradient_are_those_of_the_divergence_text_by_text(new_model):
    model, reference = shaken(new_model, 1), shaken(new_model, 2)
    (0.25 * 3.0 * plain_divergence(model, reference, TEXTS)).backward()
    expected = gradients(model)
    model.zero_grad()
    objective = Distillation(reference, weight=3.0)
    total = 0.0
    for batch in text_batches(TEXTS, 2, 2):
        loss = objective(model, batch, 0.25)
        loss.backward()
        total += loss.item()
    assert total == pytest.approx(0.75 * plain_divergence(model, reference, TEXTS).item())
    found = gradients(model)
    assert found.keys() == expected.keys()
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-8, atol=1e-11, msg=name)
    tally = objective.take_tally()
    assert tally["held"] == 6 and tally["held_kl"] == pytest.approx(total / 0.75)
    assert set(objective.take_tally().values()) == {0.0}


def test_a_model_that_forgot_nothing_has_no_gradient(new_model):
    model, reference = shaken(new_model, 1), shaken(new_model, 1)
    (batch,) = text_batches(TEXTS, 4, 1)
    loss = Distillation(reference, weight=3.0)(model, batch, 1.0)
    loss.backward()
    assert abs(loss.item()) < 1e-12
    assert max(gradient.abs().max().item() for gradient in gradients(model).values()) < 1e-12


def test_the_reference_stays_as_it_is(new_model):
    model, reference = shaken(new_model, 1), shaken(new_model, 2)
    (batch,) = text_batches(TEXTS, 4, 1)
    Distillation(reference, weight=1.0)(model, batch, 1.0).backward()
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
    most = max(map(len, texts), default=1) - 1 + room
    batches = text_batches(texts, rows, count, multiple=multiple, most_inputs=most)
    assert len(batches) == count
    found = []
    for batch in batches:
        assert len(batch.inputs) <= rows and batch.inputs.shape == batch.is_text.shape
        longest = int(batch.is_text.sum(dim=1).max()) if len(batch.inputs) else 0
        assert batch.inputs.shape[1] <= most
        assert batch.inputs.shape[1] in (longest, -(-longest // multiple) * multiple, most)
        assert isinstance(batch.to(torch.device("cpu")), TextBatch)
        found += [ids[kept].tolist() for ids, kept in zip(batch.inputs, batch.is_text, strict=True)]
        assert (batch.inputs[~batch.is_text] == 0).all()
    assert sorted(found) == sorted(text[:-1] for text in texts)
    assert sum(batch.num_targets for batch in batches) == sum(len(text) - 1 for text in texts)
