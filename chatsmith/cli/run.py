"""`chatsmith run`: the stages of a recipe, in order, in one run directory.

It fills every stage's settings before the first one starts, so that a typo costs seconds and not a training run;
keeps the resolved recipe in the run as recipe.toml; calls each stage's `main`; and shows what came out. A stage whose
outputs were made by the same settings skips itself. No stage's work is done here. `chatsmith demo` is the recipe
kindergarten, and then a chat with what it made.
"""

import os
import shlex
import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from chatsmith.cli import chat, data, evaluate, pretrain, rl, tokenizer
from chatsmith.cli.config import ChatConfig, DemoConfig, ServeConfig
from chatsmith.cli.config import RunConfig as Config
from chatsmith.cli.doctor import processes_for, warn
from chatsmith.cli.launch import Machines, Place, find_place, launch
from chatsmith.cli.plan import EXPECTED, within_budget
from chatsmith.cli.recipe import configure, find_recipe, read_overrides
from chatsmith.cli.report import write_report
from chatsmith.cli.settings import GENERAL_VARIABLES, PREFIX
from chatsmith.data.dataset import load_manifest
from chatsmith.runtime.atomic import new_folder
from chatsmith.runtime.console import Reporter, format_bytes, format_number, format_seconds
from chatsmith.runtime.device import peak_resident_bytes
from chatsmith.runtime.errors import UserError
from chatsmith.runtime.run_directory import Recipe, RunDirectory, read_recipe, write_recipe

MAINS = {
    "data": data.main,
    "tokenizer": tokenizer.main,
    "pretrain": pretrain.main,
    "mid": pretrain.fine_tuning,
    "sft": pretrain.fine_tuning,
    "rl": rl.main,
    "evaluate": evaluate.main,
}
SHARED = ("pretrain", "mid", "sft", "rl", "evaluate")  # stages that several processes share
FACTS_SHOWN = 5  # of a stage in the table of results
LONGEST_TEXT_SHOWN = 24  # longer ones are hashes and paths


@dataclass(frozen=True)
class StageResult:
    """What came of one stage."""

    name: str
    seconds: float
    """How long its outputs took to make, now or when they were made."""
    was_done: bool
    facts: Mapping[str, Any]


def main(config: Config) -> None:
    """Run the recipe and print the table of results. Raises UserError for whatever a person can put right."""
    reporter = Reporter()
    started = time.monotonic()
    run, results = run_recipe(config, reporter)
    if not results:
        return
    show_results(run, results, time.monotonic() - started, reporter)
    show_next_steps(run, reporter)


def run_recipe(config: Config, reporter: Reporter) -> tuple[RunDirectory, list[StageResult]]:
    """Run the recipe's stages; returns the run directory and a result for each stage."""
    if config.restore:
        restore(config.restore, config.run or Path(config.recipe), reporter)
    place = find_place(os.environ, config.nodes)
    recipe, run = find_recipe(config)
    is_old = Path(config.recipe).is_dir()
    overrides = read_overrides(config)
    if not is_old:
        devices = (config.processes or processes_for({})) * place.nodes
        overrides = within_budget(recipe, overrides, devices, run=run)
    configs, recipe = configure(recipe, run, overrides, os.environ, is_old=is_old)
    processes = config.processes or processes_for(configs)
    machines = Machines(place)
    if place.node:  # the first machine does what is not shared, and speaks
        for name in recipe.stages:
            if name in SHARED:
                machines.begin(name)
                _launch_stage(name, run, processes, place)
        return run, []
    with run.lock():
        _keep_recipe(run, recipe)
    if config.ui:
        from chatsmith.cli.serve import open_page  # brings the server, which no training needs

        open_page(run.path, reporter)
    count = processes * place.nodes
    shared = f", on {count} processes" if count > 1 else ""
    reporter.stage(f"Recipe {recipe.name}", f"{' → '.join(recipe.stages)}, in {run.path}{shared}")
    for key, title in EXPECTED.items():
        if key in recipe.sections.get("expected", {}):
            reporter.line(f"{title}: {recipe.sections['expected'][key]}")
    warn(recipe, configs, run, processes, reporter)
    evaluating: Any = configs.get("evaluate")
    if evaluating and evaluating.download:
        folder = data.eval_folder(evaluating.eval_data)
        data.fetch_benchmarks(folder, reporter, evaluating.mirror)  # before the first GPU second is spent
    results: list[StageResult] = []
    try:
        for name in recipe.stages:
            if lack := _lacks(name, configs[name], run):
                reporter.notice(f"{name} is left out: {lack}")
            elif count == 1 or name not in SHARED:
                results.append(_run_stage(name, run, partial(MAINS[name], configs[name])))
            else:
                machines.begin(name)
                results.append(_run_stage(name, run, partial(_launch_stage, name, run, processes, place)))
        return run, results
    finally:
        write_report(run.path, reporter)  # also where a stage fails: it says how far the run has come


def restore(source: Path, run: Path, reporter: Reporter) -> None:
    """Make `run` a copy of the run directory `source`, unless it is there. Raises UserError if `source` is none."""
    if (run / "recipe.toml").is_file():
        reporter.notice(f"{run} is there already and goes on; nothing is restored")
        return
    if not (source / "recipe.toml").is_file():
        raise UserError(f"{source} is not a copy of a run: it has no recipe.toml", setting="restore")
    with new_folder(run) as folder:
        # A copy that was made of a run at work may have what was half-written then.
        shutil.copytree(source, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns(".*"))
    reporter.notice(f"{run} is restored from {source}")


