"""The report as a page: what `gather` found, in Markdown and as one HTML file that needs nothing else.

The page works on paper, on a phone, and in the dark. Every text in it, replies of a model above all, is escaped.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from string import Template
from typing import Any

import tomli_w

from chatsmith.report.gather import CURVES, TRAINED, Facts
from chatsmith.report.plots import curve
from chatsmith.runtime.logs import format_number, format_seconds

COLUMNS = {"pretrain": "BASE", "mid": "MID", "sft": "SFT", "rl": "RL"}
"""What the stages are called in the table of scores."""
LONGEST_REPLY = 600  # characters
NOTHING = "–"

_PAGE = Template("""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>$title</title>
<style>
:root { --paper: #fff; --ink: #1d232b; --soft: #5b6570; --line: #d9dee4; --shade: #f4f6f8; --first: #1f6fb5;
  --second: #c4590f; color-scheme: light dark }
@media (prefers-color-scheme: dark) { :root { --paper: #14181d; --ink: #e4e8ec; --soft: #9aa5b1; --line: #353d46;
  --shade: #1d2329; --first: #6cb4ee; --second: #f0a35e } }
@media print { :root { --paper: #fff; --ink: #000; --soft: #444; --line: #bbb; --shade: #fff; --first: #1f6fb5;
  --second: #c4590f } @page { margin: 15mm } body { font-size: 10pt } nav { display: none } h2 { break-after: avoid } }
* { box-sizing: border-box }
body { margin: 0 auto; padding: 1rem; max-width: 62rem; background: var(--paper); color: var(--ink);
  font: 1rem/1.5 system-ui, sans-serif; overflow-wrap: break-word }
h1 { margin: .5rem 0 } h2 { margin: 2.2rem 0 .6rem; border-bottom: 1px solid var(--line) } h3 { margin: 1.2rem 0 .4rem }
nav { font-size: .9rem } nav a { margin-right: .9rem; display: inline-block } a { color: var(--first) }
.wide { overflow-x: auto; margin: .6rem 0 } table { border-collapse: collapse; font-size: .9rem }
th, td { padding: .25rem .7rem .25rem 0; text-align: left; vertical-align: top; border-bottom: 1px solid var(--line) }
thead th { color: var(--soft); white-space: nowrap } tbody th { font-weight: 500 } tr { break-inside: avoid }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap }
pre { background: var(--shade); border: 1px solid var(--line); border-radius: .3rem; padding: .6rem; overflow-x: auto;
  font-size: .82rem; white-space: pre-wrap }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 20rem), 1fr)); gap: .8rem }
