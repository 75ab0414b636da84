"""What people met in their first week, row by row of the list: what is printed, kept, and taken from where."""

import ast
import inspect
import io
import itertools
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from chatsmith.cli import main as cli
from chatsmith.cli import tokenizer as tokenizer_command
from chatsmith.cli.config import PretrainConfig, SftConfig
from chatsmith.cli.settings import layered
from chatsmith.data.documents import JsonLines
from chatsmith.runtime import atomic
from chatsmith.runtime.console import Reporter, counted, format_bytes
from chatsmith.runtime.errors import UserError
from chatsmith.runtime.run_directory import RunDirectory, stage_key


@pytest.fixture
def command(capsys):
    """Runs a command; returns its exit code, stdout and stderr."""

    def run(*argv: object, environ: dict[str, str] | None = None) -> tuple[int, str, str]:
        capsys.readouterr()
        code = cli.main(list(map(str, argv)), environ or {})
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_row_15_texts_alone_are_trained_on_and_evaluated(tmp_path, command):
    texts = tmp_path / "texts.txt"
    texts.write_text("\n\n".join(f"The {word} has a {word} hat." for word in ("cat", "dog", "cow")) * 80)
    sizes = ("pretrain.depth=1", "pretrain.width=32", "pretrain.head_dim=16", "pretrain.tokens=512")
    sizes += ("pretrain.sequence_length=32", "pretrain.minutes=0", "tokenizer.vocab_size=300")
    sizes += ("pretrain.compile=false", "pretrain.batch_tokens=128", "evaluate.max_examples=2")
    sets = [word for size in sizes for word in ("--set", size)]
    code, out, err = command("run", "textbook", "--data", texts, "--run", tmp_path / "run", *sets)
    assert (code, err) == (0, "")
    assert "sft is left out: no conversations were given" in out
    assert "Bits per byte:" in out and "Results in" in out


def test_row_17_how_it_is_computed_is_not_in_the_key(tiny_copy, command):
    keys = [stage_key(PretrainConfig(tokens=8, compile=on), documents="d") for on in (True, False)]
    assert keys[0] != keys[1] and keys[0].others == (str(keys[1]),) and keys[1].others == (str(keys[0]),)
    assert "is up to date" in command("pretrain", tiny_copy, "--compile")[1]  # made with --no-compile
    assert "is up to date" in command("sft", tiny_copy, "--compile")[1]


@pytest.mark.long
def test_row_17_the_first_of_three_settings_is_resumed_and_notices_name_what_differs(
    tiny_copy, subprocess_environment, command
):
    """Three trainings are stopped one after another; each is resumed, with --compile changed and told."""
    slow = ("--save-minutes", "0.0001", "--evaluations", "0", "--dtype", "fp32")

    def stopped(*flags: str) -> str:
        """Of a training that is asked to stop once its first state is saved."""
        program = [sys.executable, "-m", "chatsmith", "pretrain", str(tiny_copy), *slow, *flags]
        known = set((tiny_copy / "pretrain" / "state").glob("[0-9]*"))
        with subprocess.Popen(
            program, env=subprocess_environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        ) as process:
            while not set((tiny_copy / "pretrain" / "state").glob("[0-9]*")) - known:
                assert process.poll() is None, process.communicate()
                time.sleep(0.01)
            process.send_signal(signal.SIGINT)
            return process.communicate()[0]

    first = ("--tokens", "2000000", "--no-compile")
    stopped(*first)
    told = stopped("--tokens", "3000000", "--no-compile")
    assert "different settings" in told and "tokens 2000000, not 3000000" in told and "is kept" in told
    stopped("--tokens", "4000000", "--no-compile", "--seed", "7")
    again = stopped("--tokens", "2000000", "--no-compile", "--evaluations", "2")
    assert re.search(r"resuming after step \d+ of 1,953, saved earlier", again)
    assert "begun with evaluations 0, not 2" in again


