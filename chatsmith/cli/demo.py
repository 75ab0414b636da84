"""`chatsmith demo`: the recipe kindergarten from beginning to end, then a chat with what it made.

The second time everything is done already, and the chat opens at once. Without a terminal it prints a sample
conversation instead and ends.
"""

import sys
import time
from dataclasses import dataclass
from pathlib import Path

from chatsmith.runtime.logs import Reporter


@dataclass(frozen=True)
class Config:
    """Make a small model on built-in data, in minutes, and talk to it."""

    run: Path = Path("runs/kindergarten")
    """Run directory, made if need be."""


def main(config: Config) -> None:
    """Run the recipe, then chat in the terminal, or show a sample conversation where there is none."""
    from chatsmith.cli import chat, run

    reporter = Reporter()
    started = time.monotonic()
    directory, results = run.run_recipe(run.Config(recipe="kindergarten", run=config.run), reporter)
    if not all(result.was_done for result in results):
        run.show_results(directory, results, time.monotonic() - started, reporter)
        run.show_next_steps(directory, reporter)
    reporter.line()
    if sys.stdin.isatty() and sys.stdout.isatty():
        chat.main(chat.Config(run=config.run))
    else:
        chat.show_sample(chat.Config(run=config.run))
