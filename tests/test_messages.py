"""docs/trouble.md has every message that stops a run, in the program's own words, and none that it no longer says."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "trouble.md").read_text(encoding="utf-8")
MODULES = (
    "bundle.py",
    "cli/training.py",
    "data/tokens.py",
    "ingest/tokenizing.py",
    "runtime/atomic.py",
    "runtime/distributed.py",
    "runtime/run_directory.py",
    "runtime/sealed.py",
    "runtime/signals.py",
    "runtime/states.py",
    "train/checkpoint.py",
    "train/step.py",
    "train/trainer.py",
)
ERRORS = {"UserError", "NonFiniteLossError", "TrainingStoppedError", "DamagedFileError"}


def template(node: ast.expr, names: dict[str, str]) -> str:
    """The text of a string with … for what is filled in."""
    match node:
        case ast.Constant(value=str(text)):
            return text
        case ast.JoinedStr(values=values):
            return "".join(template(value, names) for value in values)
        case ast.FormattedValue(value=ast.Name(id=name)) | ast.Name(id=name) if name in names:
            return names[name]
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            return template(left, names) + template(right, names)
    return "…"


def messages(module: str) -> Iterator[str]:
    """What the errors say that are raised in a module."""
    tree = ast.parse((ROOT / "chatsmith" / module).read_text(encoding="utf-8"))
    names: dict[str, str] = {}
    for node in ast.walk(tree):
        match node:
            case ast.Assign(targets=[ast.Name(id=name)], value=ast.Constant() | ast.JoinedStr() as value):
                names[name] = template(value, {})
    for node in ast.walk(tree):
        match node:
            case ast.Call(func=ast.Name(id=name), args=[text, *_]) if name in ERRORS:
                found = " ".join(template(text, names).split())
                if len(found.replace("…", "")) > 12:  # not what another message is put around
                    yield found


def rows() -> list[str]:
    """The messages on the page: the code at the beginning of each row of a table."""
    return [" ".join(row.split()) for row in re.findall(r"^\| `+ ?(.+?) ?`+ \|", PAGE, re.MULTILINE)]


def test_every_message_that_stops_a_run_is_on_the_page_in_the_program_s_own_words():
    missing = {found for module in MODULES for found in messages(module)} - set(rows())
    assert not missing, "\n".join(sorted(missing))


def test_the_page_has_no_message_that_the_program_no_longer_says():
    said = {found for module in MODULES for found in messages(module)}
    assert len(rows()) == len(set(rows())) and not set(rows()) - said, sorted(set(rows()) - said)
