"""Docs go stale loudly: every command, flag, variable and make target that they show exists."""

import re
import shlex
from dataclasses import fields
from pathlib import Path

import pytest

from chatsmith.adapt.writer import KEY_VARIABLE
from chatsmith.cli import main as cli
from chatsmith.cli.settings import GENERAL_VARIABLES, flags_of

ROOT = Path(__file__).parent.parent
PAGES = sorted(
    path
    for path in [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "bench").rglob("*.md")]
    if path.name != "CHANGELOG.md"  # history may speak of what is gone
)
SOURCES = [*(ROOT / "chatsmith").rglob("*.py"), *(ROOT / "chatsmith" / "recipes").glob("*.toml")]
COMMAND = re.compile(
    r"(?:^|[`$\s(/])chatsmith +((?!import\b)(?:[a-z]+|--help|--version)\b[^`\n]*)", re.MULTILINE
)


def code_in(text: str) -> list[str]:
    """The code blocks and code spans of a page; its prose is not searched."""
    blocks = re.findall(r"```[^\n]*\n(.*?)```", text, re.DOTALL)
    blocks += re.findall(r"(?:^|\n\n)((?: {4}[^\n]*\n)+)", text)
    return blocks + re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL))


def complaint(line: str) -> str | None:
    """What is wrong with the command `line`, or None."""
    line = re.split(r"\s[#|>&→]|\s\\?$|;", line)[0]
    words = shlex.split(line.replace("…", "").replace("[", " ").replace("]", " "))
    if words[0] in ("--help", "--version", "help"):
        return None
    name = next((name for name in (" ".join(words[:2]), words[0]) if name in cli.COMMANDS), None)
    if name is None:
        is_group = any(command.startswith(f"{words[0]} ") for command in cli.COMMANDS) and len(words) == 1
        return None if is_group else f"no command {words[0]}"
    known = flags_of(cli.COMMANDS[name].config)
    unknown = [word for word in words if word.startswith("--") and word.partition("=")[0] not in known]
    return f"{name} has no {unknown[0]}" if unknown else None


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_and_flags_on_the_page_exist(page):
    lines = [line for code in code_in(page.read_text()) for line in COMMAND.findall(code)]
    wrong = {line: complaint(line) for line in lines}
    assert {line: problem for line, problem in wrong.items() if problem} == {}


def test_commands_in_messages_and_help_exist():
    """What an error tells a person to type has to work."""
    wrong = {}
    for path in SOURCES:
        for line in re.findall(r"`chatsmith ([a-z][^`\n{]*)`", path.read_text()):
            if line.split()[0] != "COMMAND" and (problem := complaint(line)):
                wrong[f"{path.name}: chatsmith {line}"] = problem
    assert wrong == {}


def test_variables_on_the_pages_exist():
    known = {*GENERAL_VARIABLES, "CHATSMITH_PRETRAIN"}
    known |= {"CHATSMITH_STATE", "CHATSMITH_RUN", KEY_VARIABLE}  # what a command of --on-save is given
    for command in cli.COMMANDS.values():
        names = (field.name.removesuffix("_").upper() for field in fields(command.config))
        known |= {f"CHATSMITH_{command.section.upper()}_{name}" for name in names}
    for page in [*PAGES, ROOT / "chatsmith" / "cli" / "main.py"]:
        assert set(re.findall(r"CHATSMITH_[A-Z_]+[A-Z]\b", page.read_text())) <= known


def test_make_targets_on_the_pages_exist():
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for page in [*PAGES, ROOT / ".ci" / "run"]:
        text = page.read_text()
        code = "\n".join(code_in(text)) if page.suffix == ".md" else text
        assert set(re.findall(r"(?:^|[\s$])make ([a-z]+)", code)) <= targets, page


def test_every_command_is_in_the_readme():
    readme = (ROOT / "README.md").read_text()
    missing = [name for name in cli.COMMANDS if f"chatsmith {name}" not in readme]
    assert missing == []


def test_the_commands_that_run_under_torchrun_are_those_that_the_page_names():
    """A stage does if it makes a process group, or trains in a run."""
    page = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
    named = re.search(r"^`chatsmith ([^.]*) run under torchrun", page, re.MULTILINE)
    stages = (ROOT / "chatsmith" / "cli").glob("*.py")
    signs = ("process_group(runtime)", "training_stage(")
    grouped = {path.stem for path in stages if any(sign in path.read_text("utf-8") for sign in signs)}
    commands = {name for name, one in cli.COMMANDS.items() if one.module.partition(":")[0] in grouped}
    assert named and set(re.findall(r"[a-z]+", named[1])) - {"and"} == commands


def test_links_between_pages_lead_somewhere():
    broken = []
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text()):
            if "://" not in target and not (page.parent / target).exists():
                broken.append(f"{page.relative_to(ROOT)} -> {target}")
    assert broken == []


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("run kindergarten --set pretrain.depth=6", None),
        ("pretrain runs/x --depth=6  # comment --nothing", None),
        ("run --dta x", "run has no --dta"),
        ("trian", "no command trian"),
        ("data", None),
    ],
)
def test_the_check_itself_finds_what_is_wrong(line, problem):
    assert complaint(line) == problem
