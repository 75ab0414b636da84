"""Settings: from flags, variables and recipes; bounds; former names; and the keys that they give stages."""

from dataclasses import dataclass, field, fields
from importlib import import_module
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chatsmith.cli import config as commands
from chatsmith.cli.config import Bound, Positive, Run, Settings
from chatsmith.cli.main import COMMANDS, main
from chatsmith.cli.settings import (
    check_environment,
    documentation,
    flags_of,
    from_environment,
    from_flags,
    from_recipe,
    to_recipe,
)
from chatsmith.cli.training import with_dial
from chatsmith.runtime.errors import UserError
from chatsmith.runtime.run_directory import Recipe, RunDirectory, settings_of, stage_key, tomllib
from chatsmith.text.tokenizer import MIN_VOCAB_SIZE


class Config(Run):
    """Train a model."""

    depth: Positive = 4
    """How many layers the model has."""
    rate: Annotated[float, Bound(gt=-1, le=2)] | None = None
    """Learning rate; chosen by the plan if not given."""
    kind: Literal["small", "large"] = "small"
    """Which kind of model."""
    data: tuple[Path, ...] = ()
    """Files to read."""
    names: tuple[str, ...] = field(default=("a",))
    """Names."""
    sizes: tuple[Positive, ...] = ()
    """Sizes."""
    compile: bool = True
    """Whether to compile."""
    json: bool = False
    """One JSON object on stdout."""
    prompt: str = ""
    """A text; 100% yours."""
    from_: Path | None = None
    """The bundle to start from."""
    share: float = field(default=0.5, metadata={"former": ("part", "portion")})
    """A setting with former names."""
    loud: bool = field(default=False, metadata={"former": ("noisy",)})
    """A switch with a former name."""


class Named(Settings):
    POSITIONAL: ClassVar[tuple[str, ...]] = ("recipe",)
    recipe: str = ""
    """Which recipe."""
    run: Path | None = None
    """Where."""


def load(*argv: str, recipe=None, environ=None, config_class=Config):
    """As the command line does it."""
    return config_class(
        **from_recipe(config_class, "pretrain", (recipe or {}).get("pretrain", {}))
        | from_environment(config_class, "pretrain", environ or {})
        | from_flags(config_class, argv, "chatsmith pretrain")
    )


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
        (["--depth"], "--depth: expected one argument"),
        (["--depth", "--json"], "--depth: expected one argument"),
        (["--depth", "1.5"], "--depth must be a whole number, not '1.5'"),
        (["--kind", "medium"], "--kind must be one of small, large, not 'medium'"),
        (["--json=true"], "--json/--no-json: ignored explicit argument 'true'"),
        (["--data"], "--data: expected at least one argument"),
        (["--dep", "4"], "unknown flag --dep (did you mean --depth?)"),
        (["--data", "a", "--dpeth", "4"], "unknown flag --dpeth"),
        (["a", "b"], "unexpected 'b'"),
        (["--run", "a"], "RUN is written without a flag"),
    ],
)
def test_wrong_flags_are_one_line_errors(argv, message, capsys):
    with pytest.raises(UserError) as caught:
        load(*argv)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"dept": 4}, "[pretrain] has no setting 'dept' (did you mean depth?)"),
        ({"run": "x"}, "[pretrain] has no setting 'run'"),
        ({"from_": "x"}, "[pretrain] has no setting 'from_' (did you mean from?)"),
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
        from_flags(
            Config, ["--help"], "chatsmith x", from_environment(Config, "x", {"CHATSMITH_X_DEPTH": "12"})
        )
    assert stopped.value.code == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "How many layers the model has. (default: 12)" in shown
    assert "100% yours" in shown and "usage: chatsmith x [RUN] [SETTINGS]" in shown
    for flag in ("--depth", "--rate", "--data", "--no-compile", "--from ", "RUN", "--share"):
        assert flag in shown
    assert "portion" not in shown


@settings(max_examples=50, deadline=None)
@given(
    st.builds(
        Config,
        depth=st.integers(1, 10**6),
        rate=st.none() | st.floats(-1, 2, exclude_min=True),
        kind=st.sampled_from(["small", "large"]),
        data=st.lists(st.text("abc/ .", min_size=1).map(Path), max_size=3).map(tuple),
        names=st.lists(st.text(min_size=1), max_size=3).map(tuple),  # an empty text is none
        compile=st.booleans(),
        prompt=st.text(),
    )
)
def test_a_configuration_survives_the_way_through_a_recipe(config):
    text = Recipe(sections={"pretrain": to_recipe(config)}).to_toml()
    assert load(recipe=tomllib.loads(text)) == config


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"depth": 0}, "depth is 0; it must be at least 1"),
        ({"rate": -1.0}, "rate is -1.0; it must be above -1 and at most 2"),
        ({"rate": 2.5}, "rate is 2.5; it must be above -1 and at most 2"),
        ({"rate": float("nan")}, "rate is nan; it must be a finite number, above -1 and at most 2"),
        ({"sizes": (3, 0)}, "sizes is 0; it must be at least 1"),
    ],
)
def test_bounds_are_checked_wherever_a_value_comes_from(values, message):
    with pytest.raises(UserError) as caught:
        Config(**values)
    assert str(caught.value) == message
    assert caught.value.settings == tuple(values)


