"""The `chatsmith` command: the table of commands, and how one is run.

Settings are read from `chatsmith.cli.config` alone, so that help and mistakes are answered at once; then the command's
module is imported and its `main` called. Whatever a person can cause ends as one line on stderr that starts with
`chatsmith:`; CHATSMITH_DEBUG=1 shows the traceback instead.

Exit codes: 0 done, 1 a defect in chatsmith (with its traceback), 2 wrong input or environment, 130 stopped by
Ctrl-C, 141 the reader of our output went away, 143 stopped by SIGTERM.
"""

import errno
import io
import os
import sys
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from importlib import import_module

from chatsmith import __version__
from chatsmith.cli import config
from chatsmith.runtime import signals
from chatsmith.runtime.console import printable
from chatsmith.runtime.errors import UserError, nearest
from chatsmith.runtime.rank import is_main


@dataclass(frozen=True)
class Command:
    """A command, and where it is."""

    name: str
    """What is typed after `chatsmith`: one word or two."""
    config: type[config.Settings]
    """Its settings; the first line of their documentation is its line of help."""
    module: str
    """The file in chatsmith/cli whose `main` takes them, or FILE:FUNCTION."""
    section: str
    """Its name in recipes ([pretrain]) and variables (CHATSMITH_PRETRAIN_…)."""

    @property
    def summary(self) -> str:
        """One line of help."""
        return (self.config.__doc__ or "").partition("\n")[0].rstrip(".")


PIPELINE = (
    Command("data prepare", config.DataConfig, "data", "data"),
    Command("tokenizer", config.TokenizerConfig, "tokenizer", "tokenizer"),
    Command("pretrain", config.PretrainConfig, "pretrain", "pretrain"),
    Command("mid", config.MidConfig, "pretrain:fine_tuning", "mid"),
    Command("sft", config.SftConfig, "pretrain:fine_tuning", "sft"),
    Command("rl", config.RlConfig, "rl", "rl"),
    Command("evaluate", config.EvaluateConfig, "evaluate", "evaluate"),
    Command("chat", config.ChatConfig, "chat", "chat"),
    Command("serve", config.ServeConfig, "serve", "serve"),
)
AROUND = (
    Command("demo", config.DemoConfig, "run:demo", "demo"),
    Command("run", config.RunConfig, "run", "run"),
    Command("adapt", config.AdaptConfig, "adapt", "adapt"),
    Command("report", config.ReportConfig, "report", "report"),
    Command("watch", config.WatchConfig, "serve:watch", "watch"),
    Command("export", config.ExportConfig, "export", "export"),
    Command("import", config.ImportConfig, "export:import_folder", "import"),
    Command("push", config.PushConfig, "export:push", "push"),
    Command("pull", config.PullConfig, "export:pull", "pull"),
    Command("doctor", config.DoctorConfig, "doctor", "doctor"),
    Command("plan", config.PlanConfig, "plan", "plan"),
    Command("data download", config.DownloadConfig, "data:download", "download"),
    Command("data cache", config.TokenCacheConfig, "data:cache", "cache"),
    Command("data inspect", config.InspectConfig, "inspect_data", "inspect"),
    Command("bench infer", config.BenchInferConfig, "doctor:bench", "bench_infer"),
    Command("bench train", config.BenchTrainConfig, "doctor:bench", "bench"),
)
COMMANDS = {command.name: command for command in (*PIPELINE, *AROUND)}

EXAMPLES = """\
Examples:
  chatsmith demo
  chatsmith run textbook --data books/ --conversations talks.jsonl --run runs/mine
"""


OUT_OF_MEMORY = (
    "the GPU's memory ran out; what was saved is kept, and the same command goes on from there. `chatsmith plan` says "
    "what fits; other programs on the GPU take memory, too (nvidia-smi shows them)"
)


