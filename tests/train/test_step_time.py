"""A step's time before there is data: reckoned from a few rows, and not asked of models that take too long."""

import pytest

from chatsmith.train import step_time
from chatsmith.train.plan import make_plan, model_shape
from chatsmith.train.step_time import step_seconds

PLENTY = 1e18
"""A peak at which nothing takes long."""


@pytest.fixture
def plan(shape):
    return make_plan(shape, 10**4, batch_tokens=64 * 16, rows_per_microbatch=16)


def test_rows_are_multiplied_and_the_update_is_not(plan, runtime, monkeypatch):
    """A row takes 0.1 s, so five are timed at once; the step has four times sixteen rows and one update."""
    times = iter([0.1, *[0.5, 0.2] * 4])

    def seconds(action, _):
        action()
        return next(times)

    monkeypatch.setattr(step_time, "_seconds", seconds)
    assert step_seconds(plan, runtime, PLENTY) == pytest.approx(64 / 5 * 0.5 + 0.2)


def test_real_rows_are_timed(plan, runtime):
    seconds = step_seconds(plan, runtime, PLENTY)
    assert seconds is not None and 0 < seconds < 5


def test_what_takes_too_long_or_too_much_memory_is_not_tried(plan, runtime):
    assert step_seconds(plan, runtime, peak_flops=1e3) is None
    large = make_plan(model_shape(16, 32768, sequence_length=512), 10**9)
    assert step_seconds(large, runtime, PLENTY) is None
