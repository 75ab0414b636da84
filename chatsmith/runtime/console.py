"""What a command says while it works: headers, lines, tables, and progress with rate and ETA.

On a terminal rich draws it; into a file or a pipe it is plain lines, and progress is one line about every ten seconds
or ten percent. With `json=True` all of it goes to stderr, so that stdout holds nothing but the one JSON object that the
command gives to `result`. `chatsmith run` has all of it kept in the run's `run.log`, too, for those who look at it from
elsewhere; metrics belong to `metrics.jsonl`.
"""

import json as json_format
import math
import os
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

# rich is imported where a terminal is drawn on: it takes a tenth of a second, which plain output need not pay.

Clock = Callable[[], float]
PLAIN_SECONDS = 10.0  # without a terminal, a progress line at least this often …
PLAIN_SHARE = 0.1  # … or when this share of the total has passed since the last one
SMOOTHING_SECONDS = 30.0  # the rate shown is over about this long …
SAMPLE_SECONDS = 0.25  # … from points this far apart
REDRAW_SECONDS = 0.1
LOG_VARIABLE = "CHATSMITH_LOG"  # the file that keeps what is said


class Reporter:
    """Reports to the person at the keyboard: on stdout, or on stderr when `json` is set.

    `silent` is for the processes other than the main one, which has already said it; `stream` and `clock` for tests.
    """

    def __init__(
        self,
        json: bool = False,
        *,
        silent: bool = False,
        stream: TextIO | None = None,
        clock: Clock = time.monotonic,
    ) -> None:
        self._silent, self._json = silent, json
        self._stream = stream or (sys.stderr if json else sys.stdout)
        self._clock = clock
        self._terminal = _terminal(self._stream) if self._stream.isatty() and not silent else None

    def stage(self, title: str, subtitle: str = "") -> None:
        """The header of a part of the work."""
        if self._terminal is None:
            self.line(f"\n== {title}" + (f": {subtitle}" if subtitle else ""))
        else:
            keep(f"\n== {title}: {subtitle}")
            self._terminal.print(f"\n{printable(title)}", style="bold cyan", end="  ")
            self._terminal.print(printable(subtitle), style="dim")

    def line(self, text: str = "", style: str = "") -> None:
        """One plain line; `style` is one of rich's, for a terminal."""
        text = printable(text)
        if not self._silent:
            keep(text)
        if self._terminal is not None:
            self._terminal.print(text, style=style)
        elif not self._silent:
            self._stream.write(text + "\n")  # at once, or another stream's line could come between
            self._stream.flush()

    def notice(self, text: str) -> None:
        """One line that is worth knowing and breaks nothing."""
        self.line(text, "yellow")

    def table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """A table of strings. The first column is aligned left, numbers in the others right."""
        rows = [[printable(cell).replace("\n", "\\n") for cell in row] for row in rows]
        right = [_is_numeric_column(rows, index) for index in range(len(columns))]
        if self._terminal is None:
            self.line(plain_table(title, columns, rows, right))
            return
        from rich.table import Table

        table = Table(title=title or None, title_justify="left", header_style="bold")
        for index, (column, is_right) in enumerate(zip(columns, right, strict=True)):
            # In a narrow terminal names are folded, and numbers stay whole.
            width = max(len(row[index]) for row in rows) if is_right else None
            justify = "right" if is_right else "left"
            table.add_column(column, justify=justify, overflow="fold", no_wrap=is_right, min_width=width)
        for row in rows:
            table.add_row(*row)
        self._terminal.print(table)

    def result(self, found: Any) -> None:
        """With `json`, the one JSON object on stdout: what the command found."""
        if self._json and not self._silent:
            sys.stdout.write(json_format.dumps(found) + "\n")

    @contextmanager
    def progress(self, label: str, total: float | None, unit: str) -> Iterator["Bar"]:
        """Show progress of `total` units (None: unknown) with rate and ETA while the block runs."""
        if self._terminal is None:
            bar = Bar(label, total, unit, self._clock, self.line)
            try:
                yield bar
            finally:
                bar.finish()
            return
        from rich.progress import BarColumn, Progress, TextColumn

        columns = (
            TextColumn("{task.description}", style="bold", markup=False),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[text]}", markup=False),
        )
        with Progress(*columns, console=self._terminal) as drawn:
            bar = Bar(label, total, unit, self._clock, self.line, drawn)
            yield bar
            bar.show()


def keep(text: str) -> str:
    """Append a line to the log of the run, if there is one. Returns it. A log that has no room stops nothing."""
    if path := os.environ.get(LOG_VARIABLE):
        with suppress(OSError), open(path, "a", encoding="utf-8") as log:
            log.write(f"{text}\n")
    return text


def _terminal(stream: TextIO) -> "Console":
    from rich.console import Console

    # rich itself leaves bold text under NO_COLOR.
    colors = None if os.environ.get("NO_COLOR") else "auto"
    return Console(file=stream, highlight=False, markup=False, emoji=False, color_system=colors)