def test_unbounded_numbers_may_be_infinite_only_where_that_is_declared():
    assert commands.PretrainConfig(save_minutes=float("inf")).save_minutes == float("inf")
    with pytest.raises(UserError, match="rate_scale is inf"):
        commands.PretrainConfig(rate_scale=float("inf"))


def test_a_former_name_is_accepted_everywhere_with_one_line(capsys):
    assert load("--part", "0.25").share == 0.25
    assert capsys.readouterr().err == "chatsmith: --part is now --share\n"
    assert load("--noisy").loud and not load("--no-noisy").loud
    assert "chatsmith: --noisy is now --loud\n" in capsys.readouterr().err
    assert load(environ={"CHATSMITH_PRETRAIN_PORTION": "0.75"}).share == 0.75
    assert "CHATSMITH_PRETRAIN_PORTION is now CHATSMITH_PRETRAIN_SHARE" in capsys.readouterr().err
    assert load(recipe={"pretrain": {"part": 0.125}}).share == 0.125
    assert "recipe setting pretrain.part is now recipe setting pretrain.share" in capsys.readouterr().err


def test_a_former_name_in_the_recipe_of_an_old_run_is_read_without_a_word(capsys):
    assert from_recipe(Config, "pretrain", {"part": 0.125}, is_old=True) == {"share": 0.125}
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(("text", "now"), [("The capital of", ("The capital of",)), ("", ())])
def test_a_text_that_became_a_list_of_texts_is_one_of_them(text, now, capsys):
    pretrain = commands.PretrainConfig
    assert from_recipe(pretrain, "pretrain", {"prompt": text}, is_old=True) == {"sample_prompts": now}
    assert capsys.readouterr() == ("", "")
    environ = {"CHATSMITH_PRETRAIN_PROMPT": text}
    assert from_environment(pretrain, "pretrain", environ) == {"sample_prompts": now}
    for flag in ("--prompt", "--sample-prompts"):
        assert from_flags(pretrain, [flag, text], "chatsmith pretrain") == {"sample_prompts": now}
    assert "is now" in capsys.readouterr().err


def test_a_renamed_field_keeps_its_stage_key():
    @dataclass(frozen=True)
    class Old:
        part: float = 0.5

    @dataclass(frozen=True)
    class New:
        share: float = field(default=0.5, metadata={"former": ("part", "portion")})

    assert stage_key(New(), data="x") == stage_key(Old(), data="x")
    assert stage_key(New(0.25)) == stage_key(Old(0.25)) != stage_key(Old())


