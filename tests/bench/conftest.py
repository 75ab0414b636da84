"""The scripts in bench/, which are no part of the package, as modules."""

import sys
from importlib import import_module
from pathlib import Path

import pytest

from tests.threads import one_thread

__all__ = ["one_thread"]


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch):
    """Imports a script by its name, as Python runs it: with its own folder on the path."""

    def load(name: str):
        path = Path(__file__).parents[2] / "bench" / name
        monkeypatch.syspath_prepend(str(path.parent))
        monkeypatch.delitem(sys.modules, path.name, raising=False)
        return import_module(path.name)

    return load