class Bar:
    """Progress that is under way: it counts, and shows itself now and then, as a line or drawn on a terminal."""

    def __init__(
        self,
        label: str,
        total: float | None,
        unit: str,
        clock: Clock,
        emit: Callable[[str], None],
        drawn: "Progress | None" = None,
    ) -> None:
        self._label, self._total, self._unit = label, total, unit
        self._clock, self._emit, self._drawn = clock, emit, drawn
        self._task = drawn.add_task(label, total=total, text="") if drawn else None
        self._metrics: dict[str, float | str] = {}
        self._started = self._shown_at = clock()
        self._done = self._shown_done = 0.0
        self._points = deque([(self._started, 0.0)])
        """What was done at which time, over the last SMOOTHING_SECONDS or so: a slow start is soon forgotten."""

    def advance(self, amount: float = 1, **metrics: float | str) -> None:
        """Count `amount` units more, and show these metrics (loss=3.21) from now on."""
        self._done += amount
        self._metrics.update(metrics)
        now = self._clock()
        if now - self._points[-1][0] >= SAMPLE_SECONDS:  # counting a million things must cost next to nothing
            self._points.append((now, self._done))
            while len(self._points) > 2 and self._points[1][0] < now - SMOOTHING_SECONDS:
                self._points.popleft()
        waited = now - self._shown_at
        if self._drawn:
            is_due = waited >= REDRAW_SECONDS
        else:
            # Ten percent of a total that takes a second in all is not worth a line; the last line says enough.
            share = (self._done - self._shown_done) / self._total if self._total else 0.0
            is_due = waited >= PLAIN_SECONDS or (share >= PLAIN_SHARE and waited >= 1.0)
        # What is found out at the end belongs in the last line, which `finish` writes.
        is_over = self._drawn is None and self._total is not None and self._done >= self._total
        if is_due and not is_over:
            self.show()

    def begin_at(self, done: float) -> None:
        """`done` units were complete before: they count as done, but not towards the rate."""
        self._done = self._shown_done = done
        self._points[0] = self._started, done

    def expect(self, total: float) -> None:
        """There are more units than was thought, or fewer: `total` in all."""
        self._total = total

    def show(self, is_last: bool = False) -> None:
        """Show the present state: '40% of 2.0M tokens', '812k tokens/s', '16 min 30 s left', 'loss 3.210', …"""
        now, total, (before, first) = self._clock(), self._total, self._points[0]
        self._shown_at, self._shown_done = now, self._done
        speed = (self._done - first) / (now - before) if now > before else 0.0
        elapsed = format_seconds(now - self._started)
        if total:
            parts = [f"{min(self._done / total, 1.0):.0%} of {format_number(total)} {self._unit}"]
        else:
            parts = [f"{format_number(self._done)} {self._unit}"]
        if speed:
            parts.append(f"{format_number(speed)} {self._unit}/s")
        if is_last or (total and self._done >= total):
            parts.append(f"took {elapsed}")
        elif total and speed:
            parts.append(f"{format_seconds((total - self._done) / speed)} left")
        else:
            parts.append(f"{elapsed} so far")
        parts += [f"{name.replace('_', ' ')} {_metric(value)}" for name, value in self._metrics.items()]
        if self._drawn is None or self._task is None:
            self._emit(f"{self._label}: " + ", ".join(parts))
        else:
            self._drawn.update(self._task, total=total, completed=self._done, text="  ".join(parts))

    def finish(self) -> None:
        """The last line, with the time it all took."""
        if self._done != self._shown_done or self._done == 0:
            self.show(is_last=True)


CONTROL = {code: f"\\x{code:02x}" for code in (*range(9), *range(11, 32), *range(127, 160))}


def printable(text: str) -> str:
    """`text` with escapes for what a terminal would obey: names of files may hold anything."""
    return text.translate(CONTROL)


def counted(count: int, noun: str) -> str:
    """'1 layer', '1,234 layers'."""
    return f"{count:,} {noun}" + "s" * (count != 1)


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """What settings that both have say otherwise than before: 'tokens 1000, not 2000'. A version may know others."""
    changed = [name for name in before if name in now and before[name] != now[name]]
    return ", ".join(f"{name} {before[name]}, not {now[name]}" for name in changed)


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


def format_bytes(size: float) -> str:
    """Bytes in the unit that people would choose."""
    return f"{size / 1e9:,.1f} GB" if size >= 1e9 else f"{size / 1e6:,.0f} MB"


def format_seconds(seconds: float) -> str:
    """'0.4 s', '48 s', '3 min 05 s', '2 h 10 min'."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    if math.isinf(seconds):
        return "forever"
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
    widths = [max(map(len, cells)) for cells in zip(columns, *rows, strict=True)]
    lines = [title] if title else []
    for row in (columns, ["-" * width for width in widths], *rows):
        cells = zip(row, widths, right, strict=True)
        padded = (cell.rjust(width) if is_right else cell.ljust(width) for cell, width, is_right in cells)
        lines.append("  ".join(padded).rstrip())
    return "\n".join(lines)


def _metric(value: float | str) -> str:
    if isinstance(value, str):
        return value
    is_large = isinstance(value, int) or abs(value) >= 1000
    return format_number(value) if is_large else f"{value:.3f}"


def _is_numeric_column(rows: Sequence[Sequence[str]], index: int) -> bool:
    cells = [row[index] for row in rows if row[index]]
    return index > 0 and bool(cells) and all(cell[0].isdigit() or cell[0] in "-+." for cell in cells)
