"""The model of training time, against runs that others measured and that it was not fitted to."""

import json

import pytest

from chatsmith.cli import main as cli
from chatsmith.report.estimate import DEVICES, nanochat_shape, published_runs, step_time


@pytest.mark.parametrize("run", published_runs(), ids=lambda run: run.name)
def test_published_runs_are_predicted_within_a_tenth(run):
    assert run.predicted() == pytest.approx(run.tokens_per_second, rel=0.1)


def test_more_devices_recomputing_and_slow_links_cost_what_they_must():
    shape, options = nanochat_shape(12), {"tokens_per_step": 2**19, "microbatch_tokens": 32_768}
    one = step_time(shape, DEVICES["h100"], world_size=1, **options)
    eight = step_time(shape, DEVICES["h100"], world_size=8, **options)
    again = step_time(shape, DEVICES["h100"], world_size=1, recompute=1.0, **options)
    assert one.communication == 0 < eight.communication
    assert one.seconds / 8 < eight.seconds < one.seconds / 6
    assert again.matmuls == pytest.approx(one.matmuls * 4 / 3)


def test_a_plan_for_gpus_that_are_not_here_says_hours_and_dollars(capsys):
    argv = ["plan", "24", "--vocab-size", "32768", "--sequence-length", "2048", "--head-dim", "128"]
    argv += ["--window-pattern", "SSSL", "--ratio", "8", "--gpu", "h100", "--count", "8"]
    assert cli.main([*argv, "--price-per-gpu-hour", "3", "--json"], {}) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["parameters"] == pytest.approx(1.384e9, rel=0.01)
    assert facts["hours"] == pytest.approx(5.84e9 / 800_000 / 3600, rel=0.15)
    assert facts["dollars"] == pytest.approx(24 * facts["hours"])
    assert not facts["is_measured"]


def test_an_unknown_gpu_is_one_line(capsys):
    assert cli.main(["plan", "6", "--gpu", "h1000"], {}) == 2
    assert "there is no device 'h1000'" in capsys.readouterr().err
    assert cli.main(["plan", "6", "--count", "8"], {}) == 2
    assert "name one" in capsys.readouterr().err
