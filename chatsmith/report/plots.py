"""Curves as SVG that stands inline in a page: it takes its colors from the page, and needs nothing else.

matplotlib is imported when the first curve is drawn: it takes half a second, which a run without curves need not pay.
"""

import io
import logging
import re
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from chatsmith.runtime import atomic
from chatsmith.runtime.console import format_number
from chatsmith.runtime.errors import UserError

COLORS = {
    "#0000f1": "var(--first)",
    "#0000f2": "var(--second)",
    "#0000f3": "currentColor",
    "#0000f4": "var(--line)",
}
"""What matplotlib is told to draw in, and the page's color that takes its place."""
logging.getLogger("matplotlib").setLevel(logging.ERROR)
# Where the home folder cannot be written it takes a temporary one for its list of fonts, and would say so at length.

SIZE = (4.2, 2.5)  # inches, at 72 to the inch: two side by side on a page, one on a phone


def curve(title: str, x: str, series: Mapping[str, Sequence[Sequence[float]]], number: int) -> str:
    """One or two curves as an `<svg>` element; `number` tells the figures of one page apart.

    `series` has points (x, y) by name; the names are shown if there are two.
    """
    from matplotlib import rc_context
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    first, second, text, line = COLORS
    rc: dict[Any, Any] = {"svg.fonttype": "none", "svg.hashsalt": "chatsmith", "font.size": 8}
    with rc_context(rc):
        figure = Figure(figsize=SIZE, layout="constrained")
        FigureCanvasSVG(figure)
        axes = figure.add_subplot()
        for (name, points), color in zip(series.items(), (first, second), strict=False):
            style = {"marker": "o", "markersize": 3} if len(points) < 12 else {}
            axes.plot(*zip(*points, strict=True), color=color, linewidth=1.3, label=name, **style)
        axes.set_title(title, fontsize=9, color=text, loc="left")
        axes.set_xlabel(x, color=text)
        axes.ticklabel_format(useOffset=False)
        for axis, ends in ((axes.xaxis, axes.get_xlim()), (axes.yaxis, axes.get_ylim())):
            if max(ends) >= 1000:  # 10,000 would take much of the width; below, digits count
                axis.set_major_formatter(lambda value, _: format_number(value))
        axes.tick_params(colors=text, length=2)
        axes.grid(color=line, linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
        axes.spines[["left", "bottom"]].set_color(text)
        if len(series) > 1:
            axes.legend(frameon=False, labelcolor=text)
        drawn = io.StringIO()
        figure.savefig(drawn, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return _inline(drawn.getvalue(), title, number)


def save_curve(path: Path, title: str, x: str, points: Sequence[Sequence[float]]) -> None:
    """One curve as an image of its own, of the type that the file's name ends with (.png, .svg, .pdf).

    Raises UserError for another one.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=SIZE, layout="constrained", dpi=200)
    axes = figure.add_subplot(title=title, xlabel=x)
    axes.plot(*zip(*points, strict=True), marker="o")
    axes.grid(linewidth=0.4)
    try:
        drawn = io.BytesIO()
        figure.savefig(drawn, format=path.suffix[1:] or "png")
    except ValueError as error:
        raise UserError(f"{path}: {error}", setting="plot") from error
    atomic.write_bytes(path, drawn.getvalue())


def _inline(svg: str, title: str, number: int) -> str:
    """The `<svg>` element alone, as wide as its place, with ids that no other figure has."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>f{number}-", svg)
    for drawn, wanted in COLORS.items():
        svg = svg.replace(drawn, wanted)
    return svg.replace("<svg", f'<svg role="img" aria-label="{escape(title)}"', 1).strip()
