"""The report as a page: what `gather` found, in Markdown and as one HTML file that needs nothing else.

Each section is written once, in Markdown; page.html is put around it and works on paper, on a phone, and in the dark.
Every text in it, replies of a model above all, is escaped.
"""

import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from string import Template
from typing import Any

from markdown_it import MarkdownIt

from chatsmith.report.gather import CURVES
from chatsmith.report.plots import curve
from chatsmith.report.run_facts import MEANS, Facts
from chatsmith.runtime.console import format_number, format_seconds

COLUMNS = {"pretrain": "BASE", "mid": "MID", "sft": "SFT", "rl": "RL"}
"""What the stages are called beside their scores."""
LONGEST_REPLY = 600  # characters
NOTHING = "–"
NUMERIC = re.compile(rf"[-+$]?\d.*|{NOTHING}")


class Page:
    """A page in Markdown, and the same as HTML."""

    def __init__(self, title: str) -> None:
        self._title, self._figures = title, 0
        self._blocks: list[tuple[str, str]] = []
        """Each in Markdown; and in HTML, where that shows more."""

    def _add(self, markdown: str, html: str = "") -> None:
        self._blocks.append((markdown, html))

    def heading(self, text: str, level: int = 2) -> None:
        """A heading; those of level 2 are linked at the top."""
        self._add(f"{'#' * level} {_md(text)}")

    def text(self, text: str) -> None:
        """A paragraph; nothing, if the text is empty."""
        if text:
            self._add(_md(text))

    def items(self, heading: str, lines: Sequence[str]) -> None:
        """A list under its heading; nothing, if it is empty."""
        if lines:
            self.heading(heading)
            self._add("\n".join(f"- {_md(line)}" for line in lines))

    def code(self, text: str) -> None:
        """Lines as they are."""
        fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
        self._add(f"{fence}\n{_clean(text)}\n{fence}")

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[str]], html: str = "") -> None:
        """A table; the first column names the row, columns of numbers are aligned right."""
        cells = list(zip(*rows, strict=True)) or [()] * len(columns)
        right = [2 * sum(map(bool, map(NUMERIC.fullmatch, column))) > len(rows) for column in cells]
        ruler = ["-:" if is_right and index else "-" for index, is_right in enumerate(right)]
        head, *body = ([_md(cell) for cell in line] for line in (columns, *rows))
        self._add("\n".join(f"| {' | '.join(line)} |" for line in (head, ruler, *body)), html)

    def replies(self, pairs: Mapping[str, str]) -> None:
        """A prompt and what was said to it, by speaker; in HTML with its line breaks."""
        shown = {
            who: text if len(text) <= LONGEST_REPLY else f"{text[:LONGEST_REPLY]} …"
            for who, text in pairs.items()
        }
        body = "".join(f"<dt>{_html(who)}</dt><dd>{_html(text)}</dd>" for who, text in shown.items())
        markdown = "\n".join(f"- **{_md(who)}:** {_md(text)}" for who, text in shown.items())
        self._add(markdown, f"<dl>{body}</dl>")

    def curves(self, curves: Mapping[str, Mapping[str, Facts]]) -> None:
        """Figures by title, each with one or two curves by name; in Markdown their first and last values."""
        figures, rows = "", []
        for title, lines in curves.items():
            self._figures += 1
            x = next(iter(lines.values()))["x"]
            drawn = curve(title, x, {name: line["points"] for name, line in lines.items()}, self._figures)
            figures += f"<figure>{drawn}</figure>"
            for name, line in lines.items():
                ends = (f"{line['points'][end][1]:.4g}" for end in (0, -1))
                rows.append([f"{title} {name}".strip(), *ends])
        self.table(["curve", "first", "last"], rows, f'<div class="figures">{figures}</div>')

    def markdown(self) -> str:
        """The page in Markdown."""
        return "\n\n".join([f"# {_md(self._title)}", *(markdown for markdown, _ in self._blocks)]) + "\n"

    def html(self) -> str:
        """The page as one HTML file."""
        reader = MarkdownIt("commonmark", {"html": False}).enable("table")
        body = "".join(html or reader.render(markdown) for markdown, html in self._blocks)
        names = {
            text: re.sub(r"[^a-z0-9]+", "-", text.lower()) for text in re.findall("<h2>(.*?)</h2>", body)
        }
        links = "\n".join(f'<a href="#{name}">{text}</a>' for text, name in names.items())
        for text, name in names.items():
            body = body.replace(f"<h2>{text}</h2>", f'<h2 id="{name}">{text}</h2>')
        page = Template(Path(__file__).with_name("page.html").read_text(encoding="utf-8"))
        return page.substitute(title=_html(self._title), links=links, body=body)


