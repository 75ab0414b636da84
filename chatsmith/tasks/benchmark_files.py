"""Where the benchmarks' files are, and reading them: JSON lines in a folder with one layout.

    core/core.yaml  core/eval_meta_data.csv  core/eval_data/…  arc/  mmlu/  gsm8k/  humaneval/  words/

The folder is given by the caller; `default_folder` names the cache where downloads go. It knows nothing of what the
items mean, and downloads nothing.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from chatsmith.data.documents import JsonLines
from chatsmith.runtime.cache import cache_folder, usual_cache
from chatsmith.runtime.errors import UserError


def default_folder() -> Path:
    """The cache: `chatsmith/eval` in $XDG_CACHE_HOME, or in ~/.cache."""
    return (usual_cache() or cache_folder()) / "chatsmith" / "eval"


def find_file(folder: Path, path: str) -> Path:
    """The file `path` of the layout. Raises UserError, saying how to get it, if it is not there."""
    # A word list is no benchmark, so collections of data keep it beside the benchmarks' folder.
    places = (folder / path, folder.parent / path) if path.startswith("words/") else (folder / path,)
    for place in places:
        if place.is_file():
            return place
    raise UserError(
        f"{folder / path} is not there: `chatsmith evaluate --download` fetches the benchmarks, "
        "or --eval-data names the folder that has them"
    )


def has_file(folder: Path, path: str) -> bool:
    """Whether the file `path` of the layout is there."""
    try:
        find_file(folder, path)
    except UserError:
        return False
    return True


def read_items(folder: Path, path: str, fields: Sequence[str]) -> list[dict[str, Any]]:
    """All items of a file of JSON lines, each with at least these fields.

    Raises UserError if it is not there or has a line that cannot be used: a benchmark with a hole in it has no score.
    """
    place = find_file(folder, path)
    lines = JsonLines(place)
    items = []
    for number, item in lines:
        missing = [field for field in fields if field not in item]
        if missing:
            raise UserError(f"{place}, line {number}: there is no {', '.join(missing)}")
        items.append(item)
    if lines.broken_count:
        raise UserError(f"{place}: {lines.broken_count} of its lines cannot be read; fetch it again")
    return items