def test_row_19_24_the_last_line_has_the_last_figure_means_are_called_so_and_one_is_not_many(
    tiny_copy, command
):
    code, out, _ = command("pretrain", tiny_copy, "--depth", 1, "--tokens", 1024, "--evaluations", 0)
    assert code == 0
    (last,) = [line for line in out.splitlines() if line.startswith("pretrain: 100%")]
    measured = (RunDirectory(tiny_copy).done_facts("pretrain") or {})["bpb"]
    assert float(last.split("bpb ")[1].split(",")[0]) == pytest.approx(measured, abs=1e-3)
    assert "mean loss" in out and not re.search(r"(?<!mean )loss \d", out)
    assert "1 layer," in out and "in 1 step of" in out and "\n1 step," in out
    assert not re.search(r"\b1 (layers|steps|rows|conversations)\b", out)


@pytest.mark.parametrize(
    ("kind", "layers", "expected"),
    [
        (SftConfig, [{"tokens": 2048, "epochs": 1.0, "minutes": 0.0}, {"epochs": 3.0}], {"epochs": 3.0}),
        (SftConfig, [{"tokens": 2048}, {"minutes": 2.0}], {"minutes": 2.0}),
        (PretrainConfig, [{"minutes": 5.0}, {}, {"ratio": 20.0}], {"ratio": 20.0}),
        (PretrainConfig, [{"minutes": 5.0}, {"tokens": 0}], {"minutes": 5.0, "tokens": 0}),
        (PretrainConfig, [{"tokens": 9}, {"depth": 2}], {"tokens": 9, "depth": 2}),
    ],
)
def test_row_20_a_budget_that_is_typed_takes_the_place_of_the_recipes(kind, layers, expected):
    assert layered(kind, *layers) == expected
    with pytest.raises(UserError, match="given twice, as tokens and as"):
        layered(kind, {}, {"tokens": 5, "minutes": 1.0})


def test_row_20_epochs_typed_are_not_overruled_by_tokens_in_the_recipe(tiny_copy, command):
    assert command("sft", tiny_copy, "--epochs", 0.25)[0] == 0
    assert (RunDirectory(tiny_copy).done_facts("sft") or {})["steps"] < 8  # of 8,192 tokens in the recipe
    code, _, error = command("sft", tiny_copy, "--epochs", 2, "--tokens", 2048)
    assert code == 2 and "given twice, as tokens and as epochs" in error


def test_row_20_results_go_where_they_are_wanted_or_are_refused(tiny_copy, tmp_path, command):
    before = sorted((tiny_copy / "evals").rglob("*"))
    kept = tmp_path / "kept"
    code, _, _ = command("evaluate", tiny_copy / "sft" / "bundle", "--max-examples", 2, "--results", kept)
    assert code == 0 and (kept / "sft-exam-2.json").is_file()
    assert sorted((tiny_copy / "evals").rglob("*")) == before
    code, _, error = command("evaluate", tiny_copy, "--results", "/proc/nope")
    assert code == 2 and "/proc/nope" in error and error.count("\n") == 1


def test_row_24_lines_that_are_passed_over_make_a_sentence(tmp_path):
    path = tmp_path / "big.jsonl"
    path.write_text('{"text": "a"}\n' * 150 + "[1]\n")
    notices: list[str] = []
    lines = JsonLines(path)
    list(lines)
    lines.add_notice(notices)
    assert notices == [f"{path}: passed over 1 of 151 lines; the first, line 151: not a JSON object"]


def test_row_24_one_is_not_many():
    words = [counted(number, "layer") for number in (0, 1, 2, 1000)]
    assert words == ["0 layers", "1 layer", "2 layers", "1,000 layers"]


def test_row_24_text_that_was_named_is_not_called_validation_text(tiny_copy, tmp_path, command):
    (tmp_path / "mine.txt").write_text("A cat and a hat.")
    _, out, _ = command("evaluate", tiny_copy, "--text", tmp_path / "mine.txt")
    assert "bytes of text" in out and "validation" not in out


def test_row_24_no_color_means_no_style_at_all(monkeypatch):
    monkeypatch.setenv("TERM", "xterm-256color")
    for value, has_style in (("", True), ("1", False)):
        monkeypatch.setenv("NO_COLOR", value)
        stream = Terminal()
        reporter = Reporter(stream=stream)
        reporter.stage("Title", "and more")
        reporter.table("A table", ["a", "b"], [["x", "1"]])
        reporter.notice("A notice")
        assert ("\x1b[" in stream.getvalue()) == has_style


