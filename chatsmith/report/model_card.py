"""The model card, README.md of a bundle: written with the model, and its scores put in by every evaluation."""

import json
from collections.abc import Mapping, Sequence

_FRONT_MATTER = """---
library_name: chatsmith
pipeline_tag: text-generation
{widget}---
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
    data: Mapping[str, str] | None = None,
    recipe: Mapping[str, str] | None = None,
    scores: Mapping[str, str] | None = None,
    cost: Mapping[str, str] | None = None,
    suggestions: Sequence[str] = (),
) -> str:
    """README.md: what this is, what it was made from and how, how good it is, what it cost, and how to use it.

    Each section is a table of labels and texts ready to be read. `suggestions` are what to ask the model first; they
    stand in the front matter as Hugging Face's `widget`, where the chat page finds them.
    """
    widget = "".join(f"  - text: {json.dumps(text, ensure_ascii=False)}\n" for text in suggestions)
    sections = {"## Data": data, "## Recipe": recipe, _SCORES: scores, "## Cost": cost}
    front_matter = _FRONT_MATTER.format(widget=f"widget:\n{widget}" if widget else "")
    lines = [front_matter, f"# {title}", "", summary, ""]
    for heading, rows in sections.items():
        lines += [heading, "", _table(rows, _NO_SCORES if heading == _SCORES else "Not recorded."), ""]
    return "\n".join([*lines, _USE])


def with_scores(card: str, scores: Mapping[str, str]) -> str:
    """The card with its section of scores replaced by `scores`, or added at its end if it has none."""
    section = f"{_SCORES}\n\n{_table(scores, _NO_SCORES)}\n"
    before, found, after = card.partition(f"{_SCORES}\n")
    if not found:
        return f"{card.rstrip()}\n\n{section}"
    _, next_heading, rest = after.partition("\n## ")
    return before + section + next_heading + rest


def _table(rows: Mapping[str, str] | None, if_empty: str) -> str:
    """A Markdown table of two columns."""
    if not rows:
        return if_empty
    lines = [f"| {_cell(label)} | {_cell(value)} |" for label, value in rows.items()]
    return "\n".join(["| | |", "|-|-|", *lines])


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
