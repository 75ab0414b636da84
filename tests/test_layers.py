"""The rooms stay apart, and importing stays cheap: what import statements alone cannot show."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def modules_after(code: str) -> set[str]:
    """The modules loaded in a fresh interpreter after running `code`."""
    program = f"{code}\nimport sys\nprint(*sys.modules, sep='\\n', file=sys.stderr)"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT
    )
    return set(done.stderr.split())


@pytest.mark.long  # `make lint`, and so `make test`, has looked already
def test_import_contracts_hold():
    done = subprocess.run(
        [sys.executable, "-c", "from importlinter.cli import lint_imports_command as run; run()"],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stdout


def test_every_room_has_its_place_in_the_contract():
    """import-linter says nothing about a room that no layer names."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    named = {name.strip(" ()") for layer in contracts[0]["layers"] for name in layer.split("|")}
    rooms = {f"chatsmith.{path.parent.name}" for path in (ROOT / "chatsmith").glob("*/__init__.py")}
    files = {f"chatsmith.{path.stem}" for path in (ROOT / "chatsmith").glob("*.py") if path.stem[0] != "_"}
    assert rooms | files <= named


def test_reading_settings_loads_nothing_heavy():
    """Help and error messages of a command have to come at once."""
    loaded = modules_after("import chatsmith.cli.main, chatsmith.cli.settings")
    assert not {"torch", "numpy", "pyarrow", "tokenizers", "rich"} & loaded
    assert {name for name in loaded if name.startswith("chatsmith.cli.")} == {
        f"chatsmith.cli.{name}" for name in ("config", "main", "settings")
    }


def test_importing_the_package_loads_nothing_else():
    loaded = modules_after("import chatsmith")
    assert {name for name in loaded if name.startswith("chatsmith")} == {"chatsmith"}


def test_the_readme_lists_every_file_of_the_core():
    """The list that one reads by is the tree."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for package in ("text", "data", "model", "optim", "train", "engine", "rl"):
        line = next(line for line in readme.splitlines() if f"`chatsmith/{package}/`:" in line)
        listed = set(line.split("`:", 1)[1].replace("`", "").replace("|", "").replace(" ", "").split(","))
        files = {path.name for path in (ROOT / "chatsmith" / package).glob("*.py")} - {"__init__.py"}
        assert listed == files
