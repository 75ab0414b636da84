"""Where the benchmarks' files of the project's shared data are."""

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def benchmarks() -> Path:
    """The folder of the benchmarks' files, in the project's shared data."""
    root = os.environ.get("CHATSMITH_SHARED_DATA") or Path(__file__).parents[3] / "shared" / "data"
    folder = Path(root) / "eval"
    if not folder.is_dir():
        pytest.skip(
            f"needs the shared data: {folder} is not there (CHATSMITH_SHARED_DATA names another place)"
        )
    return folder