# Of commit 7d02840: a run that was finished then is finished now.
KEYS = [
    ("data", {}, "2a777ae46b60ceb969575fb484b3c073a0205e8095b6aa437ead297f138cd478"),
    (
        "data",
        {"run": Path("x"), "data": (Path("a.txt"), Path("b")), "held_out": 0.05, "seed": 2,
         "kindergarten_documents": 300},
        "f7be8019867a1a33478838215d10f03bc8b3519fdc3630528ac59e3ffa10d9f7",
    ),
    ("tokenizer", {}, "80fc3b8c4863677e83e59d1c6f93e8420b58607d1ec20b95820844df832d3aa8"),
    (
        "tokenizer",
        {"vocab_size": 600, "sample_megabytes": 2.5},
        "b28c95fa55a3dba0e69b08a425299e1c8bc96d36ea6bd656d0a92bac83ae29bf",
    ),
    ("pretrain", {}, "efcda81c61b9c44dbb40ae690182e4634ea7266fa6d2beb05cf9e16e587990a5"),
    (
        "pretrain",
        {"run": Path("x"), "depth": 2, "width": 128, "tokens": 8192, "batch_tokens": 2048, "rate_scale": 0.5,
         "seed": 7, "dtype": "fp32", "compile": False, "track": "wandb", "evaluations": 0,
         "sample_prompts": ("a",)},
        "f4de64a020e94eda46f762267a05f1fb6ac9e998daac1b0d9d3cf39befe80223",
    ),
    (
        "pretrain",
        {"minutes": 5.0, "bigram_buckets": 64, "window_pattern": "SL", "sequence_length": 128, "head_dim": 32,
         "ratio": 20.0},
        "bcaeeb8f92cb391d415f5f3bf3a1413794e72186c2991065152e22ea4046c661",
    ),
    ("sft", {}, "0121a464d02fa0b3c5982e4ed684d334edb7d750f1251943e55d2778e8e57f92"),
    (
        "sft",
        {"from_": Path("b"), "conversations": (Path("c.jsonl"),), "validation_conversations": (Path("v.jsonl"),),
         "epochs": 2.0, "rate_scale": 1.0, "dtype": "bf16"},
        "1f90b0d871218436780c1b4737a47906f9fb6d6c91c073fb53891cbea0b598cd",
    ),
    ("sft", {"sample_prompts": ("a",)}, "0121a464d02fa0b3c5982e4ed684d334edb7d750f1251943e55d2778e8e57f92"),
    ("rl", {"sample_prompts": ("a",)}, "2ccc2ace59c34c3831417d8f69d6eb99d974e1cde2b4f1093b0a944adc02a87a"),
    ("rl", {}, "2ccc2ace59c34c3831417d8f69d6eb99d974e1cde2b4f1093b0a944adc02a87a"),
    (
        "rl",
        {"task": "gsm8k", "reward": "r.py:f", "steps": 3, "prompts": 4, "samples": 2, "max_tokens": 64,
         "updates": 2, "kl": 0.1, "blend": 0.7, "replay": 8, "problems": Path("p"), "scale_advantage": True,
         "development": 10},
        "6a9295cac543b4496b685a3fe5307750ccc363145874d0cac4e5679e8ffdbd12",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("stage", "values", "key"), KEYS)
def test_the_keys_of_stages_are_those_of_earlier_releases(stage, values, key):
    config = commands.STAGES[stage](**values)
    config = with_dial(config) if isinstance(config, commands.Shape) else config  # as the command does
    assert stage_key(config, x="1") == key


@pytest.mark.parametrize("name", COMMANDS)
def test_every_setting_is_documented(name):
    """Help without a word of explanation is of no use."""
    config_class = COMMANDS[name].config
    assert not (config_class.__doc__ or "").startswith(f"{config_class.__name__}(")
    documented: dict[str, str] = {}
    for owner in config_class.__mro__:
        documented = documentation(owner) | documented
    assert documented.keys() == {one.name for one in fields(config_class)}
    assert [one for one, text in documented.items() if not text] == []


@pytest.mark.parametrize("name", COMMANDS)
def test_every_flag_is_accepted_with_its_default(name):
    config_class = COMMANDS[name].config
    config = config_class()
    argv, positional = [], []
    for one in fields(config_class):
        value = getattr(config, one.name)
        flag = f"--{one.name.removesuffix('_').replace('_', '-')}"
        if one.name in config_class.POSITIONAL:
            positional += [] if value in (None, ()) else [str(value)]
        elif isinstance(value, bool):
            argv.append(flag if value else f"--no-{flag[2:]}")
        elif value not in (None, ()):
            argv += [flag, *map(str, value)] if isinstance(value, tuple) else [f"{flag}={value}"]
        assert one.name in config_class.POSITIONAL or flag in flags_of(config_class)
    assert config_class(**from_flags(config_class, [*positional, *argv], name)) == config


@pytest.mark.parametrize("name", COMMANDS)
def test_the_module_of_every_command_is_there(name):
    module, _, function = COMMANDS[name].module.partition(":")
    assert callable(getattr(import_module(f"chatsmith.cli.{module}"), function or "main"))


def test_the_smallest_vocabulary_is_the_tokenizer_s():
    assert commands.TokenizerConfig(vocab_size=MIN_VOCAB_SIZE).vocab_size == MIN_VOCAB_SIZE
    with pytest.raises(UserError, match=f"at least {MIN_VOCAB_SIZE}"):
        commands.TokenizerConfig(vocab_size=MIN_VOCAB_SIZE - 1)


def test_settings_are_kept_in_the_run_as_a_section_that_reads_back(tmp_path):
    config = commands.SftConfig(tmp_path, from_=Path("b"), conversations=(Path("ä.jsonl"),), epochs=2.0)
    run = RunDirectory(tmp_path)
    run.mark_done("sft", "k", {}, config=config)
    kept = tomllib.loads((tmp_path / "sft" / "settings.toml").read_text(encoding="utf-8"))
    assert kept["key"] == "k" == (run.done("sft") or {})["key"]
    section = kept["sft"]
    assert section.pop("run") == str(tmp_path)
    assert commands.SftConfig(**from_recipe(commands.SftConfig, "sft", section) | {"run": tmp_path}) == config


def test_every_stage_writes_its_settings_into_the_run(tiny_run):
    """However it was started: `done.json` alone holds no more than a hash of them."""
    run = RunDirectory(tiny_run)
    for stage, config_class in commands.STAGES.items():
        if run.done(stage) is None:
            continue
        kept = tomllib.loads((run.stage(stage) / "settings.toml").read_text(encoding="utf-8"))
        assert kept["key"] == (run.done(stage) or {})["key"]
        section = kept[stage]
        assert Path(section.pop("run")) == tiny_run
        config = config_class(**from_recipe(config_class, stage, section) | {"run": tiny_run})
        assert kept[stage] == {name: value for name, value in settings_of(config).items() if name != "run"}
    assert (run.done("pretrain") or {})["key"] and (run.done("sft") or {})["key"]


def test_a_number_that_no_float_holds_is_one_line(capsys):
    assert main(["pretrain", "x", "--tokens", "1" * 400], {}) == 2
    assert capsys.readouterr().err == "chatsmith: tokens is too large a number (--tokens)\n"