def test_row_24_narrow_terminals_fold_names_and_never_cut_numbers(monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    stream = Terminal()
    path = "/home/somebody/with/a/long/path/to/the/texts/of/all/of/them.parquet"
    Reporter(stream=stream).table(
        "", ["file", "characters", "tokens"], [[path, "12,345,678,901", "2,345,678"]]
    )
    plain = re.sub(r"\x1b\[[\d;]*m", "", stream.getvalue())
    assert "12,345,678,901" in plain and "2,345,678" in plain and "…" not in plain
    assert "".join(re.findall(r"^│ (\S+) +│", plain, re.MULTILINE)) == path


def test_row_24_commands_to_type_are_quoted(tmp_path, command):
    empty = tmp_path / "my run"
    empty.mkdir()
    _, _, error = command("chat", empty, "--prompt", "hi")
    assert f"chatsmith pretrain '{empty}'" in error


def test_row_24_what_was_not_there_is_not_as_it_was(tmp_path):
    for is_there in (False, True):
        path = tmp_path / str(is_there)
        if is_there:
            path.mkdir()
        with pytest.raises(UserError) as caught, atomic.new_folder(path):
            raise OSError(28, "No space left on device")
        assert ("is as it was" in str(caught.value)) == is_there


def test_row_24_escapes_in_names_do_not_reach_the_terminal(tmp_path, command):
    bad = tmp_path / "esc\x1b[31mred\nline.txt"
    bad.write_text("a cat and a hat " * 20)
    for argv in (("data", "inspect", "--data", bad), ("data", "prepare", tmp_path / "run", "--data", bad)):
        code, out, err = command(*argv)
        assert code == 0 and "\x1b" not in out + err and "esc\\x1b[31mred\\nline.txt" in out
    code, out, err = command("data", "inspect", "--data", tmp_path / "no\x1b[31m.txt")
    assert code == 2 and "\x1b" not in err and "\\x1b[31m" in err


def test_row_24_flags_without_a_value_and_names_that_look_like_flags(tmp_path, command, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, _, error = command("data", "inspect", "--data", "--", "f")
    assert code == 2 and "--data" in error and "list" not in error
    code, _, error = command("data", "inspect", "--data=-dash.txt")
    assert code == 2 and "-dash.txt does not exist" in error


def test_row_24_the_tokenizers_examples_are_of_the_text_at_hand(tmp_path, command):
    text = "夜のうちに川の水かさが増し、朝には下の道がなくなっていた。\n\n"
    (tmp_path / "ja.txt").write_text(text * 200)
    run = tmp_path / "run"
    assert command("data", "prepare", run, "--data", tmp_path / "ja.txt")[0] == 0
    code, out, _ = command("tokenizer", run, "--vocab-size", 320)
    assert code == 0
    examples = out.split("Examples, one token between bars")[1]
    assert "夜" in examples.replace("|", "") and "little fox" not in examples


def test_row_24_ctrl_c_ends_a_tokenizer_at_once(monkeypatch):
    """Whatever native code is doing: it runs beside the thread that hears of it."""
    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        signal.setitimer(signal.ITIMER_REAL, 0.1)
        before = signal.signal(signal.SIGALRM, signal.default_int_handler)
        try:
            tokenizer_command.interruptible(lambda: time.sleep(60))
        finally:
            signal.signal(signal.SIGALRM, before)
    assert time.monotonic() - started < 30
    with pytest.raises(UserError, match="as it was raised"):
        tokenizer_command.interruptible(lambda: (_ for _ in ()).throw(UserError("as it was raised")))


def test_row_24_commands_to_type_are_quoted_and_sizes_have_a_unit_that_shows_them():
    """Of the source: a path may hold a space, and what is small would be 0.0 GB."""
    root, commands = Path(str(cli.__file__)).parents[1], "|".join(cli.COMMANDS)
    for file in sorted(root.rglob("*.py")):
        text = file.read_text(encoding="utf-8")
        for node in ast.walk(ast.parse(text)):
            for before, value in itertools.pairwise(getattr(node, "values", ())):
                if isinstance(before, ast.Constant) and isinstance(value, ast.FormattedValue):
                    is_argument = re.search(rf"chatsmith (?:{commands}) $", str(before.value))
                    assert not is_argument or re.search("quote|_typed", ast.unparse(value)), ast.unparse(node)
        assert not re.search(r"1f\} GB", text.replace(inspect.getsource(format_bytes), "")), file
