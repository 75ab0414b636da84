"""`chatsmith run`: the stages of a recipe, in order, in one run directory.

It fills every stage's settings before the first one starts, so that a typo costs seconds and not a training run;
keeps the resolved recipe in the run as recipe.toml; calls each stage's `main`; and shows what came out. A stage whose
outputs were made by the same settings skips itself. No stage's work is done here.
"""

import os
import time
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from chatsmith.cli import data, evaluate, pretrain, rl, sft, tokenizer
from chatsmith.cli.config import KINDERGARTEN, STAGES, ServeConfig, Settings
from chatsmith.cli.config import RunConfig as Config
from chatsmith.cli.report import write_report
from chatsmith.cli.settings import expanded, from_environment, from_recipe, made, to_recipe
from chatsmith.runtime.console import Reporter, format_number, format_seconds
from chatsmith.runtime.device import peak_resident_bytes
from chatsmith.runtime.errors import UserError, did_you_mean
from chatsmith.runtime.run_directory import Recipe, RunDirectory, read_recipe, write_recipe

BUILT_IN = Path(__file__).parent.parent / "recipes"
MAINS = {
    "data": data.main,
    "tokenizer": tokenizer.main,
    "pretrain": pretrain.main,
    "sft": sft.main,
    "rl": rl.main,
    "evaluate": evaluate.main,
}
OTHER_SECTIONS = ("serve",)  # kept for commands that are no part of a pipeline
FACTS_SHOWN = 5  # of a stage in the table of results
LONGEST_TEXT_SHOWN = 24  # longer ones are hashes and paths

Sections = Mapping[str, Mapping[str, Any]]


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
    show_results(run, results, time.monotonic() - started, reporter)
    show_next_steps(run, reporter)


def run_recipe(config: Config, reporter: Reporter) -> tuple[RunDirectory, list[StageResult]]:
    """Run the recipe's stages; returns the run directory and a result for each stage."""
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        raise UserError(
            "a recipe runs in one process; under torchrun start the training stages: "
            "torchrun ... -m chatsmith pretrain RUN, then sft, then rl"
        )
    recipe, run = find_recipe(config)
    is_old = Path(config.recipe).is_dir()
    configs, recipe = configure(recipe, run, read_overrides(config), os.environ, is_old=is_old)
    with run.lock():
        _keep_recipe(run, recipe)
    if config.ui:
        from chatsmith.cli.watch import open_page  # brings the server, which no training needs

        open_page(run.path, reporter)
    reporter.stage(f"Recipe {recipe.name}", f"{' → '.join(recipe.stages)}, in {run.path}")
    try:
        return run, [_run_stage(name, configs[name], run) for name in recipe.stages]
    finally:
        write_report(run.path, reporter)  # also where a stage fails: it says how far the run has come


def find_recipe(config: Config) -> tuple[Recipe, RunDirectory]:
    """The recipe that `config` names and the run directory it goes to. Raises UserError if there is none."""
    path = Path(config.recipe)
    if path.is_dir():
        continued = RunDirectory(path)
        if not continued.recipe.is_file():
            raise UserError(
                f"{path} is a folder without a recipe.toml; name a recipe, and the folder as the run",
                setting="run",
            )
        return read_recipe(continued.recipe), RunDirectory(config.run or path)
    recipe = read_recipe(path if path.suffix == ".toml" else _built_in(config.recipe))
    return recipe, RunDirectory(config.run or Path("runs") / recipe.name)


def read_overrides(config: Config) -> dict[str, dict[str, Any]]:
    """Recipe sections made of --set and the data flags of `config`."""
    overrides: dict[str, dict[str, Any]] = {}
    for text in config.set:
        place, equals, value = text.partition("=")
        stage, dot, name = place.strip().partition(".")
        if not (equals and dot and stage and name):
            raise UserError(f"--set takes stage.name=value, like pretrain.depth=6, not {text!r}")
        overrides.setdefault(stage, {})[name.replace("-", "_")] = _toml_value(value.strip())
    for name in ("data", "validation", "conversations", "validation_conversations"):
        paths: tuple[Path, ...] = getattr(config, name)
        if paths:
            # Absolute, so that the run can be continued from another folder.
            places = [path if path == KINDERGARTEN else expanded(path).absolute() for path in paths]
            overrides.setdefault("data", {})[name] = [str(place) for place in places]
    return overrides


