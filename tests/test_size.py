"""The size of the code, package by package: `python tests/test_size.py` prints the table, and the test keeps it small.

Code lines are those that hold code: blank lines, comments and docstrings (texts that stand alone in a module, class or
function) apart. The core is what one reads from text to chat; what is measured but not shipped stands in bench/.
"""

import ast
import io
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
CORE = ("text", "data", "model", "optim", "train", "rl", "engine", "bundle.py")
# The core's is its aim. The whole's is what there is, so that it does not grow unseen: its aim is 18,000, and the
# shrinking that pays for its features is still to come.
CORE_LINES, CORE_FILES = 6_200, 50
ALL_LINES = 24_500
NO_CODE = {
    tokenize.COMMENT,
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENDMARKER,
}


def code_lines(source: str) -> int:
    """How many lines of `source` hold code."""
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in NO_CODE:
            lines.update(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            for one in node.body:
                match one:
                    case ast.Expr(value=ast.Constant(value=str())):
                        lines.difference_update(range(one.lineno, (one.end_lineno or one.lineno) + 1))
    return len(lines)


def files_of(place: Path) -> list[Path]:
    """The Python files in a folder, or the file itself."""
    return sorted(place.rglob("*.py")) if place.is_dir() else [place]


def packages() -> Iterator[tuple[str, int, int]]:
    """Name, code lines and files of each package, the core first."""
    others = [path for path in sorted((ROOT / "chatsmith").iterdir()) if path.name not in CORE]
    for place in [ROOT / "chatsmith" / name for name in CORE] + others:
        if place.suffix not in ("", ".py"):
            continue
        files = files_of(place)
        if files:
            yield place.name, sum(code_lines(file.read_text(encoding="utf-8")) for file in files), len(files)


def table() -> str:
    """The table of packages."""
    rows = [(("* " if name in CORE else "  ") + name, lines, files) for name, lines, files in packages()]
    core = [row for row in rows if row[0].startswith("*")]
    bench = files_of(ROOT / "bench")
    for title, part in (("core (*)", core), ("all", rows)):
        rows = [*rows, (title, sum(row[1] for row in part), sum(row[2] for row in part))]
    rows.append(("bench/", sum(code_lines(file.read_text(encoding="utf-8")) for file in bench), len(bench)))
    return "\n".join(f"{name:<14}{lines:>8,}{files:>6}" for name, lines, files in rows)


def test_the_code_stays_small() -> None:
    sizes = list(packages())
    core = [(lines, files) for name, lines, files in sizes if name in CORE]
    assert {name for name, _, _ in sizes} >= set(CORE)
    assert sum(lines for lines, _ in core) <= CORE_LINES, f"the core has grown:\n{table()}"
    assert sum(files for _, files in core) <= CORE_FILES, f"the core has grown:\n{table()}"
    assert sum(lines for _, lines, _ in sizes) <= ALL_LINES, f"the package has grown:\n{table()}"


@pytest.mark.parametrize(
    ("source", "count"),
    [
        ('"""A docstring\nof two lines."""\n\nx = 1  # one\n# none\n', 1),
        ('class A:\n    """Text."""\n    a: int = 0\n    """Field."""\n\n    def f(self):\n        "Text."\n', 3),
        ('x = """a\nb\nc"""\n', 3),
    ],
)  # fmt: skip
def test_the_count(source: str, count: int) -> None:
    assert code_lines(source) == count


if __name__ == "__main__":
    print(table())