def run() -> None:
    """The entry point of the console script."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # What the terminal cannot encode is written as an escape: no character is worth a training run.
            stream.reconfigure(errors="backslashreplace")
    if sys.argv[1:2] not in (["chat"], ["serve"]):  # a signal ends a reply, or the server in its own way
        signals.install()
    sys.exit(main(sys.argv[1:], os.environ))


def main(argv: Sequence[str], environ: Mapping[str, str]) -> int:
    """Run the command in `argv` and return the exit code."""
    try:
        _dispatch(list(argv), environ)
        sys.stdout.flush()
        return 0
    except SystemExit as stop:  # argparse leaves this way once it has printed help
        return stop.code if isinstance(stop.code, int) else 0
    except BrokenPipeError:
        # Python would complain once more when it flushes stdout on the way out.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except KeyboardInterrupt as stop:  # training says how to go on
        code = stop.code if isinstance(stop, signals.StoppedError) else 130
        return _failed(str(stop) or "stopped", environ, code)
    except RuntimeError as error:
        if type(error).__name__ != "OutOfMemoryError":  # torch's, which is not imported to answer --help
            raise
        return _failed(OUT_OF_MEMORY, environ, code=2)
    except UserError as error:
        return _failed(str(error), environ, code=2)
    except OSError as error:
        return _failed(_explained(error), environ, code=2)


def _dispatch(argv: list[str], environ: Mapping[str, str]) -> None:
    if argv in ([], ["--help"], ["-h"], ["help"]):
        print(help_text())
        return
    if argv[0] in ("--version", "-V"):
        print(f"chatsmith {__version__}")
        return
    if argv[0] == "help":
        argv = [*argv[1:], "--help"]
    name = _find_name(argv)
    if name is None:
        print(_group_help(argv[0]))
        return
    execute(COMMANDS[name], argv[len(name.split()) :], environ)


def execute(command: Command, argv: Sequence[str], environ: Mapping[str, str]) -> None:
    """Fill the settings of `command`, from flags, variables, and the recipe inside the run it works on; run it."""
    # Not above: what only lists commands needs no argparse.
    from chatsmith.cli import settings as given
    from chatsmith.runtime.run_directory import RunDirectory, read_recipe

    section, prog = command.section, f"chatsmith {command.name}"
    given.check_environment(environ, {one.section for one in COMMANDS.values()})
    variables = given.from_environment(command.config, section, environ)
    flags = given.from_flags(command.config, argv, prog, variables)
    kept: given.Values = {}
    if "run" in command.config.POSITIONAL:
        recipe = RunDirectory({**variables, **flags}.get("run", config.DEFAULT_RUN)).recipe
        written = read_recipe(recipe).sections.get(section, {}) if recipe.is_file() else {}
        kept = given.from_recipe(command.config, section, written, is_old=True)
    values = given.layered(command.config, kept, variables, flags)
    try:
        settings = command.config(**values)
        module, _, function = command.module.partition(":")
        getattr(import_module(f"chatsmith.cli.{module}"), function or "main")(settings)
    except UserError as error:
        own = {field.name for field in fields(command.config)}.intersection(error.settings)
        if not own:
            raise
        flags = ", ".join(f"--{name.rstrip('_').replace('_', '-')}" for name in error.settings if name in own)
        raise UserError(f"{error} ({flags})") from error


def help_text() -> str:
    """What `chatsmith --help` prints."""
    width = max(len(name) for name in COMMANDS) + 2
    lines = [
        "chatsmith trains a ChatGPT of your own, from raw text to a chat in your terminal.",
        "",
        "usage: chatsmith COMMAND [SETTINGS]",
        "",
        "The pipeline, in order. Each command takes a run directory (default runs/kindergarten):",
        *(f"  {command.name:<{width}}{command.summary}" for command in PIPELINE),
        "",
        "Other commands:",
        *(f"  {command.name:<{width}}{command.summary}" for command in AROUND),
        "",
        EXAMPLES,
        "`chatsmith COMMAND --help` explains every setting of a command. A setting can also stand in a",
        "recipe (TOML) or in the environment: --depth of pretrain is CHATSMITH_PRETRAIN_DEPTH. Flags win.",
    ]
    return "\n".join(lines)


def _find_name(argv: list[str]) -> str | None:
    """The command that `argv` starts with; None if it is the first word of several and help is due."""
    word = argv[0]
    if word in COMMANDS:
        return word
    if word in {name.split()[0] for name in COMMANDS}:
        if len(argv) == 1 or argv[1] in ("--help", "-h"):
            return None
        word = f"{word} {argv[1]}"
        if word in COMMANDS:
            return word
    by_any_word = {part: name for name in COMMANDS for part in (name.split()[-1], name)}
    near = nearest(word, by_any_word)
    guess = f" (did you mean {by_any_word[near]}?)" if near else ""
    raise UserError(f"there is no command {word!r}{guess}; see chatsmith --help")


def _group_help(word: str) -> str:
    commands = [command for command in COMMANDS.values() if command.name.split()[0] == word]
    return "\n".join(f"chatsmith {command.name}: {command.summary}" for command in commands)


def _explained(error: OSError) -> str:
    place = f" ({error.filename})" if error.filename else ""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"the disk is full{place}; what was finished is kept: free space and repeat the command"
    return f"{error.strerror or error}{place}; CHATSMITH_DEBUG=1 shows where it happened"


def _failed(message: str, environ: Mapping[str, str], code: int) -> int:
    if environ.get("CHATSMITH_DEBUG"):
        traceback.print_exc()
    if code >= 130 and not is_main(environ):
        return code  # the main process says it
    # One line, whatever the message holds: a program may read it.
    print(f"chatsmith: {printable(' '.join(message.split()))}", file=sys.stderr)
    return code