def report(facts: Facts) -> Page:
    """The report of one run."""
    page = Page(f"Report: {facts['run']['name']}")
    page.text(facts["run"]["description"])
    _summary(page, facts)
    page.items("Missing or damaged", facts["missing"])
    if facts["adapt"]:
        _show_adapted(page, facts["adapt"])
    _show_scores(page, facts)
    _show_data(page, facts["data"])
    _objects(page, "Models", "", facts["models"])
    if facts["curves"]:
        page.heading("Curves")
    for stage, curves in facts["curves"].items():
        page.heading(stage, 3)
        page.curves({title: {"": line} for title, line in curves.items()})
    if facts["samples"]:
        page.heading("Samples")
    for sample in facts["samples"]:
        expected = {"expected": sample["expected"]} if sample["expected"] else {}
        replies = {_column(stage): text for stage, text in sample["replies"].items()}
        page.replies({f"prompt ({sample['section']})": sample["prompt"], **expected, **replies})
    if tokenizer := facts["tokenizer"]:
        _show_vocabularies(page, tokenizer["vocabularies"])
        absent = ", ".join(tokenizer["not_available_offline"])
        page.text(f"Not on this machine, so not compared: {absent}." if absent else "")
        page.text(tokenizer["note"])
    _objects(page, "Machine and versions", "", {"of what wrote this report": facts["machine"]})
    for stage, recorded in facts["recorded"].items():
        page.text(f"Recorded by {stage}: " + "; ".join(f"{name} {value}" for name, value in _flat(recorded)))
    page.items("Warnings", facts["warnings"])
    page.heading("Every setting, and how to reproduce it")
    fingerprint = facts["data"].get("fingerprint", "unknown")
    page.text(
        f"With the versions above, and data whose fingerprint is {fingerprint}, save as recipe.toml and type:"
    )
    page.code(facts["reproduce"]["command"])
    page.code(facts["reproduce"]["recipe.toml"].strip())
    return page


def comparison(a: Facts, b: Facts) -> Page:
    """Two runs side by side: A and B."""
    page = Page(f"A: {a['run']['name']}, B: {b['run']['name']}")
    runs = {"A": a, "B": b}
    for name, facts in runs.items():
        page.text(f"{name}: {facts['run']['path']}")
        page.items(f"Missing or damaged in {name}", facts["missing"])
    scores = {name: _cells(facts["scores"]) for name, facts in runs.items()}
    _objects(page, "Scores", "score", scores)
    command = shlex.join(["chatsmith", "evaluate", "--compare", a["run"]["path"], b["run"]["path"]])
    page.text(f"Which differences are real: {command}")
    for title, section in (
        ("Time", "time"),
        ("Data", "data"),
        ("Models", "models"),
        ("Settings", "settings"),
    ):
        flat = {name: dict(_flat(facts[section])) for name, facts in runs.items()}
        _objects(page, title, "", flat, only_different=section == "settings")
    page.heading("Curves")
    for stage in dict.fromkeys([*a["curves"], *b["curves"]]):
        of_runs = {name: facts["curves"].get(stage, {}) for name, facts in runs.items()}
        page.heading(stage, 3)
        titles = [title for title in CURVES if any(title in curves for curves in of_runs.values())]
        page.curves({one: {name: of[one] for name, of in of_runs.items() if one in of} for one in titles})
    return page


# ---- the sections ----


