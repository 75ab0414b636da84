"""Settings of the server: flags before environment before the run's recipe."""

from pathlib import Path
from typing import Any

import pytest

from chatsmith.cli import recipe as recipes
from chatsmith.cli import serve
from chatsmith.cli.main import main as command
from chatsmith.runtime.errors import UserError
from chatsmith.runtime.run_directory import Recipe, RunDirectory, read_recipe, write_recipe
from chatsmith.serve.models import choose_defaults


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run whose recipe says how it is served."""
    sections = {"serve": {"port": 1111, "max_queue": 7, "api_key": ["alice=sk-alice-1"]}}
    write_recipe(tmp_path / "recipe.toml", Recipe(name="x", stages=("data",), sections=sections))
    return tmp_path


def test_flags_come_before_environment_before_recipe(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[serve.Config] = []
    monkeypatch.setattr(serve, "main", seen.append)
    environment = {"CHATSMITH_SERVE_PORT": "2222"}
    assert command(["serve", str(run)], {}) == 0
    assert command(["serve", str(run)], environment) == 0
    assert command(["serve", str(run), "--port", "3333"], environment) == 0
    assert [config.port for config in seen] == [1111, 2222, 3333]
    assert {config.max_queue for config in seen} == {7}
    assert seen[0].api_key == ("alice=sk-alice-1",)


def test_a_recipe_with_a_section_for_serving_can_still_be_run(run: Path) -> None:
    recipe = read_recipe(run / "recipe.toml")
    configs, written = recipes.configure(recipe, RunDirectory(run), {}, {})
    assert list(configs) == ["data"]
    assert written.sections["serve"] == recipe.sections["serve"]


@pytest.mark.parametrize(
    "origin", ["example.org", "https://example.org/", "https://Example.org", "localhost:80"]
)
def test_an_origin_that_no_browser_sends_is_refused(origin: str) -> None:
    with pytest.raises(UserError, match=r"no origin: write https://example\.org"):
        serve.Config(cors_origins=("http://127.0.0.1:8899", "*", origin))


@pytest.mark.parametrize(
    "generation", [{"temperature": -5}, {"top_p": 0}, {"max_tokens": 0}, {"min_p": "0.1"}], ids=str
)
def test_defaults_that_cannot_be_used_are_the_bundle_s_fault(generation: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=r"generation_config\.json"):
        choose_defaults(generation)


@pytest.mark.parametrize(("setting", "value"), [("prot", "1"), ("port", "x")])
def test_what_is_unknown_or_mistyped_is_one_line(
    setting: str, value: str, capsys: pytest.CaptureFixture[str]
) -> None:
    environment: dict[str, Any] = {f"CHATSMITH_SERVE_{setting.upper()}": value}
    assert command(["serve"], environment) == 2
    assert capsys.readouterr().err.count("\n") == 1
