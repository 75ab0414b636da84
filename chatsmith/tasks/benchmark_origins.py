"""Where the benchmarks' files come from, and what a reader of a score must know about the file it was measured on.

The table is `benchmarks.toml` beside this file. Nothing here downloads.
"""

import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from chatsmith.data.dataset import file_sha256


@dataclass(frozen=True)
class Origin:
    """One file of the layout."""

    path: str
    """Its place in the benchmarks' folder."""
    source: str
    """`github:OWNER/REPOSITORY/REFERENCE/PATH` or `hub:OWNER/DATASET/PATH`."""
    sha256: str | None = None
    """Of the published file in our layout; None where it is not known."""
    remade_sha256: str | None = None
    """Of a remake, made where the published file was not at hand …"""
    remade_note: str = ""
    """… and what scores on it must be labelled with."""


@cache
def origins() -> dict[str, Origin]:
    """All files, by their paths."""
    table = tomllib.loads(Path(__file__).with_name("benchmarks.toml").read_text(encoding="utf-8"))
    return {
        path: Origin(
            path,
            entry["source"],
            entry.get("sha256"),
            entry.get("remade", {}).get("sha256"),
            entry.get("remade", {}).get("note", ""),
        )
        for path, entry in table.items()
    }


def note_about(file: Path, path: str) -> str:
    """What to label scores with that were measured on `file`, which stands for `path` of the layout; often nothing."""
    origin = origins().get(path)
    if origin is None:
        return ""
    digest = file_sha256(file)
    if digest == origin.remade_sha256:
        return origin.remade_note
    if origin.sha256 and digest != origin.sha256:
        return "the file is not the published one; not comparable with published scores"
    return ""
