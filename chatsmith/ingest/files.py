"""The files that paths of a person name: those of supported types, in folders too, and what is passed over there."""

import os
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from chatsmith.data.documents import PACKINGS, SUPPORTED, file_type
from chatsmith.runtime.errors import UserError

MOST_KINDS = 8
"""Of what is passed over, named in one line."""


def types_to_read(as_text: bool) -> tuple[str, ...]:
    """The endings of documents; with `as_text` every other, too: what has none of these is read as plain text."""
    return (*SUPPORTED, "") if as_text else SUPPORTED


def find_files(
    paths: Iterable[Path], types: tuple[str, ...] = SUPPORTED, notices: list[str] | None = None
) -> list[Path]:
    """The files of these types that `paths` name, each once. Folders are searched recursively, in sorted order.

    Hidden files and folders, files of other types, linked folders and folders that may not be read are passed over
    inside folders: a line about the latter three is added to `notices`. Raises UserError for a missing path, what is
    no file or folder, a file of an unsupported type, and a folder without any supported file.
    """
    found: dict[Path, None] = {}  # a set that keeps its order
    for path in paths:
        if path.is_dir():
            passed_over: Counter[str] = Counter()
            files = _files_inside(path, types, passed_over)
            others = _in_words(passed_over)
            if not files:
                held = f"holds {others}, and no file" if others else "holds no file"
                raise _unsupported(f"the folder {path} {held} of a supported type", types)
            if others and notices is not None:
                notices.append(f"{path}: passed over {others}")
        elif path.is_file() and file_type(path, types) is not None:
            files = [path]
        elif not path.exists():
            raise UserError(f"{path} does not exist; check the path (seen from {Path.cwd()})")
        elif not path.is_file():
            raise UserError(f"{path} is neither a file nor a folder; write what it gives into a file")
        else:
            raise _unsupported(f"{path} is of an unsupported type", types)
        # Links are kept: the name in a cache of downloads is a link to a file without a telling name.
        found.update(dict.fromkeys(Path(os.path.abspath(file)) for file in files))
    return list(found)


def _files_inside(folder: Path, types: tuple[str, ...], passed_over: Counter[str]) -> list[Path]:
    """The files of these types in a folder, sorted; `passed_over` counts, by kind, what else is there."""
    files: list[Path] = []
    closed: list[OSError] = []
    for place, folders, names in os.walk(folder, onerror=closed.append):
        folders[:] = [name for name in folders if not name.startswith(".")]
        linked = sum(os.path.islink(os.path.join(place, name)) for name in folders)
        passed_over += Counter({"linked folder{s}": linked})
        for path in (Path(place, name) for name in names if not name.startswith(".")):
            if not path.is_file():
                passed_over["broken link{s}, pipe{s} and the like"] += 1
            elif file_type(path, types) is not None:
                files.append(path)
            else:
                kind = f"{path.suffix.lower()} file{{s}}" if path.suffix else "file{s} without an ending"
                passed_over[kind] += 1
    passed_over.update(f"folder{{s}} that may not be read ({error.strerror})" for error in closed)
    return sorted(files)


def _in_words(passed_over: Counter[str]) -> str:
    """'2 .pdf files, 1 linked folder': the most first, and how many there are of kinds that are not named."""
    most, total = passed_over.most_common(MOST_KINDS), passed_over.total()
    told = [f"{count:,} {kind.replace('{s}', 's' * (count != 1))}" for kind, count in most]
    rest = total - sum(count for _, count in most)
    return ", ".join([*told, *([f"{rest:,} of other kinds"] if rest else [])])


def _unsupported(what: str, types: tuple[str, ...]) -> UserError:
    """The error with the endings that are read: those of packed files are said in short."""
    plain = [kind for kind in types if not kind.endswith(PACKINGS[1:])]
    known = ", ".join(plain) + (" (also .gz, .zst)" if len(plain) < len(types) else "")
    if types != SUPPORTED:
        return UserError(f"{what}; chatsmith reads {known}")
    more = "and files of other types as plain text if it is told to"
    return UserError(f"{what}; chatsmith reads {known}, {more}", setting="as_text")
