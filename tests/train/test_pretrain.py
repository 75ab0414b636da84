"""A new model is trained as `chatsmith plan` says, and a trained one as fine-tuning is."""

from types import SimpleNamespace
from typing import Any

import pytest

from chatsmith.model.gpt import GPT
from chatsmith.train import trainer
from chatsmith.train.plan import make_plan
from chatsmith.train.pretrain import pretrain
from chatsmith.train.trainer import TrainingSettings


@pytest.mark.parametrize("is_new", [True, False])
def test_weight_decay_and_momentum_of_large_steps_are_for_new_models(
    shape, new_model, training_run, monkeypatch, is_new
):
    fitted: list[Any] = []

    def fit(run, model, plan, job, budget):
        assert isinstance(model, GPT)
        fitted.append(plan)
        return SimpleNamespace(steps=plan.steps)

    monkeypatch.setattr(trainer, "fit", fit)
    settings = TrainingSettings(batch_tokens=2**19)
    nothing: Any = SimpleNamespace(decode=str)
    tokens = 10**9
    pretrain(
        training_run(), shape if is_new else new_model(), nothing, nothing, nothing, settings, tokens=tokens
    )
    wanted = make_plan(shape, tokens, batch_tokens=2**19, from_scratch=is_new)
    assert (wanted.rates.weight_decay > 0) == is_new
    assert (fitted[0].rates, fitted[0].schedule) == (wanted.rates, wanted.schedule)
