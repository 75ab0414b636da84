"""Row 14 of what broke in a first week: no name for the user, no home, a home or /tmp that serves for nothing."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from chatsmith.runtime import cache
from chatsmith.runtime.device import can_compile

# As for a user id without an entry in /etc/passwd.
NAMELESS = """
import pwd, sys
def missing(user):
    raise KeyError(f"getpwuid(): uid not found: {user}")
pwd.getpwuid = missing
"""
COMMAND = NAMELESS + "from chatsmith.cli.main import run\nrun()"


@pytest.fixture
def nameless(subprocess_environment):
    """Runs Python code for a user without a name; without a home, unless one is given."""

    def run(code: str, *argv: str | Path, home: str | None = None) -> subprocess.CompletedProcess[str]:
        hidden = ("HOME", "USER", "LOGNAME", "LNAME", "USERNAME", "XDG_CACHE_HOME", "TORCHINDUCTOR_CACHE_DIR")
        environment = {name: text for name, text in subprocess_environment.items() if name not in hidden}
        environment |= {"HOME": home} if home else {}
        command = [sys.executable, "-c", code, *map(str, argv)]
        return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=200)

    return run


def test_a_chat_needs_neither_a_name_nor_a_home(nameless, tiny_run):
    done = nameless(COMMAND, "chat", tiny_run, "--prompt", "Hi", "--max-tokens", "4")
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("\n") == 1 and "temporary" in done.stderr  # one notice
    folder = Path(done.stderr.split()[-1].rstrip("."))
    assert folder.is_absolute() and not folder.exists()  # gone with the process


def test_a_home_that_cannot_be_written_is_like_none(nameless, tiny_run):
    done = nameless(COMMAND, "chat", tiny_run, "--prompt", "Hi", "--max-tokens", "4", home="/proc/self")
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("\n") == 1 and "temporary" in done.stderr


def test_evaluating_without_a_home_says_where_the_benchmarks_would_be(nameless, tiny_run):
    done = nameless(COMMAND, "evaluate", tiny_run, "--suite", "core")
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert "is not there" in done.stderr


def test_a_path_in_an_unknown_home_is_a_one_line_error(nameless):
    done = nameless(COMMAND, "data", "inspect", "--data", "~/x.txt")
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert "~/x.txt" in done.stderr and "home" in done.stderr


DETECTS = "import torch; from chatsmith.runtime.device import detect_runtime; detect_runtime('cpu')\n"


def test_torch_finds_a_place_for_what_a_nameless_user_compiles(nameless):
    """It would name it after the user."""
    code = "from torch._inductor.runtime.cache_dir_utils import cache_dir; print(cache_dir())"
    done = nameless(NAMELESS + DETECTS + code)
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.strip()).is_absolute()


@pytest.mark.long
@pytest.mark.skipif(not can_compile(torch.device("cpu")), reason="there is no compiler")
def test_a_nameless_user_compiles(nameless):
    code = "print(torch.compile(lambda x: x.sin() + 1)(torch.zeros(3)).tolist())"
    done = nameless(NAMELESS + DETECTS + code)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "[1.0, 1.0, 1.0]\n"


@pytest.fixture
def fresh(monkeypatch, tmp_path):
    """The caches of a process that has not looked for them yet; `noexec` holds the folders without execution."""
    noexec: list[Path] = []
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "x")
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(
        cache, "may_execute", lambda folder: not any(folder.is_relative_to(one) for one in noexec)
    )
    monkeypatch.setattr(cache.tempfile, "tempdir", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    cache.cache_folder.cache_clear()
    yield noexec
    cache.cache_folder.cache_clear()


def test_a_tmp_without_execution_is_not_compiled_into(fresh, tmp_path, capsys):
    fresh.append(tmp_path / "tmp")
    cache.prepare_compiling()
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == str(tmp_path / "cache" / "torchinductor")
    assert capsys.readouterr().err == ""


def test_where_neither_home_nor_tmp_executes_another_folder_is_found(fresh, tmp_path, monkeypatch, capsys):
    fresh += [tmp_path / "tmp", tmp_path / "cache"]
    (tmp_path / "other").mkdir()
    monkeypatch.setattr(cache, "OTHER_PLACES", (tmp_path / "missing", tmp_path / "other"))
    folder = cache.cache_folder()
    assert folder.parent == tmp_path / "other" and folder == cache.cache_folder()
    assert folder.stat().st_mode & 0o777 == 0o700
    assert cache.usual_cache() == tmp_path / "cache"  # where downloads are read from, all the same
    assert capsys.readouterr().err.count("\n") == 1


def test_usable_caches_are_left_as_they_are(fresh, tmp_path, capsys):
    cache.prepare_compiling()
    assert cache.cache_folder() == tmp_path / "cache"
    assert "TORCHINDUCTOR_CACHE_DIR" not in os.environ and capsys.readouterr().err == ""
