"""Minutes become tokens, and measuring leaves no trace in the model."""

import pytest
import torch

from chatsmith.train.calibrate import MARGIN, seconds_per_step, step_durations, steps_in, timed, tokens_in
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


def test_tokens_are_whole_steps_of_what_the_evaluations_leave(new_plan):
    plan = new_plan(8)
    seconds = (30 * 2.0 + 10) / MARGIN
    assert tokens_in(seconds + 0.1, plan, step_seconds=2.0, evaluate_seconds=10) == 30 * plan.tokens_per_step


@pytest.mark.parametrize("seconds", [-5.0, 0.0, 1.0])
def test_too_little_time_is_one_step(new_plan, seconds):
    plan = new_plan(8)
    assert tokens_in(seconds, plan, step_seconds=2.0, evaluate_seconds=10) == plan.tokens_per_step


def test_steps_held_are_those_done_and_what_the_time_left_holds():
    assert steps_in(100 / MARGIN + 0.1, 7, step_seconds=2.0, evaluate_seconds=40) == 7 + 30
    assert steps_in(-5.0, 7, step_seconds=2.0) == 7


def test_timed_does_it_twice():
    calls: list[int] = []
    assert timed(lambda: calls.append(1)) >= 0
    assert len(calls) == 2
