"""Recipes: which stages, in which order, with which settings; by name, from a file, or from a run to continue."""

import tomllib
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from chatsmith.cli.config import KINDERGARTEN, STAGES, RunConfig, Settings, Shape, Sources, TokenizerConfig
from chatsmith.cli.settings import expanded, from_environment, from_recipe, layered, to_recipe
from chatsmith.cli.training import with_dial
from chatsmith.runtime.errors import UserError, did_you_mean
from chatsmith.runtime.run_directory import Recipe, RunDirectory, read_recipe
from chatsmith.train.plan import dial

BUILT_IN = Path(__file__).parent.parent / "recipes"
OTHER_SECTIONS = ("serve", "budget", "expected")
"""Sections that are no stage's: for commands outside of a pipeline, what `gpu` may take, and what others published."""

Sections = Mapping[str, Mapping[str, Any]]


def find_recipe(config: RunConfig) -> tuple[Recipe, RunDirectory]:
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
    recipe = named_recipe(config.recipe)
    return recipe, RunDirectory(config.run or Path("runs") / recipe.name)


def read_overrides(config: RunConfig) -> dict[str, dict[str, Any]]:
    """Recipe sections made of --set and the data flags of `config`."""
    overrides: dict[str, dict[str, Any]] = {}
    for text in config.set:
        place, equals, value = text.partition("=")
        stage, dot, name = place.strip().partition(".")
        if not (equals and dot and stage and name):
            raise UserError(f"--set takes stage.name=value, like pretrain.depth=6, not {text!r}")
        overrides.setdefault(stage, {})[name.replace("-", "_")] = _toml_value(value.strip())
    for field in fields(Sources):
        if (value := getattr(config, field.name)) != field.default:
            # Absolute, so that the run can be continued from another folder.
            named = (
                [_absolute(one) if isinstance(one, Path) else one for one in value]
                if isinstance(value, tuple)
                else value
            )
            overrides.setdefault("data", {})[field.name] = named
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
    configs: dict[str, Settings] = {}
    given: dict[str, dict[str, Any]] = {}
    for name in recipe.stages:
        config_class = STAGES[name]
        values = given[name] = layered(
            config_class,
            from_recipe(config_class, name, recipe.sections.get(name, {}), is_old=is_old),
            from_environment(config_class, name, environ),
            from_recipe(config_class, name, overrides.get(name, {})),
        )
        try:
            configs[name] = config_class(**{**values, "run": run.path})
        except UserError as error:
            raise UserError(f"stage {name}: {error}") from error
    pretrain, tokenizer = configs.get("pretrain"), configs.get("tokenizer")
    if isinstance(pretrain, Shape):  # what its depth says is written out: another version may say otherwise
        configs["pretrain"] = with_dial(pretrain)
        if isinstance(tokenizer, TokenizerConfig) and "vocab_size" not in given["tokenizer"]:
            configs["tokenizer"] = replace(tokenizer, vocab_size=dial(pretrain.depth).vocab_size)
    sections = {name: to_recipe(one) for name, one in configs.items()}
    for name in (*recipe.sections, *overrides):  # those of other commands stay as they are written
        sections.setdefault(name, {**recipe.sections.get(name, {}), **overrides.get(name, {})})
    return configs, replace(recipe, sections=sections)


def named_recipe(name: str) -> Recipe:
    """A built-in recipe, or one from a .toml file. Raises UserError if there is none."""
    if name.endswith(".toml"):
        return read_recipe(Path(name))
    names = sorted(file.stem for file in BUILT_IN.glob("*.toml"))
    if name not in names:
        known = ", ".join(names)
        raise UserError(
            f"no recipe {name!r}{did_you_mean(name, names)}; name one of {known}, a .toml file or a run directory"
        )
    return read_recipe(BUILT_IN / f"{name}.toml")


def _absolute(path: Path) -> str:
    """A path of data as a recipe keeps it; a name stays."""
    is_name = path == KINDERGARTEN or str(path).startswith("hub:")
    return str(path if is_name else expanded(path).absolute())


def _toml_value(text: str) -> Any:
    """`text` as TOML reads it: 6, 0.5, true, ["a"]; anything else is the text itself."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text
