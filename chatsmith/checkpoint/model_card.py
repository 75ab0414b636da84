"""The model card: a bundle's README.md, as text.

It says what a stranger who finds the folder needs: what this is, what it was made from and how, how good it
is, what it cost, and how to use it. Writing it into a bundle is `checkpoint.bundle`'s business.
"""

from collections.abc import Mapping

_FRONT_MATTER = """---
library_name: chatsmith
pipeline_tag: text-generation
---
"""
_SCORES = "## Scores"
_NO_SCORES = "Not evaluated yet: `chatsmith evaluate` adds the scores here."

_USE = """## Use

    chatsmith chat PATH

`config.json` describes the architecture, `model.safetensors` holds the weights, `tokenizer.json` belongs to
these weights and to no others. `chat_template.jinja` shows other programs how a conversation becomes text;
user text must be encoded so that it cannot produce special tokens.
"""


def model_card(
    title: str,
    summary: str,
    *,
    data: Mapping[str, str],
    recipe: Mapping[str, str],
    scores: Mapping[str, str],
    cost: Mapping[str, str],
) -> str:
    """The card in Markdown. Each section is a table: a label, and beside it a text ready to be read."""
    sections = [
        _FRONT_MATTER,
        f"# {title}",
        "",
        summary,
        "",
        "## Data",
        "",
        _table(data, "Not recorded."),
        "",
        "## Recipe",
        "",
        _table(recipe, "Not recorded."),
        "",
        _SCORES,
        "",
        _table(scores, _NO_SCORES),
        "",
        "## Cost",
        "",
        _table(cost, "Not recorded."),
        "",
        _USE,
    ]
    return "\n".join(sections)


def with_scores(card: str, scores: Mapping[str, str]) -> str:
    """The card with its section of scores replaced by `scores`, or added at its end if it has none."""
    section = f"{_SCORES}\n\n{_table(scores, _NO_SCORES)}\n"
    before, found, after = card.partition(f"{_SCORES}\n")
    if not found:
        return f"{card.rstrip()}\n\n{section}"
    _, next_heading, rest = after.partition("\n## ")
    return before + section + next_heading + rest


def _table(rows: Mapping[str, str], if_empty: str) -> str:
    """A Markdown table of two columns."""
    if not rows:
        return if_empty
    lines = [f"| {_cell(label)} | {_cell(value)} |" for label, value in rows.items()]
    return "\n".join(["| | |", "|-|-|", *lines])


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
