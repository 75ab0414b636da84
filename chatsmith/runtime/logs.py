"""What a command says while it works: headers, lines, tables and progress with rate and ETA.

On a terminal it is drawn by rich; into a file or a pipe it is plain lines, and progress is one line about
every ten seconds or ten percent. With `json=True` all of it goes to stderr, so that stdout holds nothing but
the one JSON object the command prints. It keeps no log file: figures belong to `metrics.jsonl`.
"""

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol, TextIO

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID

Clock = Callable[[], float]
PLAIN_SECONDS = 10.0  # without a terminal, a progress line at least this often …
PLAIN_SHARE = 0.1  # … or when this share of the total has passed since the last one
SMOOTHING_SECONDS = 30.0  # the rate shown is over about this long …
SAMPLE_SECONDS = 0.25  # … from points this far apart
REDRAW_SECONDS = 0.1


class Bar(Protocol):
    """Progress that is under way."""

    def advance(self, amount: float = 1, **figures: float | str) -> None:
        """Count `amount` units more, and show these figures (loss=3.21) from now on."""
        ...

    def begin_at(self, done: float) -> None:
        """`done` units were complete before: they count as done, but not towards the rate."""
        ...

    def expect(self, total: float) -> None:
        """There are more units than was thought, or fewer: `total` in all."""
        ...


class Reporter:
    """Speaks to the person at the keyboard: on stdout, or on stderr when `json` is set.

    `silent` is for the processes beside the main one, which has already said it; `stream` and `clock` for tests.
    """

    def __init__(
        self,
        json: bool = False,
        *,
        silent: bool = False,
        stream: TextIO | None = None,
        clock: Clock = time.monotonic,
    ) -> None:
        self._silent = silent
        self._stream = stream or (sys.stderr if json else sys.stdout)
        self._clock = clock
        self._console = _terminal(self._stream) if self._stream.isatty() and not silent else None

    def stage(self, title: str, subtitle: str = "") -> None:
        """The header of a part of the work."""
        if self._console:
            from rich.text import Text

            self._console.print()
            self._console.print(Text.assemble((title, "bold cyan"), "  ", (subtitle, "dim")))
        else:
            self._print(f"\n== {title}" + (f": {subtitle}" if subtitle else ""))

    def line(self, text: str = "") -> None:
        """One plain line."""
        self._styled(text, "")

    def notice(self, text: str) -> None:
        """One line that is worth knowing and breaks nothing."""
        self._styled(text, "yellow")

    def table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """A table of strings. The first column is aligned left, numbers in the others right."""
        right = [_is_numeric_column(rows, index) for index in range(len(columns))]
        if self._console:
            from rich.table import Table
            from rich.text import Text

            table = Table(title=title or None, title_justify="left", header_style="bold")
            for column, is_right in zip(columns, right, strict=True):
                table.add_column(Text(column), justify="right" if is_right else "left")
            for row in rows:
                table.add_row(*(Text(cell) for cell in row))
            self._console.print(table)
        else:
            self._print(plain_table(title, columns, rows, right))

    @contextmanager
    def progress(self, label: str, total: float | None, unit: str) -> Iterator[Bar]:
        """Show progress of `total` units (None: unknown) with rate and ETA while the block runs."""
        if self._console:
            with _drawn_progress(self._console) as drawn:
                terminal_bar = _TerminalBar(drawn, label, total, unit, self._clock)
                yield terminal_bar
                terminal_bar.draw()
        else:
            bar = _PlainBar(self._print, label, total, unit, self._clock)
            try:
                yield bar
            finally:
                bar.finish()

    def _styled(self, text: str, style: str) -> None:
        if self._console:
            from rich.text import Text

            self._console.print(Text(text, style=style))
        else:
            self._print(text)

    def _print(self, text: str) -> None:
        if not self._silent:
            self._stream.write(text + "\n")  # at once, or another stream's line could come between
            self._stream.flush()


