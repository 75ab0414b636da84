"""A step's time is known before there is data."""

import pytest
import torch

from chatsmith.report import estimate
from chatsmith.report.estimate import foreseen_step_seconds
from chatsmith.runtime.device import Runtime
from chatsmith.train.plan import make_plan, model_shape

PLENTY = 1e18
"""A peak at which nothing takes long."""

RUNTIME = Runtime(torch.device("cpu"), torch.float32)
SHAPE = model_shape(1, 256, sequence_length=16, width=32, head_dim=16)
PLAN = make_plan(SHAPE, 10**4, batch_tokens=64 * 16, rows_per_microbatch=16)


def test_rows_are_multiplied_and_the_update_is_not(monkeypatch):
    """A row takes 0.1 s, so five are timed at once; the step has four times sixteen rows and one update."""
    times = iter([0.1, *[0.5, 0.2] * 4])

    def seconds(action, _):
        action()
        return next(times)

    monkeypatch.setattr(estimate, "_seconds", seconds)
    assert foreseen_step_seconds(PLAN, RUNTIME, PLENTY) == pytest.approx(64 / 5 * 0.5 + 0.2)


def test_real_rows_are_timed():
    seconds = foreseen_step_seconds(PLAN, RUNTIME, PLENTY)
    assert seconds is not None and seconds > 0


def test_what_takes_too_long_or_too_much_memory_is_not_tried():
    assert foreseen_step_seconds(PLAN, RUNTIME, peak_flops=1e3) is None
    large = make_plan(model_shape(16, 32768, sequence_length=512), 10**9)
    assert foreseen_step_seconds(large, RUNTIME, PLENTY) is None
