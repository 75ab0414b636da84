"""`chatsmith bench serve`: the load client's figures, against a real server and the bare engine."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from chatsmith.cli.bench_serve import Config, footprint
from chatsmith.cli.main import main as command
from chatsmith.runtime.errors import UserError
from chatsmith.serve.load_client import Timing, _unframed, summarize


def bench(capfd: pytest.CaptureFixture[str], *argv: object) -> dict[str, Any]:
    assert command(["bench", "serve", *map(str, argv), "--json", "--reply-tokens", "6"], {}) == 0
    return json.loads(capfd.readouterr().out)


@pytest.mark.parametrize("load", [("--clients", 3), ("--rate", 50)])
def test_every_request_and_token_is_counted(
    roomy_server: Any, capfd: pytest.CaptureFixture[str], load: tuple[str, int]
) -> None:
    before = roomy_server.metric("chatsmith_generation_tokens_total")
    pid = roomy_server.process.pid
    figures = bench(capfd, "--url", f"{roomy_server.url}/v1", "--requests", 12, "--pid", pid, *load)
    assert (figures["requests"], figures["errors"], figures["tokens"]) == (12, 0, 72)
    assert roomy_server.metric("chatsmith_generation_tokens_total") == before + 78  # one more warmed it up
    for name in ("ttft_ms", "itl_ms", "total_ms"):
        assert 0 < figures[name]["p50"] <= figures[name]["p99"] <= figures[name]["max"]
    assert figures["ttft_ms"]["p50"] <= figures["total_ms"]["p50"]
    assert figures["server"]["at_end"]["resident_bytes"] > 2**20


def test_errors_are_counted_by_kind(roomy_server: Any, capfd: pytest.CaptureFixture[str]) -> None:
    assert command(["bench", "serve", "--url", roomy_server.url, "--model", "none"], {}) == 2
    assert "status 404" in capfd.readouterr().err
    timings = [Timing(error="status 429"), Timing(error="status 429"), Timing(first_token=0.1, tokens=5)]
    figures = summarize(timings, 2.0)
    assert figures["errors"] == 2 and figures["error_kinds"] == {"status 429": 2}
    assert figures["tokens_per_second"] == 2.5


def test_beside_the_bare_engine(
    roomy_bundle: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CHATSMITH_TEST_CHAOS", raising=False)  # the server started there would not know it
    figures = bench(
        capfd,
        roomy_bundle,
        "--clients",
        2,
        "--requests",
        4,
        "--compare-engine",
        "--device",
        "cpu",
        "--threads",
        1,
    )
    assert figures["errors"] == 0
    speeds = figures["tokens_per_second"], figures["engine_tokens_per_second"]
    assert figures["share_of_engine"] == pytest.approx(speeds[0] / speeds[1])


def test_percentiles_are_of_the_values_themselves() -> None:
    timings = [Timing(first_token=number / 1000, total=1) for number in range(1, 101)]
    assert summarize(timings, 1)["ttft_ms"] == {"p50": 50, "p90": 90, "p99": 99, "max": 100}


def test_chunks_are_read_however_they_are_cut() -> None:
    whole = (
        b"".join(b"%x;a=b\r\n%s\r\n" % (len(piece), piece) for piece in (b"a\r\n", b"b" * 300)) + b"0\r\n\r\n"
    )
    for size in (1, 2, 7, 1000):
        read, rest, is_over = b"", b"", False
        for start in range(0, len(whole), size):
            assert not is_over or whole[start:].strip() == b""
            if not is_over:
                piece, rest, is_over = _unframed(rest + whole[start : start + size])
                read += piece
        assert is_over and read == b"a\r\n" + b"b" * 300


@pytest.mark.parametrize(
    "wrong",
    [
        {"clients": 0},
        {"threads": -1},
        {"seconds": 0},
        {"url": "localhost:8000"},
        {"compare_engine": True, "url": "http://x"},
    ],
)
def test_what_cannot_be_measured_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(UserError):
        Config(**wrong)


def test_a_process_that_is_not_there_cannot_be_watched() -> None:
    assert footprint(os.getpid())["open_files"] > 0
    with pytest.raises(UserError, match="watched"):
        footprint(2**22 - 1)