class Rate:
    """Units a second over the last SMOOTHING_SECONDS or so, so that a slow start is soon forgotten."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._started = clock()
        self._points: list[tuple[float, float]] = [(self._started, 0.0)]

    @property
    def elapsed(self) -> float:
        """Seconds since the start."""
        return self._clock() - self._started

    def update(self, done: float) -> None:
        """`done` units are complete now, counted from the start."""
        now = self._clock()
        if len(self._points) > 1 and now - self._points[-2][0] < SAMPLE_SECONDS:
            self._points[-1] = (now, done)  # counting a million small things must cost next to nothing
            return
        self._points.append((now, done))
        while len(self._points) > 2 and self._points[1][0] < now - SMOOTHING_SECONDS:
            self._points.pop(0)

    @property
    def per_second(self) -> float:
        """The rate, or 0 while nothing is known."""
        (before, first), (now, last) = self._points[0], self._points[-1]
        return (last - first) / (now - before) if now > before else 0.0


class _PlainBar:
    def __init__(
        self, emit: Callable[[str], None], label: str, total: float | None, unit: str, clock: Clock
    ) -> None:
        self._emit, self._label, self._total, self._unit = emit, label, total, unit
        self._rate = Rate(clock)
        self._done = self._before = 0.0
        self._figures: dict[str, float | str] = {}
        self._emitted_at, self._emitted_done = 0.0, 0.0

    def advance(self, amount: float = 1, **figures: float | str) -> None:
        self._done += amount
        self._figures.update(figures)
        self._rate.update(self._done - self._before)
        step = self._done - self._emitted_done
        # Ten percent of a total that takes a second in all is not worth a line; the last line says enough.
        is_long_step = bool(self._total) and step >= PLAIN_SHARE * (self._total or 0)
        waited = self._rate.elapsed - self._emitted_at
        if waited >= PLAIN_SECONDS or (is_long_step and waited >= 1.0):
            self._emit_line()

    def begin_at(self, done: float) -> None:
        self._done = self._before = self._emitted_done = done

    def expect(self, total: float) -> None:
        self._total = total

    def finish(self) -> None:
        """The last line, with the time it all took."""
        if self._done != self._emitted_done or self._done == 0:
            self._emit_line(last=True)

    def _emit_line(self, last: bool = False) -> None:
        self._emitted_at, self._emitted_done = self._rate.elapsed, self._done
        parts = [progress_text(self._done, self._total, self._unit)]
        if self._rate.per_second:
            parts.append(f"{format_number(self._rate.per_second)} {self._unit}/s")
        parts.append(_time_left(self._done, self._total, self._rate, last))
        parts.extend(figures_text(self._figures))
        self._emit(f"{self._label}: " + ", ".join(parts))


class _TerminalBar:
    def __init__(
        self, drawn: "RichProgress", label: str, total: float | None, unit: str, clock: Clock
    ) -> None:
        self._drawn, self._total, self._unit = drawn, total, unit
        self._rate = Rate(clock)
        self._done = self._before = 0.0
        self._figures: dict[str, float | str] = {}
        self._task: TaskID = drawn.add_task(label, total=total, text="")
        self._drawn_at = -REDRAW_SECONDS

    def advance(self, amount: float = 1, **figures: float | str) -> None:
        self._done += amount
        self._figures.update(figures)
        self._rate.update(self._done - self._before)
        if self._rate.elapsed - self._drawn_at >= REDRAW_SECONDS:
            self.draw()

    def begin_at(self, done: float) -> None:
        self._done = self._before = done

    def expect(self, total: float) -> None:
        self._total = total
        self._drawn.update(self._task, total=total)

    def draw(self) -> None:
        """Show the present state."""
        self._drawn_at = self._rate.elapsed
        parts = [progress_text(self._done, self._total, self._unit)]
        if self._rate.per_second:
            parts.append(f"{format_number(self._rate.per_second)} {self._unit}/s")
        parts.append(_time_left(self._done, self._total, self._rate))
        parts.extend(figures_text(self._figures))
        self._drawn.update(self._task, completed=self._done, text="  ".join(parts))


def _terminal(stream: TextIO) -> "Console":
    from rich.console import (
        Console,
    )  # here, because a tenth of a second is too much for output without colour

    return Console(file=stream, highlight=False)


def _drawn_progress(console: "Console") -> "RichProgress":
    from rich.progress import BarColumn, Progress, TextColumn

    columns = (
        TextColumn("{task.description}", style="bold", markup=False),
        BarColumn(bar_width=24),
        TextColumn("{task.fields[text]}", markup=False),
    )
    return Progress(*columns, console=console)


def progress_text(done: float, total: float | None, unit: str) -> str:
    """'40% of 2.0M tokens', or '812k tokens' when the total is unknown."""
    if not total:
        return f"{format_number(done)} {unit}"
    return f"{min(done / total, 1.0):.0%} of {format_number(total)} {unit}"


def figures_text(figures: dict[str, float | str]) -> list[str]:
    """['loss 3.210', 'bpb 1.421']: figures for people to read beside progress."""
    return [f"{name.replace('_', ' ')} {_figure(value)}" for name, value in figures.items()]


def format_number(number: float) -> str:
    """Three digits or so: 0.021, 3.2, 812, 1,234, 45.6k, 2.0M, 7.1B."""
    size = abs(number)
    # The limits lie below the round numbers, where rounding would print 1000.0k.
    for limit, divisor, suffix in ((999.95e6, 1e9, "B"), (999.95e3, 1e6, "M"), (9999.5, 1e3, "k")):
        if size >= limit:
            return f"{number / divisor:.1f}{suffix}"
    if size >= 100 or float(number).is_integer():
        return f"{number:,.0f}"
    return f"{number:.1f}" if size >= 1 else f"{number:.2g}"


def format_seconds(seconds: float) -> str:
    """'0.4 s', '48 s', '3 min 05 s', '2 h 10 min'."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def plain_table(
    title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[bool]
) -> str:
    """The table as lines of text, columns padded with spaces; `right` says which are aligned right."""
    cells = [list(columns), *[list(row) for row in rows]]
    widths = [max(len(row[index]) for row in cells) for index in range(len(columns))]

    def joined(row: Sequence[str]) -> str:
        padded = [
            cell.rjust(width) if is_right else cell.ljust(width)
            for cell, width, is_right in zip(row, widths, right, strict=True)
        ]
        return "  ".join(padded).rstrip()

    lines = [joined(columns), "  ".join("-" * width for width in widths), *[joined(row) for row in rows]]
    return "\n".join([title, *lines] if title else lines)


def _figure(value: float | str) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, int) or abs(value) >= 1000:
        return format_number(value)
    return f"{value:.3f}"


def _time_left(done: float, total: float | None, rate: Rate, last: bool = False) -> str:
    if last or (total and done >= total):
        return f"took {format_seconds(rate.elapsed)}"
    if not total or not rate.per_second:
        return f"{format_seconds(rate.elapsed)} so far"
    return f"{format_seconds((total - done) / rate.per_second)} left"


def _is_numeric_column(rows: Sequence[Sequence[Any]], index: int) -> bool:
    cells = [row[index] for row in rows if row[index]]
    return index > 0 and bool(cells) and all(cell[0].isdigit() or cell[0] in "-+." for cell in cells)
