"""Row 13 of what broke in a first week: output that the terminal cannot encode, everywhere, is escaped."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ENCODINGS = [
    {"PYTHONIOENCODING": "ascii"},
    {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    {"PYTHONIOENCODING": "latin-1"},
]


def chatsmith(environment: dict[str, str], *argv: str | Path) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-m", "chatsmith", *map(str, argv)],
        capture_output=True,
        env=environment,
        timeout=120,
    )


@pytest.mark.parametrize("encoding", ENCODINGS, ids=lambda one: " ".join(one))
def test_output_that_the_terminal_cannot_encode_is_escaped(encoding, subprocess_environment, tmp_path):
    (tmp_path / "umlauts.txt").write_text("Grüße aus Köln, 東京 und Łódź 🙂.\n" * 40, encoding="utf-8")
    environment = {**subprocess_environment, **encoding}
    done = chatsmith(environment, "data", "inspect", "--data", tmp_path / "umlauts.txt")
    assert (done.returncode, done.stderr) == (0, b"")
    assert rb"\u6771\u4eac" in done.stdout


def test_training_goes_on_where_the_terminal_cannot_encode_its_samples(subprocess_environment, tiny_copy):
    environment = {**subprocess_environment, "PYTHONIOENCODING": "ascii"}
    for argv in (
        ("tokenizer", tiny_copy, "--vocab-size", "500"),
        ("pretrain", tiny_copy, "--sample-prompts", "東京"),
    ):
        done = chatsmith(environment, *argv)
        assert (done.returncode, done.stderr) == (0, b""), argv
        assert rb"\u" in done.stdout
    assert (tiny_copy / "pretrain" / "bundle").is_dir()


def test_an_error_names_what_the_terminal_cannot_encode(subprocess_environment, tmp_path):
    environment = {**subprocess_environment, "PYTHONIOENCODING": "ascii"}
    done = chatsmith(environment, "data", "inspect", "--data", tmp_path / "fehlt_ü.txt")
    assert done.returncode == 2 and rb"fehlt_\xfc.txt" in done.stderr and done.stderr.count(b"\n") == 1


def test_a_prompt_and_a_name_that_are_no_text_do_not_end_a_training(tiny_copy, subprocess_environment):
    """As a terminal in another encoding gives them: half a character, which UTF-8 cannot say."""
    run = tiny_copy.with_name("run\udcff")
    os.rename(tiny_copy, run)
    settings = [
        "--tokens",
        "2048",
        "--batch-tokens",
        "1024",
        "--no-compile",
        "--sample-prompts",
        "a\udcff",
        "--seed",
        "5",
    ]
    command = [sys.executable, "-m", "chatsmith", "pretrain", str(run), *settings]
    done = subprocess.run(command, env=subprocess_environment, capture_output=True, check=False, timeout=200)
    assert done.returncode == 0, done.stderr[-2000:]
