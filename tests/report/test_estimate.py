"""The model of training time, against runs that others measured and that it was not fitted to."""

import json
import math
from dataclasses import dataclass

import pytest

from chatsmith.cli import main as cli
from chatsmith.model.config import GPTConfig
from chatsmith.report.estimate import DEVICES, step_time


@dataclass(frozen=True)
class Published:
    """A run that others measured."""

    name: str
    config: GPTConfig
    device: str
    count: int
    tokens_per_step: int
    microbatch_tokens: int
    tokens_per_second: float
    source: str
    fp8: bool = False

    def predicted(self) -> float:
        """Tokens/s of the model of time."""
        step = step_time(
            self.config,
            DEVICES[self.device],
            tokens_per_step=self.tokens_per_step,
            microbatch_tokens=self.microbatch_tokens,
            world_size=self.count,
            fp8=self.fp8,
        )
        return self.tokens_per_step / step.seconds


def nanochat_shape(depth: int, vocab_size: int = 32_768, *, october: bool = False) -> GPTConfig:
    """nanochat's model of a depth as of July 2026, or of October 2025: no value embeddings, no windows, V 65,536."""
    width = 64 * depth if october else math.ceil(64 * depth / 128) * 128
    windows = tuple(0 if october or layer % 4 == 3 or layer == depth - 1 else 512 for layer in range(depth))
    tables = () if october else tuple(range((depth - 1) % 2, depth, 2))
    return GPTConfig(vocab_size, 2048, depth, width // 128, 128, windows, tables)


def published_runs() -> tuple[Published, ...]:
    """Runs to check the model of time by; none of them was used to fit it."""
    log = "nanochat, dev/LEADERBOARD.md and dev/LOG.md"
    return (
        Published("d24, bf16", nanochat_shape(24), "h100", 8, 2**20, 32_768, 800_000, log),
        Published("d26, bf16", nanochat_shape(26), "h100", 8, 2**20, 32_768, 630_000, log),
        Published("d26, fp8", nanochat_shape(26), "h100", 8, 2**20, 32_768, 740_000, log, fp8=True),
        Published(
            "d20 of October 2025", nanochat_shape(20, 65_536, october=True), "h100", 8, 2**19, 65_536, 1_030_000,
            "derived from 3 h 51 min for the pipeline without rl, of which some 50 minutes were not pretraining",
        ),
        Published(
            "d12 on one RTX 4070", nanochat_shape(12), "4070", 1, 2**16, 16_384, 55_700, "nanochat, issue 636",
        ),
    )  # fmt: skip


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
