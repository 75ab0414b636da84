import pytest

from chatsmith.runtime.errors import UserError
from chatsmith.runtime.run_directory import Recipe, read_recipe, write_recipe


def test_recipe_survives_writing_and_reading(tmp_path):
    recipe = Recipe(
        name="tiny",
        description='with "quotes", \\ and ä',
        stages=("data", "pretrain"),
        sections={"pretrain": {"depth": 2, "rate": 0.5, "files": ["a", "b"], "compile": False}},
        frozen={"pretrain": {"tokens": {"value": 1000, "given": "abc"}}},
    )
    write_recipe(tmp_path / "recipe.toml", recipe)
    assert read_recipe(tmp_path / "recipe.toml") == recipe


def test_name_is_the_file_name_if_none_is_given(tmp_path):
    (tmp_path / "mine.toml").write_text('stages = ["data"]\n')
    assert read_recipe(tmp_path / "mine.toml").name == "mine"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"stages = [", "not valid TOML"),
        (b'name = "\xff"', "not valid TOML"),
        (b"stages = 'data'", "stages must be a list"),
        (b"stages = [1]", "stages must be a list"),
        (b"stage = ['data']", r"unknown key 'stage' \(did you mean stages\?\)"),
        (b"depth = 4", "unknown key 'depth'; settings belong in a"),
        (b"name = 3", "must be texts"),
    ],
)
def test_wrong_recipes_are_one_line_errors(tmp_path, content, message):
    (tmp_path / "wrong.toml").write_bytes(content)
    with pytest.raises(UserError, match=message) as caught:
        read_recipe(tmp_path / "wrong.toml")
    assert "wrong.toml" in str(caught.value)


def test_missing_recipe_and_folder_are_named(tmp_path):
    for path in (tmp_path / "none.toml", tmp_path):
        with pytest.raises(UserError, match="cannot be read"):
            read_recipe(path)