def configure(
    recipe: Recipe,
    run: RunDirectory,
    overrides: Sections,
    environ: Mapping[str, str],
    *,
    is_old: bool = False,
) -> tuple[dict[str, Settings], Recipe]:
    """Each stage's settings, and the recipe with all of them written out.

    `overrides` are stronger than `environ`; `is_old`: the recipe is that of a run, which may have former names.
    Raises UserError for an unknown stage, section or setting, or a value that a stage refuses.
    """
    if not recipe.stages:
        raise UserError(f'the recipe {recipe.name} names no stages; add a line like stages = ["tokenizer"]')
    for name in (*recipe.stages, *recipe.sections, *overrides):
        is_kept = name in OTHER_SECTIONS and name not in recipe.stages
        if name not in STAGES and not is_kept:
            raise UserError(
                f"the recipe {recipe.name} names an unknown stage {name!r}{did_you_mean(name, STAGES)}"
            )
    sections: dict[str, dict[str, Any]] = {
        name: {**recipe.sections.get(name, {}), **overrides.get(name, {})}
        for name in dict.fromkeys((*recipe.stages, *recipe.sections, *overrides))
    }
    configs: dict[str, Settings] = {}
    for name in recipe.stages:
        config_class = STAGES[name]
        values = (
            from_recipe(config_class, name, recipe.sections.get(name, {}), is_old=is_old)
            | from_environment(config_class, name, environ)
            | from_recipe(config_class, name, overrides.get(name, {}))
        )
        try:
            configs[name] = made(config_class, values | {"run": run.path})
        except UserError as error:
            raise UserError(f"stage {name}: {error}") from error
        sections[name] = to_recipe(configs[name])
    return configs, replace(recipe, sections=sections)


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
    memory = f", at most {peak_resident_bytes() / 1e9:.1f} GB of memory" if is_new else ""
    reporter.line(f"Finished in {format_seconds(seconds)}{memory}.")


def show_next_steps(run: RunDirectory, reporter: Reporter) -> None:
    """What a person may want to type now."""
    address = f"http://{ServeConfig.host}:{ServeConfig.port}"
    steps = (
        (f"chatsmith chat {run.path}", "chat with your model"),
        (f"chatsmith serve {run.path}", f"the same on a web page, at {address}, and behind an API"),
        (f"chatsmith evaluate {run.path}", "measure it again, with different settings"),
        (f"chatsmith data inspect {run.path}", "see what it was trained on, and in which pieces"),
        ("chatsmith run textbook --data FILES --conversations FILES", "the same with text of your own"),
    )
    width = max(len(command) for command, _ in steps)
    reporter.line("\nTry next:")
    for command, purpose in steps:
        reporter.line(f"  {command:<{width}}  {purpose}")


def _run_stage(name: str, config: Any, run: RunDirectory) -> StageResult:
    done_before = run.finished_at(name)
    started = time.monotonic()
    try:
        MAINS[name](config)
    except UserError as error:
        if not error.settings:
            raise
        changes = ", ".join(f"--set {name}.{setting}=…" for setting in error.settings)
        raise UserError(f"{error} ({changes})") from error
    seconds = time.monotonic() - started
    facts = run.done_facts(name) or {}
    was_done = done_before is not None and done_before == run.finished_at(name)
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


def _built_in(name: str) -> Path:
    path = BUILT_IN / f"{name}.toml"
    names = sorted(file.stem for file in BUILT_IN.glob("*.toml"))
    if name not in names:
        known = ", ".join(names)
        raise UserError(
            f"no recipe {name!r}{did_you_mean(name, names)}; name one of {known}, a .toml file or a run directory"
        )
    return path


def _toml_value(text: str) -> Any:
    """`text` as TOML reads it: 6, 0.5, true, ["a"]; anything else is the text itself."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _in_words(facts: Mapping[str, Any]) -> str:
    """'loss 1.235, tokens 1.2M': the first facts of a stage."""
    shown = [
        f"{name.replace('_', ' ')} {_fact(value)}"
        for name, value in facts.items()
        if isinstance(value, int | float) or (isinstance(value, str) and len(value) <= LONGEST_TEXT_SHOWN)
    ]
    return ", ".join(shown[:FACTS_SHOWN])


def _fact(value: float | str) -> str:
    if isinstance(value, str | bool):
        return str(value)
    is_large = isinstance(value, int) or abs(value) >= 1000
    return format_number(value) if is_large else f"{value:.4g}"
