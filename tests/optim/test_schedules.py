"""Rates rise, hold and fall over shares of the run, however long it is."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chatsmith.optim.schedules import ramp, warmup_stable_decay

shares = st.floats(0, 0.5)
progresses = st.floats(0, 1)


@pytest.mark.parametrize(
    ("progress", "rate"),
    [(0.0, 0.0), (0.05, 0.5), (0.1, 1.0), (0.5, 1.0), (0.8, 1.0), (0.9, 0.6), (1.0, 0.2), (1.1, 0.2)],
)
def test_trapezoid_at_its_corners(progress, rate):
    assert warmup_stable_decay(progress, warmup=0.1, decay=0.2, final=0.2) == pytest.approx(rate)


@pytest.mark.parametrize(("warmup", "decay"), [(0.0, 0.5), (0.5, 0.0), (0.0, 0.0), (0.5, 0.5), (0.0, 1.0)])
def test_a_missing_ramp_leaves_the_plateau(warmup, decay):
    assert warmup_stable_decay(0.5, warmup, decay, final=1.0) == 1.0
    assert warmup_stable_decay(0.0, warmup=0.0, decay=0.5, final=0.1) == 1.0
    assert warmup_stable_decay(1.0, warmup=0.5, decay=0.0, final=0.1) == 1.0


@settings(max_examples=50, deadline=None)
@given(warmup=shares, decay=shares, final=st.floats(0, 1), points=st.tuples(progresses, progresses))
def test_rate_only_rises_before_the_plateau_and_only_falls_after_it(warmup, decay, final, points):
    first, second = (warmup_stable_decay(point, warmup, decay, final) for point in sorted(points))
    assert 0 <= first <= 1 and 0 <= second <= 1
    if max(points) <= warmup:
        assert first <= second
    elif min(points) >= warmup:
        assert first >= second - 1e-12


@pytest.mark.parametrize(("progress", "value"), [(0.0, 0.85), (0.05, 0.9), (0.1, 0.95), (1.0, 0.95)])
def test_ramp_goes_from_start_to_end_over_its_share(progress, value):
    assert ramp(progress, 0.85, 0.95, share=0.1) == pytest.approx(value)


def test_ramp_without_a_share_is_its_end():
    assert ramp(0.0, 0.85, 0.95, share=0.0) == 0.95