figure { margin: 0; break-inside: avoid } svg { width: 100%; height: auto; max-width: 32rem }
dl { margin: .8rem 0; padding-left: .8rem; border-left: 3px solid var(--line); break-inside: avoid }
dt { color: var(--soft); font-size: .85rem } dd { margin: 0 0 .4rem; white-space: pre-wrap }
</style>
</head>
<body>
<h1>$title</h1>
<nav>$links</nav>
$body
</body>
</html>
""")


class Page:
    """A page that is written once, and comes out as Markdown and as HTML."""

    def __init__(self, title: str) -> None:
        self._title = title
        self._markdown = [f"# {_md(title)}"]
        self._html: list[str] = []
        self._links: list[str] = []
        self._figures = 0

    def heading(self, text: str, level: int = 2) -> None:
        """A heading; those of level 2 are linked at the top."""
        name = re.sub(r"[^a-z0-9]+", "-", text.lower())
        self._markdown.append(f"{'#' * level} {_md(text)}")
        self._html.append(f'<h{level} id="{_html(name)}">{_html(text)}</h{level}>')
        if level == 2:
            self._links.append(f'<a href="#{_html(name)}">{_html(text)}</a>')

    def text(self, text: str) -> None:
        """A paragraph."""
        self._markdown.append(_md(text))
        self._html.append(f"<p>{_html(text)}</p>")

    def items(self, lines: Iterable[str]) -> None:
        """A list."""
        lines = list(lines)
        self._markdown.append("\n".join(f"- {_md(line)}" for line in lines))
        self._html.append("<ul>" + "".join(f"<li>{_html(line)}</li>" for line in lines) + "</ul>")

    def code(self, text: str) -> None:
        """Lines as they are."""
        fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
        self._markdown.append(f"{fence}\n{_clean(text)}\n{fence}")
        self._html.append(f"<pre>{_html(text)}</pre>")

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """A table; the first column names the row, columns of numbers are aligned right."""
        right = [
            index > 0
            and 2 * sum(bool(re.match(rf"[-+$\d]|{NOTHING}$", row[index])) for row in rows) > len(rows)
            for index in range(len(columns))
        ]
        lines = [columns, ["-:" if is_right else "-" for is_right in right]]
        cells = [[_md(cell) for cell in columns], lines[1], *([_md(cell) for cell in row] for row in rows)]
        self._markdown.append("\n".join(f"| {' | '.join(line)} |" for line in cells))
        classes = [' class="number"' if is_right else "" for is_right in right]
        head = "".join(
            f'<th scope="col"{kind}>{_html(cell)}</th>' for cell, kind in zip(columns, classes, strict=True)
        )
        body = ""
        for first, *rest in rows:
            cells_of_row = (
                f"<td{kind}>{_html(cell)}</td>" for cell, kind in zip(rest, classes[1:], strict=True)
            )
            body += f'<tr><th scope="row">{_html(first)}</th>{"".join(cells_of_row)}</tr>'
        table = f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
        self._html.append(f'<div class="wide">{table}</div>')

    def replies(self, pairs: Mapping[str, str]) -> None:
        """A prompt and what was said to it, by speaker."""
        shown = {who: _shortened(text) for who, text in pairs.items()}
        self._markdown.append("\n".join(f"- **{_md(who)}:** {_md(text)}" for who, text in shown.items()))
        body = "".join(f"<dt>{_html(who)}</dt><dd>{_html(text)}</dd>" for who, text in shown.items())
        self._html.append(f"<dl>{body}</dl>")

    def curves(self, curves: Mapping[str, Mapping[str, Facts]]) -> None:
        """Figures by title, each with one or two curves by name; in Markdown their first and last values."""
        figures, rows = "", []
        for title, lines in curves.items():
            self._figures += 1
            x = next(iter(lines.values()))["x"]
            points = {name: line["points"] for name, line in lines.items()}
            figures += f"<figure>{curve(title, x, points, self._figures)}</figure>"
            for name, of_line in points.items():
                ends = [f"{of_line[end][1]:.4g}" for end in (0, -1)]
                rows.append([" ".join(filter(None, (title, name))), *ends])
        self._html.append(f'<div class="figures">{figures}</div>')
        html, self._html = self._html, []
        self.table(["curve", "first", "last"], rows)
        self._html = html

    def markdown(self) -> str:
        """The page in Markdown."""
        return "\n\n".join(self._markdown) + "\n"

    def html(self) -> str:
        """The page as one HTML file."""
        links, body = "\n".join(self._links), "\n".join(self._html)
        return _PAGE.substitute(title=_html(self._title), links=links, body=body)


def report(facts: Facts) -> Page:
    """The report of one run."""
    page = Page(f"Report: {facts['run']['name']}")
    if facts["run"]["description"]:
        page.text(facts["run"]["description"])
    _summary(page, facts)
    if facts["missing"]:
        page.heading("Missing or damaged")
        page.items(facts["missing"])
    _show_scores(page, facts)
    _show_data(page, facts["data"])
    if facts["models"]:
        page.heading("Models")
        _columns(page, "", facts["models"])
    if any(facts["curves"].values()):
        page.heading("Curves")
        for stage, curves in facts["curves"].items():
            if curves:
                page.heading(stage, 3)
                page.curves({title: {"": line} for title, line in curves.items()})
    _show_samples(page, facts)
    _show_tokenizer(page, facts["tokenizer"])
    page.heading("Machine and versions")
    page.text("Of the machine that wrote this report; what a stage wrote down itself follows.")
    written = {**facts["machine"], **facts["versions"]}
    page.table(["", ""], [[_words(name), _value(value)] for name, value in written.items()])
    for stage, kept in facts["recorded"].items():
        page.text(f"{stage}: " + ", ".join(f"{_words(name)} {_value(value)}" for name, value in kept.items()))
    if facts["warnings"]:
        page.heading("Warnings")
        page.items(facts["warnings"])
    _show_settings(page, facts)
    return page


def comparison(a: Facts, b: Facts) -> Page:
    """Two runs side by side: A and B."""
    page = Page(f"A: {a['run']['name']}, B: {b['run']['name']}")
    runs = {"A": a, "B": b}
    page.items(f"{name}: {facts['run']['path']}" for name, facts in runs.items())
    for name, facts in runs.items():
        if facts["missing"]:
            page.heading(f"Missing or damaged in {name}")
            page.items(facts["missing"])
    page.heading("Scores")
    rows = []
    for stage in dict.fromkeys([*a["scores"], *b["scores"]]):
        left, right = (facts["scores"].get(stage, {}) for facts in (a, b))
        for score in dict.fromkeys([*left, *right]):
            cells = [_score(score, found.get(score)) for found in (left, right)]
            rows.append([f"{COLUMNS.get(stage, stage)}, {score}", *cells])
    _table_or(page, ["score", "A", "B"], rows, "Neither was evaluated.")
    page.text(
        f"Which differences are real: chatsmith evaluate --compare {a['run']['path']} {b['run']['path']}"
    )
    for title, section in (
        ("Time", "time"),
        ("Data", "data"),
        ("Models", "models"),
        ("Settings", "settings"),
    ):
        left, right = (dict(_flat(facts[section])) for facts in (a, b))
        rows = [[name, left.get(name, NOTHING), right.get(name, NOTHING)] for name in {**left, **right}]
        if section == "settings":
            rows = [row for row in rows if row[1] != row[2]]
        page.heading(title)
        _table_or(
            page, ["", "A", "B"], rows, "The same in both." if section == "settings" else "Not recorded."
        )
    page.heading("Curves")
    for stage in dict.fromkeys([*a["curves"], *b["curves"]]):
        of_runs = {name: facts["curves"].get(stage, {}) for name, facts in runs.items()}
        titles = [title for title in CURVES if any(title in curves for curves in of_runs.values())]
        if titles:
            page.heading(stage, 3)
            page.curves(
                {t: {name: curves[t] for name, curves in of_runs.items() if t in curves} for t in titles}
            )
    return page


# ---- the sections ----


def _summary(page: Page, facts: Facts) -> None:
    time, rows = facts["time"], []
    has_price = "dollars" in time
    for stage, progress in facts["run"]["stages"].items():
        spent = time.get("stages", {}).get(stage, {})
        row = [stage, progress, format_seconds(spent["seconds"]) if spent.get("seconds") else NOTHING]
        row += [f"${spent['dollars']:,.2f}"] if has_price else []
        for name in ("tokens", "tokens_per_second", "peak_memory_gb"):
            row.append(format_number(spent[name]) if name in spent else NOTHING)
        rows.append(row)
    page.heading("Summary")
    price = f", ${time['dollars']:,.2f} at ${time['price_per_hour']:,.2f} an hour" if has_price else ""
    page.text(
        f"{format_seconds(time.get('seconds', 0))} in all{price}, over all sessions of every stage. What was done after the "
        "last save before a crash, and done again, is not counted."
    )
    page.table(
        ["stage", "", "time", *(["cost"] if has_price else []), "tokens", "tokens/s", "memory, GB"], rows
    )


def _show_scores(page: Page, facts: Facts) -> None:
    scores, rl = facts["scores"], facts["rl"]
    page.heading("Scores by stage")
    names = list(dict.fromkeys(name for found in scores.values() for name in found))
    rows = []
    for name in names:
        known = [found[name] for found in scores.values() if name in found]
        chance = next((one["chance"] for one in known if one.get("chance") is not None), None)
        n = next((f"{one['n']:,}" for one in known if one.get("n")), NOTHING)
        cells = [_score(name, found.get(name)) for found in scores.values()]
        rows.append([name, *cells, NOTHING if chance is None else _number(name, chance), n])
    columns = ["score", *(COLUMNS.get(stage, stage) for stage in scores), "chance", "items"]
    _table_or(page, columns, rows, f"Not evaluated yet: chatsmith evaluate {facts['run']['path']}")
    if rows:
        page.text("In brackets: 95 % intervals. Bits per byte: less is better.")
    for stage, found in scores.items():
        if "nearest_question" in found.get("exam", {}):
            nearest = f"{100 * found['exam']['nearest_question']:.1f} %"
            page.text(
                f"The exam of {stage}, answered with the reply to the nearest training question: {nearest}."
            )
    if rl:
        page.heading("Reinforcement learning, before and after", 3)
        gain = [100 * value for value in (rl["gain"], *rl["gain_interval"])]
        page.text(
            f"Greedy pass@1 on {rl['n']:,} problems ({rl['task']}): {_before_after(rl['overall'])}; gain "
            f"{gain[0]:+.1f} points ({gain[1]:+.1f} to {gain[2]:+.1f})."
        )
        rows = [[name, f"{one['n']:,}", _before_after(one)] for name, one in rl["sections"].items()]
        _table_or(page, ["section", "problems", "before and after"], rows, "")


def _before_after(found: Facts) -> str:
    shares = ([100 * share for share in found[when]] for when in ("before", "after"))
    return " → ".join(f"{share:.1f} % ({low:.1f} to {high:.1f})" for share, low, high in shares)


def _show_data(page: Page, data: Facts) -> None:
    page.heading("What it was trained on")
    if not data:
        page.text("Not known: there is no manifest.")
        return
    page.text(f"Source: {data['source']}; fingerprint of the contents: {data['fingerprint']}.")
    for kind in ("documents", "conversations"):
        if kind not in data:
            continue
        split = data[kind]
        page.text(
            f"{split['train']:,} {kind} to train on, {split['validation']:,} held out (by {split['held_out']}); "
            f"{format_number(split['characters'])} characters."
        )
        rows = [
            [source["path"], f"{source['characters']:,}", f"{100 * source['share']:.1f} %"]
            for source in split["sources"]
        ]
        page.table([f"file of {kind}", "characters", "share"], rows)


def _show_samples(page: Page, facts: Facts) -> None:
    if facts["samples"] or facts["rollouts"]:
        page.heading("Samples")
    for sample in facts["samples"]:
        pairs = {f"prompt ({sample['section']})": sample["prompt"]}
        if sample["expected"]:
            pairs["expected"] = str(sample["expected"])
        for stage, reply in sample["replies"].items():
            pairs[f"{COLUMNS.get(stage, stage)}, {'right' if reply['correct'] else 'wrong'}"] = reply["text"]
        page.replies(pairs)
    if facts["rollouts"]:
        page.heading(f"Replies in reinforcement learning, step {facts['rollouts'][0]['step']:,}", 3)
        for reply in facts["rollouts"]:
            page.replies(
                {"prompt": str(reply["prompt"]), f"reward {reply['reward']:.2f}": str(reply["reply"])}
            )


def _show_tokenizer(page: Page, tokenizer: Facts) -> None:
    if not tokenizer:
        return
    page.heading("Tokenizer")
    page.text("Bytes per token: the more, the shorter a text becomes.")
    vocabularies = tokenizer["vocabularies"]
    texts = vocabularies["this tokenizer"]["bytes_per_token"]
    rows = [["ids", *(f"{one['ids']:,}" for one in vocabularies.values())]]
    for text in texts:
        rows.append([text, *(f"{one['bytes_per_token'][text]:.2f}" for one in vocabularies.values())])
    page.table(["text", *vocabularies], rows)
    if tokenizer["not_available_offline"]:
        page.text(f"Not on this machine, so not compared: {', '.join(tokenizer['not_available_offline'])}.")
    if tokenizer.get("note"):
        page.text(tokenizer["note"])


def _show_settings(page: Page, facts: Facts) -> None:
    page.heading("Every setting")
    for stage, settings in facts["settings"].items():
        page.code(tomli_w.dumps({stage: settings}).strip() if settings else f"[{stage}]  # not recorded")
    page.heading("To reproduce it")
    page.code("\n".join(facts["reproduce"]) or "# no settings are recorded")
    known = facts["data"].get("fingerprint")
    same = f" The data is the same if its fingerprint is {known}." if known else ""
    page.text(f"The paths must lead to the same data, and the versions above belong to it.{same}")


# ---- words ----


def _columns(page: Page, first: str, columns: Mapping[str, Facts]) -> None:
    names = dict.fromkeys(name for facts in columns.values() for name in facts)
    rows = [[_words(name), *(_value(facts.get(name)) for facts in columns.values())] for name in names]
    page.table([first, *columns], rows)


def _table_or(page: Page, columns: Sequence[str], rows: Sequence[Sequence[str]], otherwise: str) -> None:
    if rows:
        page.table(columns, rows)
    elif otherwise:
        page.text(otherwise)


def _flat(value: Any, name: str = "") -> Iterable[tuple[str, str]]:
    """The leaves of nested objects, with the path to each; a list is one leaf."""
    if isinstance(value, Mapping):
        for key, one in value.items():
            yield from _flat(one, f"{name}, {_words(str(key))}" if name else _words(str(key)))
    else:
        yield name, _value(value)


def _value(value: Any) -> str:
    if value is None or value == [] or value == "":
        return NOTHING
    if isinstance(value, list):
        return ", ".join(_value(one["path"] if isinstance(one, dict) else one) for one in value)
    if isinstance(value, float):
        return f"{value:,.6g}"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return str(value)[:12] + "…" if re.fullmatch("[0-9a-f]{64}", str(value)) else str(value)


def _score(name: str, score: Facts | None) -> str:
    """'41.2 % (38.0 to 44.4)'."""
    if score is None or score["value"] is None:
        return NOTHING
    has_interval = score.get("low") is not None and score.get("high") is not None
    ends = (_number(name, score[end]).removesuffix(" %") for end in ("low", "high")) if has_interval else ()
    return _number(name, score["value"]) + (f" ({' to '.join(ends)})" if has_interval else "")


def _number(name: str, value: float) -> str:
    """Means and bits per byte as they are, accuracies in percent."""
    return f"{value:.4f}" if name in ("bits per byte", "CORE", "ChatCORE") else f"{100 * value:.1f} %"


def _clean(text: str) -> str:
    """`text` without what no file can hold, or a browser would trip over: control characters, halves of characters."""
    text = text.encode("utf-8", "replace").decode()
    return re.sub(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", "\N{REPLACEMENT CHARACTER}", text)


def _html(text: str) -> str:
    return escape(_clean(text))


def _words(name: str) -> str:
    return name.replace("_", " ")


def _shortened(text: str) -> str:
    return text if len(text) <= LONGEST_REPLY else text[:LONGEST_REPLY] + " …"


def _md(text: str) -> str:
    """`text` on one line, with nothing in it that Markdown or a browser would take as its own."""
    line = " ⏎ ".join(_clean(text).splitlines())
    return re.sub(r"([\\`*_\[\]|#~<>])", r"\\\1", line)
