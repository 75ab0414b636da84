from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chatsmith.runtime.errors import UserError
from chatsmith.runtime.settings import check_environment, load_config, to_section


@dataclass(frozen=True)
class Config:
    """Train a model."""

    run: Path = Path("runs/kindergarten")
    """Where the run is."""
    depth: int = 4
    """How many layers the model has."""
    rate: float | None = None
    """Learning rate; chosen by the plan if not given."""
    kind: Literal["small", "large"] = "small"
    """Which kind of model."""
    data: tuple[Path, ...] = ()
    """Files to read."""
    names: tuple[str, ...] = field(default=("a",))
    """Names."""
    compile: bool = True
    """Whether to compile."""
    json: bool = False
    """One JSON object on stdout."""
    prompt: str = ""
    """A text."""
    from_: Path | None = None
    """The bundle to start from."""

    def __post_init__(self) -> None:
        if self.depth < 1:
            raise UserError(f"depth is {self.depth}; it must be at least 1")


@dataclass(frozen=True)
class Named:
    POSITIONAL: ClassVar[tuple[str, ...]] = ("recipe",)
    recipe: str
    """Which recipe."""
    run: Path | None = None
    """Where."""


def load(*argv: str, recipe=None, environ=None, config_class=Config):
    return load_config(config_class, "pretrain", recipe, environ, list(argv))


def test_precedence_is_flags_environment_recipe_defaults():
    recipe = {"pretrain": {"depth": 5, "kind": "large", "rate": 1}, "sft": {"depth": 9}}
    environ = {"CHATSMITH_PRETRAIN_DEPTH": "6", "CHATSMITH_PRETRAIN_KIND": "small"}
    assert load() == Config()
    assert load(recipe=recipe).depth == 5
    assert load(recipe=recipe, environ=environ).depth == 6
    config = load("--depth", "7", recipe=recipe, environ=environ)
    assert (config.depth, config.kind, config.rate) == (7, "small", 1.0)
    assert isinstance(config.rate, float)


def test_a_value_that_a_stronger_place_replaces_is_not_checked():
    """depth = 0 in a recipe is impossible, but with --depth 3 nobody asked for it."""
    assert load("--depth", "3", recipe={"pretrain": {"depth": 0}}).depth == 3
    with pytest.raises(UserError, match="depth is 0"):
        load(recipe={"pretrain": {"depth": 0}})


def test_run_is_positional_wherever_it_stands():
    assert load("runs/a", "--depth", "3").run == Path("runs/a")
    assert load("--json", "runs/a").run == Path("runs/a")
    assert load("--data", "x", "y", "--json", "runs/a").run == Path("runs/a")
    assert load("kindergarten", "--run", "r", config_class=Named) == Named("kindergarten", Path("r"))


def test_lists_given_in_pieces_are_joined():
    assert load("--data", "a", "b", "--data=c").data == (Path("a"), Path("b"), Path("c"))


def test_flags_of_every_kind():
    config = load(
        "--no-compile", "--rate=0.5", "--names", "x", "y", "--from", "b", "--prompt=--depth", "--json"
    )
    assert config == Config(
        compile=False, rate=0.5, names=("x", "y"), from_=Path("b"), prompt="--depth", json=True
    )


def test_environment_reads_every_kind():
    environ = {
        "CHATSMITH_PRETRAIN_RATE": "1e-3",
        "CHATSMITH_PRETRAIN_DATA": "a 'b c'",
        "CHATSMITH_PRETRAIN_COMPILE": "no",
        "CHATSMITH_PRETRAIN_FROM": "bundle",
        "CHATSMITH_PRETRAIN_RUN": "runs/env",
        "CHATSMITH_SFT_ANYTHING": "another stage's",
        "PATH": "/bin",
    }
    assert load(environ=environ) == Config(
        run=Path("runs/env"), rate=1e-3, data=(Path("a"), Path("b c")), compile=False, from_=Path("bundle")
    )
    assert load(environ={"CHATSMITH_PRETRAIN_RATE": "none"}, recipe={"pretrain": {"rate": 2.0}}).rate is None


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--dpeth", "4"], "unknown flag --dpeth (did you mean --depth?)"),
        (["-x"], "unknown flag -x"),
        (["--depth", "four"], "--depth must be a whole number, not 'four'"),
        (["--depth=four"], "--depth must be a whole number, not 'four'"),
        (["--depth"], "--depth needs a value"),
        (["--depth", "--json"], "--depth needs a value"),
        (["--depth", "1.5"], "--depth must be a whole number, not '1.5'"),
        (["--kind", "medium"], "--kind must be one of small, large, not 'medium'"),
        (["--json=true"], "--json takes no value"),
        (["--data"], "--data needs at least one value"),
        (["a", "b"], "unexpected 'b'"),
        (["--run", "a"], "RUN is written without a flag"),
    ],
)
def test_wrong_flags_are_one_line_errors(argv, message, capsys):
    with pytest.raises(UserError) as caught:
        load(*argv)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert capsys.readouterr() == ("", "")  # tyro's own box is not shown


