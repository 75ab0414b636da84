import errno
import os
import subprocess
import sys
from dataclasses import replace
from types import ModuleType

import pytest

from chatsmith.cli import main as cli
from chatsmith.cli.config import Positive, Run
from chatsmith.runtime.errors import UserError
from chatsmith.runtime.run_directory import Recipe, write_recipe


class Config(Run):
    """A stage that does what the test asks."""

    depth: Positive = 4
    """Layers."""


@pytest.fixture
def stage(monkeypatch, tmp_path):
    """`chatsmith pretrain` as a stage whose main is `stage.main`, for errors that a real one rarely has."""
    monkeypatch.chdir(tmp_path)  # a run of one's own in the working directory has settings of its own
    module = ModuleType("chatsmith.cli.pretrain")
    module.main = lambda config: None
    monkeypatch.setitem(sys.modules, "chatsmith.cli.pretrain", module)
    monkeypatch.setitem(cli.COMMANDS, "pretrain", replace(cli.COMMANDS["pretrain"], config=Config))
    return module


def chatsmith(*argv, **options):
    return subprocess.run(
        [sys.executable, "-m", "chatsmith", *argv], capture_output=True, text=True, timeout=60, **options
    )


def test_help_imports_nothing_heavy():
    """So it comes at once: 0.2 s on an idle machine, of which Python itself takes a tenth."""
    program = (
        "import sys\nfrom chatsmith.cli.main import main\n"
        "main(['--help'], {})\nprint(*sys.modules, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert not {"torch", "numpy", "rich", "pyarrow"} & set(done.stderr.split())


def test_help_names_every_command_and_the_pipeline_in_order():
    text = chatsmith("--help").stdout
    assert all(f"  {name} " in text for name in cli.COMMANDS)
    places = [text.index(f"  {command.name} ") for command in cli.PIPELINE]
    assert places == sorted(places)
    assert max(len(line) for line in text.splitlines()) <= 100


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_command_explains_itself(name, capsys):
    assert cli.main([*name.split(), "--help"], {}) == 0
    captured = capsys.readouterr()
    assert f"usage: chatsmith {name}" in captured.out
    assert captured.err == ""


def test_version_and_bare_call():
    assert chatsmith("--version").stdout == f"chatsmith {cli.__version__}\n"
    assert chatsmith().stdout == chatsmith("--help").stdout


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["pretrian"], "no command 'pretrian' (did you mean pretrain?)"),
        (["prepare"], "no command 'prepare' (did you mean data prepare?)"),
        (["data", "prepar"], "no command 'data prepar' (did you mean data prepare?)"),
        (["xyzzy"], "no command 'xyzzy'; see chatsmith --help"),
        (["--verbose"], "no command '--verbose'"),
        (
            ["pretrain", "--dept", "4"],
            "unknown flag --dept (did you mean --depth?); see chatsmith pretrain --help",
        ),
        (["pretrain", "--depth", "x"], "--depth must be a whole number, not 'x'"),
    ],
)
def test_wrong_commands_are_one_line_and_exit_2(argv, message, capsys):
    assert cli.main(argv, {}) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("chatsmith: ") and captured.err.count("\n") == 1
    assert message in captured.err


def test_a_group_of_commands_lists_them(capsys):
    for argv in (["data"], ["data", "--help"]):
        assert cli.main(argv, {}) == 0
        out = capsys.readouterr().out
        assert "chatsmith data prepare" in out and "chatsmith data inspect" in out


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (UserError("two\nlines"), 2, "chatsmith: two lines\n"),
        (KeyboardInterrupt(), 130, "chatsmith: stopped\n"),
        (OSError(errno.ENOSPC, "No space left on device", "/x/y"), 2, "chatsmith: the disk is full (/x/y)"),
        (
            PermissionError(errno.EACCES, "Permission denied", "/x/y"),
            2,
            "chatsmith: Permission denied (/x/y)",
        ),
    ],
)
def test_what_a_person_can_cause_is_one_line(stage, capsys, error, code, message):
    def fail(config):
        raise error

    stage.main = fail
    assert cli.main(["pretrain"], {}) == code
    captured = capsys.readouterr()
    assert captured.err.startswith(message) and captured.err.count("\n") == 1
    assert cli.main(["pretrain"], {"CHATSMITH_DEBUG": "1"}) == code
    assert "Traceback" in capsys.readouterr().err


def test_advice_is_spelled_as_a_flag_where_the_command_has_one(stage, capsys):
    def fail(config):
        raise UserError("the loss is not finite", setting=("depth", "of_another_command"))

    stage.main = fail
    assert cli.main(["pretrain"], {}) == 2
    assert capsys.readouterr().err == "chatsmith: the loss is not finite (--depth)\n"
    assert cli.main(["pretrain", "--depth", "0"], {}) == 2
    assert capsys.readouterr().err == "chatsmith: depth is 0; it must be at least 1 (--depth)\n"


def test_a_gpu_without_memory_is_one_line(stage, capsys):
    def fail(config):
        raise type("OutOfMemoryError", (RuntimeError,), {})("CUDA out of memory. Tried to allocate 2 GiB")

    stage.main = fail
    code = cli.main(["pretrain"], {})
    error = capsys.readouterr().err
    assert code == 2 and error.count("\n") == 1 and "memory ran out" in error


def test_a_defect_keeps_its_traceback(stage):
    def fail(config):
        raise ZeroDivisionError

    stage.main = fail
    with pytest.raises(ZeroDivisionError):
        cli.main(["pretrain"], {})


def test_settings_come_from_the_runs_recipe_the_environment_and_flags(stage, tmp_path):
    seen = []
    stage.main = seen.append
    write_recipe(tmp_path / "recipe.toml", Recipe(sections={"pretrain": {"depth": 5}}))
    cli.main(["pretrain"], {})
    cli.main(["pretrain", str(tmp_path)], {})
    cli.main(["pretrain", str(tmp_path)], {"CHATSMITH_PRETRAIN_DEPTH": "6"})
    cli.main(["pretrain", "--depth", "7", str(tmp_path)], {"CHATSMITH_PRETRAIN_DEPTH": "6"})
    cli.main(["pretrain"], {"CHATSMITH_PRETRAIN_RUN": str(tmp_path)})
    assert [config.depth for config in seen] == [4, 5, 6, 7, 5]


def test_unknown_variable_is_an_error_before_anything_runs(stage, capsys):
    stage.main = pytest.fail
    assert cli.main(["pretrain"], {"CHATSMITH_PRETRAIN_DEPHT": "4"}) == 2
    assert "did you mean CHATSMITH_PRETRAIN_DEPTH" in capsys.readouterr().err
    assert cli.main(["pretrain"], {"CHATSMITH_PRETRIAN_DEPTH": "4"}) == 2
    assert "did you mean CHATSMITH_PRETRAIN_DEPTH" in capsys.readouterr().err


def test_a_reader_that_goes_away_is_no_error():
    """chatsmith --help | head -1"""
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as closed:
        done = subprocess.run(
            [sys.executable, "-m", "chatsmith", "--help"], stdout=closed, stderr=subprocess.PIPE, text=True
        )
    assert done.returncode == 141
    assert done.stderr == ""