def show_results(
    run: RunDirectory, results: Sequence[StageResult], seconds: float, reporter: Reporter
) -> None:
    """The table of results, the time it took, and the most memory it needed."""
    rows = []
    for result in results:
        duration = format_seconds(result.seconds) + (" (earlier)" if result.was_done else "")
        rows.append([result.name, duration, _in_words(result.facts)])
    reporter.line()
    reporter.table(f"Results in {run.path}", ["stage", "time", "result"], rows)
    is_new = not all(result.was_done for result in results)
    most = max([peak_resident_bytes(), *(1e9 * one.facts.get("peak_memory_gb", 0.0) for one in results)])
    memory = f", at most {format_bytes(most)} of memory" if is_new else ""
    reporter.line(f"Finished in {format_seconds(seconds)}{memory}.")


def show_next_steps(run: RunDirectory, reporter: Reporter) -> None:
    """What a person may want to type now."""
    quoted = shlex.quote(str(run.path))
    address = f"http://{ServeConfig.host}:{ServeConfig.port}"
    steps = (
        (f"chatsmith chat {quoted}", "chat with your model"),
        (f"chatsmith serve {quoted}", f"the same on a web page, at {address}, and behind an API"),
        (f"chatsmith evaluate {quoted}", "measure it again, with different settings"),
        (f"chatsmith data inspect {quoted}", "see what it was trained on, and in which pieces"),
        ("chatsmith run textbook --data FILES --conversations FILES", "the same with text of your own"),
    )
    width = max(len(command) for command, _ in steps)
    reporter.line("\nTry next:")
    for command, purpose in steps:
        reporter.line(f"  {command:<{width}}  {purpose}")
    expected = read_recipe(run.recipe).sections.get("expected", {}) if run.recipe.is_file() else {}
    if "advice" in expected:
        reporter.line(f"Next time, a better buy: {expected['advice']}")


def _lacks(name: str, config: Any, run: RunDirectory) -> str:
    """What keeps a stage after pretraining from having anything to do, where only texts were given; empty: nothing."""
    has_own = name == "sft" and (config.mixture or config.conversations)
    if name == "sft" and not has_own and load_manifest(run.data).conversations is None:
        return "no conversations were given, so the model will continue text, but not chat"
    if name == "rl" and not config.from_ and not run.bundle("sft").is_dir():
        return "there is no fine-tuned model to start from"
    return ""


def _launch_stage(name: str, run: RunDirectory, processes: int, place: Place) -> None:
    """The stage in processes of its own, with the settings that stand in the run's recipe."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(PREFIX)}
    kept |= {key: os.environ[key] for key in GENERAL_VARIABLES if key in os.environ}
    threads = max(1, len(os.sched_getaffinity(0)) // processes) if sys.platform == "linux" else 1
    kept.setdefault("OMP_NUM_THREADS", str(threads))
    launch([sys.executable, "-m", "chatsmith", name, str(run.path)], processes, place, kept)


def _run_stage(name: str, run: RunDirectory, work: Callable[[], None]) -> StageResult:
    done_before = run.done(name)
    started = time.monotonic()
    try:
        work()
    except UserError as error:
        if not error.settings:
            raise
        changes = ", ".join(f"--set {name}.{setting}=…" for setting in error.settings)
        raise UserError(f"{error} ({changes})") from error
    seconds = time.monotonic() - started
    done = run.done(name)
    facts, was_done = done["facts"] if done else {}, done is not None and done == done_before
    if was_done:
        seconds = float(facts.get("seconds", seconds))
    return StageResult(
        name, seconds, was_done, {key: value for key, value in facts.items() if key != "seconds"}
    )


def _keep_recipe(run: RunDirectory, recipe: Recipe) -> None:
    """Write the resolved recipe into the run, with the values that were measured in it before."""
    if run.recipe.is_file():
        kept = read_recipe(run.recipe)
        if kept.name not in ("", recipe.name):
            raise UserError(
                f"{run.path} was made by the recipe {kept.name}, which {recipe.name} would overwrite;"
                " choose another --run"
            )
        recipe = replace(recipe, frozen=recipe.frozen | kept.frozen)
        if recipe == kept:
            return
    write_recipe(run.recipe, recipe)


def _in_words(facts: Mapping[str, Any]) -> str:
    """'loss 1.235, tokens 1.2M': the first facts of a stage."""
    shown = [
        f"{'mean loss' if name == 'loss' else name.replace('_', ' ')} {_fact(value)}"
        for name, value in facts.items()
        if isinstance(value, int | float) or (isinstance(value, str) and len(value) <= LONGEST_TEXT_SHOWN)
    ]
    return ", ".join(shown[:FACTS_SHOWN])


def _fact(value: float | str) -> str:
    if isinstance(value, str | bool):
        return str(value)
    is_large = isinstance(value, int) or abs(value) >= 1000
    return format_number(value) if is_large else f"{value:.4g}"


def demo(config: DemoConfig) -> None:
    """Run the recipe, then chat in the terminal, or show a sample conversation where there is none."""
    reporter = Reporter()
    started = time.monotonic()
    directory, results = run_recipe(Config(recipe="kindergarten", run=config.run, processes=1), reporter)
    if not all(result.was_done for result in results):
        show_results(directory, results, time.monotonic() - started, reporter)
        show_next_steps(directory, reporter)
    reporter.line()
    if sys.stdin.isatty() and sys.stdout.isatty():
        chat.main(ChatConfig(run=config.run))
    else:
        chat.show_sample(ChatConfig(run=config.run))
