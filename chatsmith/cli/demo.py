"""`chatsmith demo`: the recipe kindergarten from beginning to end, then a chat with what it made.

The second time everything is done already, and the chat opens at once. Without a terminal it prints a sample
conversation instead and ends.
"""

import sys
import time

from chatsmith.cli import chat, run
from chatsmith.cli.config import ChatConfig, RunConfig
from chatsmith.cli.config import DemoConfig as Config
from chatsmith.runtime.console import Reporter


def main(config: Config) -> None:
    """Run the recipe, then chat in the terminal, or show a sample conversation where there is none."""
    reporter = Reporter()
    started = time.monotonic()
    directory, results = run.run_recipe(
        RunConfig(recipe="kindergarten", run=config.run, processes=1), reporter
    )
    if not all(result.was_done for result in results):
        run.show_results(directory, results, time.monotonic() - started, reporter)
        run.show_next_steps(directory, reporter)
    reporter.line()
    if sys.stdin.isatty() and sys.stdout.isatty():
        chat.main(ChatConfig(run=config.run))
    else:
        chat.show_sample(ChatConfig(run=config.run))
