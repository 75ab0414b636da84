"""The script that kills training, at a small size: what it reports, and that nothing is lost."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.long
def test_training_that_is_killed_at_any_moment_ends_equal_and_leaves_nothing(tmp_path):
    """In a process of its own, since it forks."""
    done = subprocess.run(
        [sys.executable, ROOT / "bench" / "chaos.py", "--trials", "4", "--seed", "2", "--json"],
        env=os.environ | {"PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr
    counts = json.loads(done.stdout.splitlines()[-1])
    kills = counts.pop("kills")
    assert counts == {"trials": 4, "equal": 4, "leftovers": 0, "tracebacks": 0} and kills > 2, done.stderr
