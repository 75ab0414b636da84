"""`chatsmith bench rl` times three ways of writing the same replies, and says how they compare."""

import json
from pathlib import Path

import pytest

from chatsmith.cli.main import main


def test_every_way_is_timed_beside_one_batch(tiny_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    size = ["--prompts", "2", "--samples", "2", "--max-tokens", "6", "--rounds", "1"]
    assert main(["bench", "rl", str(tiny_run), "--json", *size], {}) == 0
    figures = json.loads(capsys.readouterr().out)
    for way in ("one_by_one", "plain"):
        speeds = figures["together_tokens_per_second"], figures[f"{way}_tokens_per_second"]
        assert figures[f"times_{way}"] == pytest.approx(speeds[0] / speeds[1])
    assert 1 <= figures["reply_tokens"] <= 6
    assert figures["computed_per_token"] > 0


def test_no_rounds_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "rl", "--rounds", "0"], {}) == 2
    assert "rounds" in capsys.readouterr().err
