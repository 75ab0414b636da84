"""A recipe: which stages run, in which order, with which settings. Read from TOML and written as TOML.

    name = "kindergarten"
    description = "…"
    stages = ["data", "tokenizer", "pretrain"]
    [pretrain]
    depth = 4
    [frozen.pretrain.tokens]        # measured once in this run, then kept; see RunDirectory.freeze
    value = 3276800
    given = "…"

It knows TOML and this shape; which stages exist and what their settings mean is known elsewhere.
"""

import difflib
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tomli_w

from chatsmith.runtime import atomic
from chatsmith.runtime.errors import UserError


@dataclass(frozen=True)
class Recipe:
    """The content of a recipe file."""

    name: str = ""
    description: str = ""
    stages: tuple[str, ...] = ()
    sections: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Settings by section; a section has the name of its stage."""
    frozen: dict[str, dict[str, dict[str, Any]]] = field(default_factory=dict)
    """Measured values by section and name: {"value": …, "given": the key it was measured for}."""

    def to_toml(self) -> str:
        """The text of the recipe file."""
        content: dict[str, Any] = {
            "name": self.name,
            "description": self.description,
            "stages": list(self.stages),
        }
        content |= {name: section for name, section in self.sections.items() if section}
        if self.frozen:
            content["frozen"] = self.frozen
        return tomli_w.dumps(content)


def read_recipe(path: Path) -> Recipe:
    """The recipe in the file at `path`. Raises UserError if it is missing, no TOML or of another shape."""
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"the recipe {path} cannot be read ({error.strerror})") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"the recipe {path} is not valid TOML: {error}") from error
    name, description = content.pop("name", path.stem), content.pop("description", "")
    stages, frozen = content.pop("stages", []), content.pop("frozen", {})
    if not (isinstance(name, str) and isinstance(description, str)):
        raise UserError(f"the recipe {path}: name and description must be texts in quotes")
    if not isinstance(stages, list) or not all(isinstance(stage, str) for stage in stages):
        raise UserError(f'the recipe {path}: stages must be a list of names, like ["tokenizer", "pretrain"]')
    for key, section in content.items():
        if not isinstance(section, dict):
            hint = did_you_mean(key, ("name", "description", "stages"))
            raise UserError(f"the recipe {path}: unknown key {key!r}{hint}; settings belong in a [section]")
    return Recipe(name, description, tuple(stages), content, frozen)


def write_recipe(path: Path, recipe: Recipe) -> None:
    """Write `recipe` to `path`, atomically."""
    atomic.write_text(path, recipe.to_toml())


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """' (did you mean X?)' with the known word nearest to `word`, or '' if none is near."""
    near = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f" (did you mean {near[0]}?)" if near else ""