def test_missing_required_value_is_a_one_line_error():
    with pytest.raises(UserError, match="RECIPE") as caught:
        load(config_class=Named)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"dept": 4}, "[pretrain] has no setting 'dept' (did you mean depth?)"),
        ({"run": "x"}, "[pretrain] has no setting 'run'"),
        ({"depth": "4"}, "pretrain.depth must be a whole number, not '4'"),
        ({"depth": True}, "pretrain.depth must be a whole number, not True"),
        ({"depth": 4.0}, "pretrain.depth must be a whole number, not 4.0"),
        ({"rate": "fast"}, "pretrain.rate must be a number, not 'fast'"),
        ({"kind": "medium"}, "pretrain.kind must be one of small, large, not 'medium'"),
        ({"data": "a"}, "pretrain.data must be a list, each a path, not 'a'"),
        ({"data": ["a", 1]}, "pretrain.data must be a list"),
        ({"json": 1}, "pretrain.json must be true or false, not 1"),
    ],
)
def test_wrong_recipe_settings_are_one_line_errors(section, message):
    with pytest.raises(UserError) as caught:
        load(recipe={"pretrain": section})
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("variable", "message"),
    [
        ("CHATSMITH_PRETRAIN_DPETH", "CHATSMITH_PRETRAIN_DPETH (did you mean CHATSMITH_PRETRAIN_DEPTH?)"),
        ("CHATSMITH_PRETRAIN_DEPTH", "CHATSMITH_PRETRAIN_DEPTH must be a whole number, not 'x'"),
        ("CHATSMITH_PRETRAIN_COMPILE", "CHATSMITH_PRETRAIN_COMPILE must be true or false"),
    ],
)
def test_wrong_variables_are_one_line_errors(variable, message):
    with pytest.raises(UserError) as caught:
        load(environ={variable: "x"})
    assert message in str(caught.value)


def test_variables_of_no_stage_are_errors():
    check_environment({"CHATSMITH_DEBUG": "1", "CHATSMITH_SFT_X": "", "HOME": "/"}, ["pretrain", "sft"])
    with pytest.raises(UserError, match=r"CHATSMITH_PRETRIAN_DEPTH \(did you mean CHATSMITH_PRETRAIN_DEPTH"):
        check_environment({"CHATSMITH_PRETRIAN_DEPTH": "1"}, ["pretrain", "sft"])
    with pytest.raises(UserError, match=r"did you mean CHATSMITH_DEBUG"):
        check_environment({"CHATSMITH_DEBUGG": "1"}, ["pretrain", "sft"])


def test_help_shows_every_field_with_its_docstring_and_the_default_in_force(capsys):
    with pytest.raises(SystemExit) as stopped:
        load("--help", recipe={"pretrain": {"depth": 12}})
    assert stopped.value.code == 0
    shown = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "How many layers the model has. (default: 12)" in shown
    for flag in ("--depth", "--rate", "--data", "--no-compile", "--from ", "RUN"):
        assert flag in shown


@settings(max_examples=50, deadline=None)
@given(
    st.builds(
        Config,
        depth=st.integers(1, 10**6),
        rate=st.none() | st.floats(allow_nan=False, allow_infinity=False),
        kind=st.sampled_from(["small", "large"]),
        data=st.lists(st.text("abc/ .", min_size=1).map(Path), max_size=3).map(tuple),
        names=st.lists(st.text(), max_size=3).map(tuple),
        compile=st.booleans(),
        prompt=st.text(),
    )
)
def test_a_configuration_survives_the_way_through_a_recipe(config):
    from chatsmith.runtime.recipe import Recipe, tomllib

    text = Recipe(sections={"pretrain": to_section(config)}).to_toml()
    assert load(recipe=tomllib.loads(text)) == config
