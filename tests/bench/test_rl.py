"""The script times three ways of writing the same replies, and says how they compare."""

import json
from pathlib import Path

import pytest

from chatsmith.cli.settings import from_flags
from chatsmith.runtime.errors import UserError


def test_every_way_is_timed_beside_one_batch(
    script, tiny_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    size = ["--prompts", "2", "--samples", "2", "--max-tokens", "6", "--rounds", "1"]
    bench = script("rl")
    bench.main(bench.Config(**from_flags(bench.Config, [str(tiny_run), "--json", *size], "rl")))
    figures = json.loads(capsys.readouterr().out)
    for way in ("one_by_one", "plain"):
        speeds = figures["together_tokens_per_second"], figures[f"{way}_tokens_per_second"]
        assert figures[f"times_{way}"] == pytest.approx(speeds[0] / speeds[1])
    assert 1 <= figures["reply_tokens"] <= 6
    assert figures["computed_per_token"] > 0


def test_no_rounds_are_refused(script) -> None:
    with pytest.raises(UserError, match="rounds"):
        script("rl").Config(rounds=0)