def _summary(page: Page, facts: Facts) -> None:
    time, rows = facts["time"], []
    price = time.get("price_per_hour")
    for stage, progress in facts["stages"].items():
        spent = time["stages"][stage] if time else {}
        row = [stage, progress, format_seconds(spent["seconds"]) if spent.get("seconds") else NOTHING]
        row += [f"${spent['dollars']:,.2f}"] if price else []
        for name in ("tokens", "tokens_per_second", "peak_memory_gb"):
            row.append(format_number(spent[name]) if name in spent else NOTHING)
        rows.append(row)
    page.heading("Summary")
    page.table(["stage", "", "time", *(["cost"] if price else []), "tokens", "tokens/s", "memory, GB"], rows)
    promises = (
        ("peak_memory_gb", "foreseen_memory_gb", "GB"),
        ("tokens_per_second", "foreseen_tokens_per_second", "tokens/s"),
    )
    kept = [
        f"{stage} {format_number(spent[said])} {unit} ({spent[said] / spent[found] - 1:+.0%})"
        for stage, spent in (time["stages"] if time else {}).items()
        for found, said, unit in promises
        if spent.get(said) and spent.get(found)
    ]
    if kept:
        page.text(f"Foreseen before, with how far that was off: {', '.join(kept)}.")
    if time:
        cost = f", ${time['dollars']:,.2f} at ${price:,.2f} an hour" if price else ""
        page.text(
            f"{format_seconds(time['seconds'])} in all{cost}, over all sessions of every stage; without what was done "
            "between the last save and a crash."
        )


def _show_scores(page: Page, facts: Facts) -> None:
    scores, rl = facts["scores"], facts["rl"]
    rows = []
    for name in dict.fromkeys(name for found in scores.values() for name in found):
        known = next(found[name] for found in scores.values() if name in found)
        cells = [_score(name, found.get(name)) for found in scores.values()]
        chance = None if known["chance"] is None else {"value": known["chance"], "low": None, "high": None}
        rows.append(
            [name, *cells, _score(name, chance), format_number(known["n"]) if known["n"] else NOTHING]
        )
    page.heading("Scores by stage")
    if rows:
        page.table(["score", *map(_column, scores), "chance", "items"], rows)
        page.text("In brackets: 95 % intervals. Bits per byte: less is better.")
    else:
        page.text(f"Not evaluated yet; to do so: chatsmith evaluate {shlex.quote(facts['run']['path'])}")
    if rl:
        page.heading("Reinforcement learning, before and after", 3)
        what, scale, form, unit, gain_unit = ("greedy pass@1", 100, ".1f", " %", " points")
        if rl["is_graded"]:
            what, scale, form, unit, gain_unit = ("mean reward", 1, ".3f", "", "")
        rows = [
            [name, *(_span(part[when], scale, form, unit) for when in ("before", "after")), f"{part['n']:,}"]
            for name, part in rl["sections"].items()
        ]
        page.table([f"{what}, {rl['task']}", "before", "after", "problems"], rows)
        page.text(f"Gain: {_span(rl['gain'], scale, f'+{form}', gain_unit)}, with its 95 % interval.")


def _show_adapted(page: Page, evidence: Facts) -> None:
    page.heading("What it learned of your documents")
    page.text(evidence["sentence"])
    for title, columns, rows in adapted_tables(evidence):
        page.heading(title, 3)
        page.table(columns, rows)
    for sample in evidence["samples"]:
        asked = {f"question ({sample['passage']})": sample["question"], "expected": sample["answer"]}
        page.replies({**asked, **sample["replies"]})


def adapted_tables(evidence: Facts) -> list[tuple[str, list[str], list[list[str]]]]:
    """Title, columns and rows of the tables of what `adapt` measured."""
    models, changed = list(evidence["models"]), "change (95 % interval)"
    named = {"held_out": "your pages, held out", "general": "other text"}
    text = [
        [named[name], *(f"{one[model]['bits_per_byte']:.3f}" for model in models), _change(one, 1, ".3f")]
        for name, one in evidence["text"].items()
    ]
    named = {"training": "what it read", "held_out": "held-out pages", "general": "other text"}
    asked = [*models, "nearest pair"]
    questions = [
        [
            f"about {named[name]} ({one['n']})",
            *(_score("accuracy", {**one[model], "value": one[model]["accuracy"]}) for model in asked),
            _change(one, 100, ".0f"),
        ]
        for name, one in evidence["questions"].items()
    ]
    return [
        ("Bits per byte: less is better", ["text", *models, changed], text),
        ("Questions answered right", ["questions", *asked, changed], questions),
    ]


def _change(one: Facts, scale: float, form: str) -> str:
    if (change := one["change"]) is None:
        return "unknown: too little text"
    figures = [change[name] for name in ("difference", "low", "high")]
    return f"{_span(figures, scale, f'+{form}')}, p {change['p']:.2g}: {change['verdict']}"


