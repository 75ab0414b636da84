"""Minutes become tokens, and measuring leaves no trace in the model."""

import time
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from chatsmith.train import trainer
from chatsmith.train.plan import Plan
from chatsmith.train.step import prepare
from chatsmith.train.timing import MARGIN, TimeBudget, seconds_per_step
from tests.train.conftest import Kept


def test_measuring_leaves_the_model_as_it_was(new_model, new_plan, batches_from, runtime):
    model = new_model()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    seconds = seconds_per_step(
        model, new_plan(8), batches_from(2), prepare(model, runtime, False, print), runtime
    )
    assert seconds > 0
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize(("on_top", "expected"), [(False, 7 + 30), (True, 7 + 69)])
def test_steps_that_fit_are_those_done_and_what_the_time_left_holds(runtime, on_top, expected):
    """100 of the seconds are left; 40 more are kept for evaluations, or were spent on them and do not count."""
    started = time.monotonic() - 20
    minutes = (20 + 100 / MARGIN + 0.5) / 60
    budget = TimeBudget(minutes, started, Kept(), runtime, 40.0, on_top)
    assert budget.fitting(7, seconds_each=2.0) == expected
    assert TimeBudget(0.1, started, Kept(), runtime).fitting(7, seconds_each=2.0) == 7


def test_the_first_evaluation_which_may_compile_is_not_timed_and_what_is_measured_is_kept(
    new_model, batches_from, runtime, training_run, monkeypatch
):
    model, fitted, clock = new_model(), [], [0.0]
    budget = TimeBudget(0.05, time.monotonic(), Kept(), runtime)
    lasts = iter([500.0, 10.0])
    monkeypatch.setattr(
        trainer, "time", SimpleNamespace(perf_counter=lambda: clock[0], monotonic=time.monotonic)
    )
    monkeypatch.setattr("chatsmith.train.trainer.seconds_per_step", lambda *_: 0.01)

    def evaluate(plan: Plan) -> dict[str, float]:
        clock[0] += next(lasts)
        return {}

    def fit(run, model, plan, job, budget):
        fitted.append(plan)
        return SimpleNamespace(steps=plan.steps)

    monkeypatch.setattr(trainer, "fit", fit)
    rows: Any = SimpleNamespace(batches=lambda *_: batches_from(2))
    settings = trainer.TrainingSettings(batch_tokens=16, evaluations=1)
    for _ in range(2):  # the second time it is known
        trainer.train(training_run(), model, rows, settings, evaluate, tokens=8, guess=8, budget=budget)
        assert next(lasts, None) is None and budget.evaluation_seconds == 2 * 10.0
    assert budget.get("tokens") == fitted[0].tokens and fitted[0].tokens % fitted[0].tokens_per_step == 0
    assert (fitted[1].steps, fitted[1].tokens_per_step) == (fitted[0].steps, fitted[0].tokens_per_step)


def test_corrections_are_whole_rounds_and_no_more_than_asked_for(runtime):
    started = time.monotonic()
    for most, expected in ((0, 33), (30, 30)):
        budget = TimeBudget(
            (32 / MARGIN + 0.5) / 60, started, Kept(), runtime, steps_per_round=3, most_steps=most
        )
        budget.keep("steps", 24)
        budget.begin(24, 0, 24)
        assert budget.corrected(5, 24, 1.0) == 24  # not yet
        assert budget.corrected(6, 24, 32 / 26) == expected
        again = TimeBudget(1.0, started, budget.measurements, runtime)
        again.begin(24, 0, 24)
        assert again.corrected(6, 24, 99.0) == expected  # as it was kept


def test_a_resumed_run_is_corrected_and_by_the_time_of_all_its_commands(runtime):
    """Its first command measured the budget, was killed before the correction, and took 40 s up to its last save."""
    kept = Kept()
    TimeBudget(1.0, time.monotonic(), kept, runtime).keep("steps", 100)
    resumed = TimeBudget((40 + 32 / MARGIN + 0.5) / 60, time.monotonic(), kept, runtime)
    resumed.begin(100, 20, 100, earlier_seconds=40.0)
    assert resumed.corrected(24, 100, 1.0) == 100
    assert resumed.corrected(25, 100, 1.0) == 25 + 32
