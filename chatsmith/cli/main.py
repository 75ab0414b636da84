"""The `chatsmith` command: a table of commands, each a stage with a Config and a function that runs it.

It imports the one stage that was asked for, so that help answers at once. Whatever a person can cause ends as
one line on stderr that starts with `chatsmith:`; CHATSMITH_DEBUG=1 shows the traceback instead.

Exit codes: 0 done, 1 a defect in chatsmith (with its traceback), 2 wrong input or environment, 130 stopped by
Ctrl-C, 141 the reader of our output went away.
"""

import difflib
import errno
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module

from chatsmith import __version__
from chatsmith.runtime.errors import UserError


@dataclass(frozen=True)
class Command:
    """A command and where its stage is."""

    name: str
    """What is typed after `chatsmith`: one word or two."""
    summary: str
    """One line of help."""
    module: str
    """The file in chatsmith/stages."""
    section: str
    """Its name in recipes ([pretrain]) and environment variables (CHATSMITH_PRETRAIN_…)."""
    config: str = "Config"
    """The configuration class in the module."""
    main: str = "main"
    """The function in the module that takes the configuration."""


PIPELINE = (
    Command("data prepare", "gather documents and conversations, and hold some out", "data", "data"),
    Command("tokenizer", "learn a vocabulary from the text", "tokenizer", "tokenizer"),
    Command("pretrain", "train a model from nothing to continue text", "pretrain", "pretrain"),
    Command("sft", "teach it to hold a conversation (supervised fine-tuning)", "sft", "sft"),
    Command("rl", "let it practise what can be checked (reinforcement learning)", "rl", "rl"),
    Command("evaluate", "measure it: bits per byte, CORE, chat skills, an exam", "evaluate", "evaluate"),
    Command("chat", "talk to it in the terminal", "chat", "chat"),
    Command("serve", "put it behind the OpenAI API and a web page", "serve", "serve"),
)
AROUND = (
    Command("demo", "all of it on built-in data, in minutes, ending in a chat", "demo", "demo"),
    Command("run", "the stages of a recipe in order, skipping what is done", "run", "run"),
    Command("report", "the report of a run, or of two side by side", "report", "report"),
    Command("plan", "what a model of a given depth will cost and how it will be trained", "plan", "plan"),
    Command(
        "data inspect",
        "look at documents, and at how they tokenize and pack",
        "data",
        "inspect",
        config="InspectConfig",
        main="inspect",
    ),
    Command(
        "bench infer",
        "how fast this machine answers, and its share of the possible",
        "bench_infer",
        "bench_infer",
    ),
    Command("bench train", "how fast this machine trains, and its share of the possible", "bench", "bench"),
    Command("bench serve", "how a server holds up under load", "bench_serve", "bench_serve"),
    Command(
        "bench evaluate",
        "how much faster CORE is scored than one example at a time",
        "bench_evaluate",
        "bench_evaluate",
    ),
    Command(
        "bench rl",
        "how fast rollouts are in one batch, beside one question at a time",
        "bench_rl",
        "bench_rl",
    ),
)
COMMANDS = {command.name: command for command in (*PIPELINE, *AROUND)}

EXAMPLES = """\
Examples:
  chatsmith demo
  chatsmith run textbook --data books/ --conversations talks.jsonl --run runs/mine
"""


def run() -> None:
    """The entry point of the console script."""
    sys.exit(main(sys.argv[1:], os.environ))


def main(argv: Sequence[str], environ: Mapping[str, str]) -> int:
    """Run the command in `argv` and return the exit code."""
    try:
        _dispatch(list(argv), environ)
        sys.stdout.flush()
        return 0
    except SystemExit as stop:  # tyro leaves this way once it has printed help
        return stop.code if isinstance(stop.code, int) else 0
    except BrokenPipeError:
        # Python would complain once more when it flushes stdout on the way out.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except KeyboardInterrupt as stop:  # training says how to go on
        return _failed(str(stop) or "stopped", environ, code=130)
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
    """Load the stage of `command`, fill its configuration, and run it."""
    from chatsmith.runtime.settings import check_environment, load_config

    module = import_module(f"chatsmith.cli.{command.module}")
    config_class = getattr(module, command.config)
    check_environment(environ, {command.section for command in COMMANDS.values()})
    config = load_config(
        config_class,
        command.section,
        _recipe_of_run(config_class, command, argv, environ),
        environ,
        argv,
        prog=f"chatsmith {command.name}",
        description=_description(command, config_class),
    )
    getattr(module, command.main)(config)


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
        "Around it:",
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
    near = difflib.get_close_matches(word, by_any_word, n=1)
    guess = f" (did you mean {by_any_word[near[0]]}?)" if near else ""
    raise UserError(f"there is no command {word!r}{guess}; see chatsmith --help")


def _group_help(word: str) -> str:
    commands = [command for command in COMMANDS.values() if command.name.split()[0] == word]
    return "\n".join(f"chatsmith {command.name}: {command.summary}" for command in commands)


def _recipe_of_run(
    config_class: type, command: Command, argv: Sequence[str], environ: Mapping[str, str]
) -> dict[str, dict[str, object]]:
    """The sections of the recipe that the run directory was made with, if the command takes one."""
    from dataclasses import fields

    from chatsmith.runtime.recipe import read_recipe
    from chatsmith.runtime.run_directory import RunDirectory
    from chatsmith.runtime.settings import resolve

    takes_run = fields(config_class)[0].name == "run"
    if not takes_run or command.section == "demo" or {"--help", "-h"} & set(argv):
        return {}
    values = resolve(config_class, command.section, None, environ, argv, prog=f"chatsmith {command.name}")
    recipe = RunDirectory(values["run"]).recipe
    return read_recipe(recipe).sections if recipe.is_file() else {}


def _description(command: Command, config_class: type) -> str:
    written = config_class.__doc__ or ""
    is_generated = written.startswith(
        f"{config_class.__name__}("
    )  # what dataclass puts where nothing is written
    return command.summary.capitalize() + "." if is_generated or not written else written


def _explained(error: OSError) -> str:
    place = f" ({error.filename})" if error.filename else ""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"the disk is full{place}; what was finished is kept: free space and repeat the command"
    return f"{error.strerror or error}{place}; CHATSMITH_DEBUG=1 shows where it happened"


def _failed(message: str, environ: Mapping[str, str], code: int) -> int:
    if environ.get("CHATSMITH_DEBUG"):
        import traceback

        traceback.print_exc()
    # One line, whatever the message holds: a program may read it.
    print(f"chatsmith: {' '.join(message.split())}", file=sys.stderr)
    return code
