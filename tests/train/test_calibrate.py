"""Minutes become tokens, and measuring leaves no trace in the model."""

import time

import pytest
import torch

from chatsmith.train.calibrate import MARGIN, TimeBudget, seconds_per_step, step_durations, timed
from chatsmith.train.objective import prepare


def test_measuring_leaves_the_model_as_it_was(new_model, new_plan, batches_from, runtime):
    model = new_model()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    seconds = seconds_per_step(
        model, new_plan(8), batches_from(2), prepare(model, runtime, False, print), runtime
    )
    assert 0 < seconds < 5
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize(("enough", "expected"), [(0.0, 3), (1e9, 5)], ids=["enough at once", "never enough"])
def test_timing_ends_once_it_took_long_enough_but_not_before_the_fewest_steps(
    new_model, new_plan, batches_from, runtime, enough, expected
):
    model = new_model()
    loss = prepare(model, runtime, False, print)
    durations = step_durations(
        model, new_plan(8), batches_from(2), loss, runtime, 5, fewest_steps=3, enough_seconds=enough
    )
    assert len(durations) == expected


@pytest.mark.parametrize(("on_top", "expected"), [(False, 7 + 30), (True, 7 + 69)])
def test_steps_held_are_those_done_and_what_the_time_left_holds(on_top, expected):
    """100 of the seconds are left; 40 more are kept for evaluations, or were spent on them and do not count."""
    started = time.monotonic() - 20
    budget = TimeBudget((20 + 100 / MARGIN + 0.5) / 60, started, 40.0, on_top)
    assert budget.steps(7, step_seconds=2.0) == expected
    assert TimeBudget(0.1, started).steps(7, step_seconds=2.0) == 7


def test_timed_does_it_twice():
    calls: list[int] = []
    assert timed(lambda: calls.append(1)) >= 0
    assert len(calls) == 2
