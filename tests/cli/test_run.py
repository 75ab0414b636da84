"""`chatsmith run` around stages that do nothing; the real stages run in tests/test_pipeline.py."""

from pathlib import Path

import pytest

from chatsmith.cli import main as cli
from chatsmith.cli import recipe as recipes
from chatsmith.cli import run as run_stage
from chatsmith.cli.config import STAGES, Positive, Run
from chatsmith.runtime.errors import UserError
from chatsmith.runtime.run_directory import FrozenNumbers, RunDirectory, read_recipe, stage_key


class FakeConfig(Run):
    """A stage."""

    depth: Positive = 4
    """Layers."""
    rate: float | None = None
    """Rate."""
    data: tuple[Path, ...] = ()
    """Files."""


@pytest.fixture
def worked(monkeypatch, tmp_path):
    """Replaces the stages by ones that only keep their record; returns the list of those that worked."""
    names: list[str] = []

    def stage_main(name):
        def main(config):
            run = RunDirectory(config.run)
            with run.lock():
                key = stage_key(config)
                if not run.is_done(name, key):
                    names.append(name)
                    run.mark_done(name, key, {"seconds": 61.0, "loss": 1.23456, "tokens": 1_200_000})

        return main

    for name in STAGES:
        monkeypatch.setitem(run_stage.MAINS, name, stage_main(name))
        monkeypatch.setitem(STAGES, name, FakeConfig)
    monkeypatch.setattr(run_stage, "warn", lambda *_: None)  # these stages have no model
    monkeypatch.chdir(tmp_path)
    return names


@pytest.fixture
def recipe(tmp_path):
    path = tmp_path / "tiny.toml"
    path.write_text('description = "d"\nstages = ["data", "pretrain"]\n[pretrain]\ndepth = 2\n')
    return path


def run(*argv, environ=None):
    return cli.main(["run", *map(str, argv)], environ or {})


def test_stages_run_in_order_then_are_skipped_until_a_setting_changes(worked, recipe, capsys):
    assert run(recipe) == 0
    assert worked == ["data", "pretrain"]
    assert run(recipe) == 0
    assert worked == ["data", "pretrain"]
    assert "1 min 01 s (earlier)" in capsys.readouterr().out
    assert run(recipe, "--set", "pretrain.depth=3") == 0
    assert worked == ["data", "pretrain", "pretrain"]


def test_table_shows_times_figures_and_what_to_try_next(worked, recipe, capsys):
    assert run(recipe, "--run", "mine") == 0
    out = capsys.readouterr().out
    assert "loss 1.235, tokens 1.2M" in out
    assert "GB of memory" in out or "MB of memory" in out
    assert "chatsmith chat mine" in out


def test_resolved_recipe_holds_every_setting_of_the_run(worked, recipe, monkeypatch):
    monkeypatch.setenv("CHATSMITH_PRETRAIN_RATE", "0.5")
    monkeypatch.setenv("CHATSMITH_PRETRAIN_DEPTH", "9")
    assert run(recipe, "--set", "pretrain.depth=3", "--data", "books") == 0
    kept = read_recipe(Path("runs/tiny/recipe.toml"))
    assert kept.name == "tiny" and kept.stages == ("data", "pretrain")
    assert kept.sections["pretrain"] == {"depth": 3, "rate": 0.5, "data": []}  # a flag beats the environment
    assert kept.sections["data"]["data"] == [str(Path("books").absolute())]


def test_a_run_directory_continues_with_its_own_recipe(worked, recipe, monkeypatch):
    run(recipe, "--set", "pretrain.depth=3")
    recipe.unlink()
    assert run("runs/tiny") == 0
    assert worked == ["data", "pretrain"]


def test_frozen_values_survive_a_second_run(worked, recipe):
    run(recipe)
    numbers = FrozenNumbers(RunDirectory("runs/tiny"), "pretrain", "k")
    numbers.keep("tokens", 1000)
    assert run(recipe) == 0
    assert numbers.get("tokens") == 1000
    assert worked == ["data", "pretrain"]


def test_another_recipe_does_not_overwrite_a_run(worked, recipe, tmp_path, capsys):
    run(recipe)
    other = tmp_path / "other.toml"
    other.write_text('stages = ["data"]\n')
    assert run(other, "--run", "runs/tiny") == 2
    assert "was made by the recipe tiny" in capsys.readouterr().err
    assert read_recipe(Path("runs/tiny/recipe.toml")).name == "tiny"


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["kindergarden"], "did you mean kindergarten?"),
        (["missing.toml"], "missing.toml cannot be read"),
        (["."], "without a recipe.toml"),
        (["tiny.toml", "--set", "depth=3"], "--set takes stage.name=value"),
        (["tiny.toml", "--set", "pretrain.dept=3"], "no setting 'dept' (did you mean depth?)"),
        (["tiny.toml", "--set", "pretran.depth=3"], "unknown stage 'pretran' (did you mean pretrain?)"),
        (
            ["tiny.toml", "--set", "pretrain.depth=three"],
            "pretrain.depth must be a whole number, not 'three'",
        ),
        (["tiny.toml", "--set", "pretrain.depth=0"], "stage pretrain: depth is 0"),
        (["tiny.toml", "--run", "tiny.toml"], "a file is in the way"),
    ],
)
def test_wrong_input_is_one_line_and_nothing_starts(worked, recipe, capsys, argv, message):
    assert run(*argv) == 2
    err = capsys.readouterr().err
    assert message in err and err.count("\n") == 1
    assert worked == []
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is empty; delete it"),
        ('name = "x"', "names no stages"),
        ('stages = ["data", "pretain"]', "unknown stage 'pretain' (did you mean pretrain?)"),
        ('stages = ["data"]\n[pretrane]\ndepth = 3', "unknown stage 'pretrane' (did you mean pretrain?)"),
        ('stages = ["data"]\n[data]\ndept = 3', "[data] has no setting 'dept' (did you mean depth?)"),
    ],
)
def test_wrong_recipes_are_one_line_errors(worked, recipe, capsys, content, message):
    recipe.write_text(content)
    assert run(recipe) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("path", sorted(recipes.BUILT_IN.glob("*.toml")), ids=lambda path: path.stem)
def test_built_in_recipes_fit_the_stages(path, tmp_path):
    """A renamed setting must not leave a recipe behind."""
    recipe = read_recipe(path)
    assert recipe.name == path.stem and recipe.description
    file = tmp_path / "text.txt"
    file.write_text("text")
    overrides = {"data": {"data": [str(file)]}} if recipe.sections["data"].get("data") == [] else {}
    configs, resolved = recipes.configure(recipe, RunDirectory(tmp_path), overrides, {})
    assert set(configs) == set(recipe.stages) == set(resolved.sections) - set(recipes.OTHER_SECTIONS)


def test_advice_of_a_stage_is_spelled_as_a_change_of_the_recipe(worked, recipe, monkeypatch, capsys):
    def fail(config):
        raise UserError("the loss is not finite", setting="depth")

    monkeypatch.setitem(run_stage.MAINS, "pretrain", fail)
    assert run(recipe) == 2
    assert capsys.readouterr().err == "chatsmith: the loss is not finite (--set pretrain.depth=…)\n"
