"""Holding a model to itself: nothing at first, a pull back later, the same however texts are cut into batches."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from chatsmith.model.gpt import GPT
from chatsmith.train.distillation import Distillation, HeldText, TextBatch, text_batches

TEXTS = [HeldText([1, 2, 3], 0.25), HeldText([4]), HeldText([5, 6]), HeldText([7, 8, 9, 10], 0.5)]


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


def plain_parts(model: GPT, reference: GPT) -> tuple[Tensor, Tensor]:
    """Text by text, with torch's own operations: what was forgotten, and what the texts say themselves."""
    forgotten = told = torch.zeros((), dtype=torch.float64)
    for ids, truth in TEXTS:
        if len(ids) > 1:
            places = torch.tensor([ids[:-1]])
            mine, theirs = (one.logits(one(places))[0].log_softmax(-1) for one in (model, reference))
            divergence = F.kl_div(mine, theirs.detach(), reduction="sum", log_target=True)
            forgotten = forgotten + (1 - truth) * divergence
            told = told - truth * mine[torch.arange(len(ids) - 1), ids[1:]].sum()
    return forgotten, told


def test_value_and_gradient_are_those_of_the_formula_text_by_text(new_model):
    model, reference = shaken(new_model, 1), shaken(new_model, 2)
    forgotten, told = plain_parts(model, reference)
    (0.25 * 3.0 * (forgotten + told)).backward()
    expected = gradients(model)
    model.zero_grad()
    objective = Distillation(reference, weight=3.0)
    total = 0.0
    for batch in text_batches(TEXTS, 2, 2):
        loss = objective(model, batch, 0.25)
        loss.backward()
        total += loss.item()
    assert total == pytest.approx(0.75 * (forgotten + told).item())
    found = gradients(model)
    assert found.keys() == expected.keys()
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-8, atol=1e-11, msg=name)
    tally = objective.take_tally()
    assert tally == pytest.approx({"held": 2 * 0.75 + 1 + 3 * 0.5, "held_kl": forgotten.item()})
    assert set(objective.take_tally().values()) == {0.0}


def test_a_model_that_forgot_nothing_has_no_gradient(new_model):
    model, reference = shaken(new_model, 1), shaken(new_model, 1)
    (batch,) = text_batches([text._replace(truth=0.0) for text in TEXTS], 4, 1)
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
    held = [HeldText(ids, len(ids) / 10) for ids in texts]
    most = max(map(len, texts), default=1) - 1 + room
    batches = text_batches(held, rows, count, multiple=multiple, most_inputs=most)
    assert len(batches) == count
    found = []
    for batch in batches:
        assert len(batch.inputs) <= rows and batch.inputs.shape == batch.targets.shape == batch.truth.shape
        longest = int((batch.targets >= 0).sum(dim=1).max()) if len(batch.targets) else 0
        assert batch.inputs.shape[1] <= most
        assert batch.inputs.shape[1] in (longest, -(-longest // multiple) * multiple, most)
        assert isinstance(batch.to(torch.device("cpu")), TextBatch)
        for inputs, targets, truth in zip(*batch, strict=True):
            length = int((targets >= 0).sum())
            found.append([*inputs[:1].tolist(), *targets[:length].tolist()])
            assert inputs[1:length].tolist() == targets[: max(length - 1, 0)].tolist()
            assert (inputs[length:] == 0).all() and (targets[length:] == -1).all()
            assert (truth * 10).round().tolist() == [length + 1] * len(truth)
    longer = [text for text in texts if len(text) > 1]
    assert sorted(one for one in found if len(one) > 1) == sorted(longer)
    assert sum(batch.num_targets for batch in batches) == sum(len(text) - 1 for text in texts)