def _show_data(page: Page, data: Facts) -> None:
    page.heading("What it was trained on")
    page.text(f"Source: {data['source']}." if data else "Not known: there is no manifest.")
    for kind in ("documents", "conversations"):
        if split := data.get(kind):
            page.text(
                f"{split['train']:,} {kind} to train on, {split['validation']:,} held out (by {split['held_out_by']}); "
                f"{format_number(split['characters'])} characters."
            )
            rows = [[name, f"{100 * share:.1f} %"] for name, share in split["shares"].items()]
            page.table([f"file of {kind}", "share of characters"], rows)


def _show_vocabularies(page: Page, vocabularies: Mapping[str, Facts]) -> None:
    """Bytes per token by text, and how much more this tokenizer packs into one than each of the others."""
    own, *others = vocabularies
    rows = []
    for text, size in vocabularies[own].items():
        sizes = [vocabularies[name].get(text) for name in others]
        cells = [NOTHING if one is None else f"{one} ({size / one - 1:+.0%})" for one in sizes]
        rows.append([text, str(size), *(cells if text != "ids" else map(str, sizes))])
    page.heading("Tokenizer: bytes per token")
    page.table(["text", own, *others], rows)
    if others:
        page.text(f"In brackets: how much more text {own} packs into a token.")


def _objects(
    page: Page, heading: str, first: str, objects: Mapping[str, Facts], *, only_different: bool = False
) -> None:
    """A table with a column for each object and a row for each of its values; nothing, where there are none."""
    names = dict.fromkeys(name for facts in objects.values() for name in facts)
    rows = [[_words(name), *(_value(facts.get(name)) for facts in objects.values())] for name in names]
    rows = [row for row in rows if not only_different or len(set(row[1:])) > 1]
    if rows or only_different:
        page.heading(heading)
    if rows:
        page.table([first, *objects], rows)
    elif only_different:
        page.text("The same in both.")


# ---- words ----


def _column(stage: str) -> str:
    name, at, step = stage.partition("@")
    return COLUMNS.get(name, name) + (at and f" after step {step}")


def _cells(scores: Mapping[str, Mapping[str, Facts]]) -> dict[str, str]:
    return {
        f"{_column(stage)}, {name}": _score(name, score)
        for stage, found in scores.items()
        for name, score in found.items()
    }


def _score(name: str, score: Facts | None) -> str:
    """Means and bits per byte as they are, accuracies in percent; with the interval, if it is known."""
    if score is None:
        return NOTHING
    style = (1, ".4f", "") if name in MEANS.values() or name.startswith("bits") else (100, ".1f", " %")
    figures = [score["value"], score["low"], score["high"]]
    return _span(figures[:1] if None in figures else figures, *style)


def _span(figures: Sequence[float], scale: float, form: str, unit: str = "") -> str:
    """'41.2 % (38.0 to 44.4)': a figure and the interval that may follow it."""
    value, *interval = (f"{scale * one:{form}}" for one in figures)
    return f"{value}{unit}" + (f" ({' to '.join(interval)})" if interval else "")


def _flat(value: Any, name: str = "") -> Iterable[tuple[str, str]]:
    """The leaves of nested objects, with the path to each; a list is one leaf."""
    if isinstance(value, Mapping):
        for key, one in value.items():
            yield from _flat(one, f"{name}, {key}" if name else str(key))
    else:
        yield name, _value(value)


def _value(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(_value, value)) or NOTHING
    if isinstance(value, int | float) and not isinstance(value, bool):
        return f"{value:,.6g}" if isinstance(value, float) else f"{value:,}"
    is_hash = re.fullmatch("[0-9a-f]{64}", str(value))
    return NOTHING if value in (None, "") else str(value)[:12] + "…" if is_hash else str(value)


def _words(name: str) -> str:
    return name.replace("_", " ")


def _clean(text: str) -> str:
    """`text` without what no file can hold, or a browser would trip over: control characters, halves of characters."""
    whole = text.encode("utf-8", "replace").decode()
    return re.sub(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", "\N{REPLACEMENT CHARACTER}", whole)


def _html(text: str) -> str:
    return escape(_clean(text))


def _md(text: str) -> str:
    """`text` on one line, with nothing in it that Markdown or a browser would take as its own."""
    return re.sub(r"([\\`*_\[\]|#~<>&])", r"\\\1", " ⏎ ".join(_clean(text).splitlines()))
