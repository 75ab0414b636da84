"""`python bench/serve.py`: every request and token is counted, against a real server."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).parents[2] / "bench" / "serve.py"


def bench(url: str, *flags: object) -> dict[str, Any]:
    command = [sys.executable, str(SCRIPT), url, "--reply-tokens", "6", "--requests", "12", *map(str, flags)]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True, timeout=200).stdout)


@pytest.mark.parametrize("load", [("--clients", 3), ("--rate", 50)], ids=["closed loop", "open loop"])
def test_every_request_and_token_is_counted(roomy_server: Any, load: tuple[str, int]) -> None:
    before = roomy_server.metric("chatsmith_generation_tokens_total")
    figures = bench(f"{roomy_server.url}/v1", *load)
    assert (figures["requests"], figures["errors"], figures["tokens"]) == (12, {}, 72)
    assert roomy_server.metric("chatsmith_generation_tokens_total") == before + 72
    for name in ("first_token_ms", "between_tokens_ms", "total_ms"):
        assert 0 < figures[name]["p50"] <= figures[name]["p99"] <= figures[name]["max"]


def test_errors_are_counted_by_kind(roomy_server: Any) -> None:
    figures = bench(roomy_server.url, "--model", "none")
    assert figures["errors"] == {"status 404": 12} and figures["tokens"] == 0
