"""The training state beside the bundle: named tensors and JSON facts, enough to continue a run exactly.

    state/000007/tensors.safetensors    state/000007/state.json
    state/000008/…                      the newest, and the one before

States may be of several trainings, told apart by the fact `key`: the saves of one leave the newest state of the others.
Every save is a new folder that appears whole or not at all, so a process killed while saving leaves the
states before it untouched. What the tensors and facts mean is the training loop's business. No pickle: a
random generator's state is saved as the uint8 tensor that torch gives.
"""

import contextlib
import json
import shutil
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from chatsmith.checkpoint.tensor_file import DamagedFileError, Seal, read_tensors, write_tensors
from chatsmith.runtime.atomic import new_folder
from chatsmith.runtime.errors import UserError

STATE_FORMAT_VERSION = 1
_TENSORS = "tensors.safetensors"
_FACTS = "state.json"


class TrainingState(NamedTuple):
    """Tensors by name, on the CPU, and the facts saved with them."""

    tensors: dict[str, Tensor]
    facts: dict[str, Any]


class SavedState(NamedTuple):
    """Where a state is, and its facts; its tensors have not been looked at."""

    folder: Path
    facts: dict[str, Any]


def save_state(folder: Path, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> Path:
    """Save a state as the newest one in `folder`, keep the complete one before it, remove older ones.

    `facts` must be JSON; of the states with another `key` among them the newest complete one is kept. Returns the new
    state's folder. Raises UserError on a full disk; then the states saved earlier are as they were.
    """
    earlier = _saved(folder)
    number = int(earlier[-1].name) + 1 if earlier else 1
    newest = folder / f"{number:06d}"
    with new_folder(newest) as temporary:
        seal = write_tensors(temporary / _TENSORS, tensors)
        stored = {"format_version": STATE_FORMAT_VERSION, "tensors": seal.to_json(), "facts": dict(facts)}
        (temporary / _FACTS).write_text(json.dumps(stored, indent=1), encoding="utf-8")
    own = [path for path in earlier if _has_key(path, facts.get("key"))]
    others = [path for path in earlier if path not in own]
    _remove_all_but(folder, newest, _newest_whole(own), _newest_whole(others))
    return newest


def load_state(
    folder: Path, notice: Callable[[str], None] | None = None, key: str | None = None
) -> TrainingState | None:
    """The newest complete state in `folder`, of those whose fact `key` is this one where it is given; None if none was
    ever saved there.

    A damaged one is passed over for the one before, and `notice` (standard error if not given) is told so.
    Raises UserError if all are damaged that are, or may have been, what is looked for, or if a newer chatsmith saved
    one of them.
    """
    tell = notice or _write_to_stderr
    is_damaged = False
    for candidate in reversed(_saved(folder)):
        try:
            seal, facts = _read_facts(candidate)
            if key is None or facts.get("key") == key:
                return TrainingState(read_tensors(candidate / _TENSORS, seal), facts)
        except DamagedFileError as error:
            is_damaged = True
            tell(f"A damaged training state is passed over: {error}.")
    if is_damaged:
        raise UserError(
            f"every training state in {folder} that this stage could go on from is damaged; delete that folder to "
            "start it over"
        )
    return None


def saved_states(folder: Path) -> list[SavedState]:
    """The states in `folder`, in the order they were saved; those whose facts cannot be read are left out.

    Raises UserError if a newer chatsmith saved one of them.
    """
    found = []
    for candidate in _saved(folder):
        with contextlib.suppress(DamagedFileError):
            found.append(SavedState(candidate, _read_facts(candidate)[1]))
    return found


def _saved(folder: Path) -> list[Path]:
    """Folders of states in the order they were saved; unfinished ones have other names and are left out."""
    if not folder.is_dir():
        return []
    numbered = [path for path in folder.iterdir() if path.is_dir() and path.name.isdigit()]
    return sorted(numbered, key=lambda path: int(path.name))


def _read_facts(folder: Path) -> tuple[Seal, dict[str, Any]]:
    path = folder / _FACTS
    try:
        stored = json.loads(path.read_bytes())
        version, seal, facts = (
            int(stored["format_version"]),
            Seal.from_json(stored["tensors"]),
            stored["facts"],
        )
    except FileNotFoundError as error:
        raise DamagedFileError(f"{path} is missing") from error
    except (ValueError, KeyError, TypeError) as error:
        raise DamagedFileError(f"{path} is damaged") from error
    if version > STATE_FORMAT_VERSION:
        raise UserError(
            f"{folder} was saved by a newer chatsmith (state format {version}, this one reads up to "
            f"{STATE_FORMAT_VERSION}): upgrade chatsmith, or delete the folder {folder.parent} to start over"
        )
    return seal, facts


def _has_key(folder: Path, key: object) -> bool:
    try:
        return _read_facts(folder)[1].get("key") == key
    except ValueError:
        return False


def _newest_whole(saved: list[Path]) -> Path | None:
    """The newest state whose files are there in full length; contents are checked when one is loaded."""
    for folder in reversed(saved):
        try:
            seal, _ = _read_facts(folder)
        except ValueError:
            continue
        tensors = folder / _TENSORS
        if tensors.is_file() and tensors.stat().st_size == seal.size:
            return folder
    return None


def _remove_all_but(folder: Path, *kept: Path | None) -> None:
    """Remove other states, and what a killed process may have left half-written."""
    for path in folder.iterdir():
        left_behind = path.name.startswith(".") and path.name.endswith((".tmp", ".old"))
        if path.is_dir() and path not in kept and (path.name.isdigit() or left_behind):
            shutil.rmtree(path, ignore_errors=True)


def _write_to_stderr(text: str) -> None:
    sys.stderr.write(text + "\n")
