import io
import sys

import pytest

from chatsmith.runtime.console import Bar, Reporter, format_number, format_seconds


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_json_leaves_stdout_to_the_object(capsys):
    reporter = Reporter(json=True)
    reporter.stage("Evaluate", "the exam")
    reporter.line("one")
    reporter.notice("two")
    reporter.table("Results", ["name", "value"], [["a", "1"]])
    with reporter.progress("exam", 1, "items") as bar:
        bar.advance()
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "one" in captured.err and "exam" in captured.err


def test_plain_output_has_no_escape_codes_and_keeps_brackets(capsys):
    reporter = Reporter()
    reporter.line("[bold]text[/bold] [1, 2]")
    out = capsys.readouterr().out
    assert out == "[bold]text[/bold] [1, 2]\n"


def test_plain_progress_prints_every_ten_seconds_with_rate_and_eta():
    stream, clock = io.StringIO(), Clock()
    reporter = Reporter(stream=stream, clock=clock)
    with reporter.progress("pretrain", 1_000_000, "tokens") as bar:
        for _ in range(25):
            clock.now += 1.0
            bar.advance(1000, loss=3.21)
    lines = stream.getvalue().splitlines()
    assert len(lines) == 3  # after 10 s, after 20 s, and the last one
    assert lines[0] == "pretrain: 1% of 1.0M tokens, 1,000 tokens/s, 16 min 30 s left, loss 3.210"
    assert lines[-1] == "pretrain: 2% of 1.0M tokens, 1,000 tokens/s, took 25 s, loss 3.210"


def test_plain_progress_prints_every_ten_percent_when_that_is_sooner():
    stream, clock = io.StringIO(), Clock()
    with Reporter(stream=stream, clock=clock).progress("exam", 100, "items") as bar:
        for _ in range(100):
            clock.now += 0.2
            bar.advance()
    assert len(stream.getvalue().splitlines()) == 10


def test_fast_progress_is_one_line():
    stream, clock = io.StringIO(), Clock()
    with Reporter(stream=stream, clock=clock).progress("reading", 1000, "files") as bar:
        for _ in range(1000):
            clock.now += 0.0005
            bar.advance()
    assert len(stream.getvalue().splitlines()) == 1


def test_unknown_total_and_empty_work_break_nothing():
    stream, clock = io.StringIO(), Clock()
    reporter = Reporter(stream=stream, clock=clock)
    with reporter.progress("reading", None, "documents") as bar:
        clock.now = 11.0
        bar.advance(5, best="x")
    with reporter.progress("nothing", 0, "items"):
        pass
    assert "5 documents" in stream.getvalue() and "nothing: 0 items" in stream.getvalue()


def test_rate_follows_a_slow_start():
    """Compiling takes the first minute: the ETA must come from what steps take afterwards."""
    stream, clock = io.StringIO(), Clock()
    with Reporter(stream=stream, clock=clock).progress("pretrain", 10_000, "steps") as bar:
        clock.now += 60
        bar.advance(1)
        for _ in range(60):
            clock.now += 1
            bar.advance(10)
        assert "10 steps/s" in stream.getvalue().splitlines()[-1]


@pytest.mark.parametrize("kind", [io.StringIO, Terminal])
def test_counting_a_hundred_thousand_things_draws_little(kind, monkeypatch):
    """What is drawn is bounded by the time that passes, not by how much is counted."""
    stream, shown, show = kind(), [], Bar.show
    monkeypatch.setattr(Bar, "show", lambda bar, *a, **o: (shown.append(bar), show(bar, *a, **o)))
    with Reporter(stream=stream, clock=Clock()).progress("generating", 100_000, "texts") as bar:
        for _ in range(100_000):
            bar.advance()
    assert len(shown) <= 2 and len(bar._points) == 1
    assert "100% of 100.0k texts" in stream.getvalue()


@pytest.mark.parametrize("stream", [io.StringIO(), Terminal()], ids=["plain", "terminal"])
def test_what_was_done_before_counts_as_done_and_not_towards_the_rate(stream):
    clock = Clock()
    with Reporter(stream=stream, clock=clock).progress("pretrain", 1000, "tokens") as bar:
        bar.begin_at(500)
        for _ in range(11):
            clock.now += 1.0
            bar.advance(10)
    text = stream.getvalue()
    assert "61% of 1,000 tokens" in text and "10 tokens/s" in text
    assert "39 s left" in text or "took 11 s" in text


def test_terminal_progress_and_table_are_drawn():
    stream, clock = Terminal(), Clock()
    reporter = Reporter(stream=stream, clock=clock)
    reporter.stage("Pretrain", "[depth 4]")
    with reporter.progress("pretrain", 100, "tokens") as bar:
        clock.now = 2.0
        bar.advance(50, loss=3.0)
        reporter.line("[red]sample[/red]")
    reporter.table("Results", ["stage", "score"], [["sft [x]", "0.5"]])
    text = stream.getvalue()
    assert "50% of 100 tokens" in text and "2.0 s left" in text and "loss 3.000" in text
    assert "[red]sample[/red]" in text and "sft [x]" in text and "[depth 4]" in text


def test_plain_table_aligns_numbers_right(capsys):
    Reporter().table("Exam", ["section", "n"], [["facts", "5"], ["sums", "100"]])
    assert capsys.readouterr().out == "Exam\nsection    n\n-------  ---\nfacts      5\nsums     100\n"


@pytest.mark.parametrize(
    ("number", "text"),
    [(0, "0"), (7, "7"), (0.0213, "0.021"), (3.25, "3.2"), (812.4, "812"), (1234, "1,234"), (45_600, "45.6k"),
     (2_000_000, "2.0M"), (7.1e9, "7.1B"), (999_999, "1.0M"), (-3.0, "-3")],
)  # fmt: skip
def test_format_number(number, text):
    assert format_number(number) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.42, "0.4 s"), (9.97, "10 s"), (48.2, "48 s"), (59.7, "1 min 00 s"), (185, "3 min 05 s"),
     (3599.8, "1 h 00 min"), (7800, "2 h 10 min"), (float("inf"), "forever")],
)  # fmt: skip
def test_format_seconds(seconds, text):
    assert format_seconds(seconds) == text


def test_reporter_uses_the_streams_of_now(capsys):
    """A stream taken at import time would bypass pytest, and whoever else redirects output."""
    assert sys.stdout is not None
    Reporter().line("here")
    assert capsys.readouterr().out == "here\n"
