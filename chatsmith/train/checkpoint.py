"""The records of one training in metrics.jsonl, which holds every step of a stage once.

Steps since the last save come once more after a kill, and other settings begin at step 1 again. Where one training
takes the place of another, the records of the latter are put beside its newest state, and come back with it. What the
records say is the loop's business.
"""

import contextlib
import json
import re
import shutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from chatsmith.bundle import DamagedFileError, Seal, read_tensors, write_tensors
from chatsmith.model.gpt import GPT
from chatsmith.optim.optimizer import Optimizer
from chatsmith.runtime import atomic
from chatsmith.runtime.atomic import new_folder
from chatsmith.runtime.errors import UserError
from chatsmith.runtime.metrics import drop_records, records_of

# -------------------- checkpoint.state
# The training state beside the bundle: named tensors and JSON facts, enough to continue a run exactly.
#
#     state/000007/tensors.safetensors    state/000007/state.json
#     state/000008/…                      the newest, and the one before
#
# States may be of several trainings, told apart by the fact `key`: the saves of one leave the newest state of
# the others.
# Every save is a new folder that appears whole or not at all, so a process killed while saving leaves the
# states before it untouched. What the tensors and facts mean is the training loop's business. No pickle: a
# random generator's state is saved as the uint8 tensor that torch gives.

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


# -------------------- train.state
# A training run's state on disk: weights and optimizer by parameter name, how far it has come, what a stage carries.
#
# The order of the data follows from the seed and the number of rows used, and training draws no random numbers, so
# a resumed run is the uninterrupted one: bit for bit on a CPU.

MODEL_PREFIX = "model."
CARRIED_PREFIX = "carried."


class Carried(Protocol):
    """What a stage keeps from step to step besides weights and optimizer, such as the best weights so far."""

    def named_state(self) -> dict[str, Tensor]:
        """Everything a resumed run needs, by name."""
        ...

    def load_named_state(self, state: dict[str, Tensor]) -> None:
        """Restore what `named_state` gave."""
        ...


@dataclass(frozen=True)
class TrainingKey:
    """Which training a state belongs to: only that one goes on from it. In a state it is kept as its text."""

    settings: str
    """The stage's key: its settings, and what it reads."""
    steps: int
    """How many were foreseen."""
    rows: int | None
    """Rows of a step, which another number of processes may round otherwise; None where it rounds nothing."""

    def __str__(self) -> str:
        size = "" if self.rows is None else f" of {self.rows} rows"
        return f"{self.settings} {self.steps} steps{size}"

    def rows_of_same(self, other: str) -> int | None:
        """The rows of a step in the training whose key has the text `other`, if it has these settings and this horizon,
        but steps of another size."""
        found = re.fullmatch(re.escape(self.settings) + r" (\d+) steps of (\d+) rows", other)
        if self.rows is None or not found:
            return None
        steps, rows = map(int, found.groups())
        # Both are whole steps nearest to one horizon; one that was measured anew is another.
        is_near = abs(steps * rows - self.steps * self.rows) <= (rows + self.rows) / 2
        return rows if rows != self.rows and is_near else None


@dataclass(frozen=True)
class Reached:
    """How far a training has come, over all its sessions."""

    step: int = 0
    steps: int | None = None
    """Of how many; None where nothing is saved, or an older chatsmith did not note it."""
    step_seconds: float = 0.0
    """What the steps took."""
    seconds: float = 0.0
    """What the commands took, evaluations and all, each up to its last save."""


def save_training(
    folder: Path,
    model: GPT,
    optimizer: Optimizer,
    *,
    reached: Reached,
    key: TrainingKey,
    carried: Carried | None = None,
) -> None:
    """Save the state of the training identified by `key`."""
    tensors = {MODEL_PREFIX + name: value for name, value in model.state_dict().items()}
    kept = carried.named_state() if carried else {}
    tensors |= {CARRIED_PREFIX + name: value for name, value in kept.items()}
    save_state(folder, tensors | optimizer.named_state(), asdict(reached) | {"key": str(key)})


def restore_training(
    folder: Path,
    model: GPT,
    optimizer: Optimizer,
    *,
    key: TrainingKey,
    notice: Callable[[str], None],
    carried: Carried | None = None,
) -> Reached:
    """Load the newest state of the training `key` into model and optimizer. Returns how far it had come: nowhere if
    there is none.

    A state of another training (other settings, other data) is left alone and not used.
    """
    state = load_state(folder, notice, str(key))
    if state is None:
        return Reached()
    model.load_state_dict(_under(MODEL_PREFIX, state.tensors))
    with torch.no_grad():
        optimizer.load_named_state(state.tensors)
    if carried:
        carried.load_named_state(_under(CARRIED_PREFIX, state.tensors))
    names = {field.name for field in fields(Reached)}  # an older chatsmith noted fewer
    return Reached(**{name: value for name, value in state.facts.items() if name in names})


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


ASIDE = "metrics.jsonl"
"""In the folder of a state: its stage's records up to its step, written when another training takes the place."""


def keep_records(path: Path, stage: str, state_folder: Path, key: str, step: int) -> None:
    """Leave in the metrics at `path`, of what `stage` wrote, the records of the training `key` up to `step`, where it
    goes on; none if that is 0. Lines that are no JSON object go as well, records of other stages stay.

    Raises UserError on a full disk.
    """
    states = saved_states(state_folder)
    if states and states[-1].facts["key"] != key:
        # The newest state is of the training that wrote last; what is there already was put aside when it ended.
        former = states[-1].folder / ASIDE
        if not former.exists():
            atomic.write_bytes(former, records_of(path, stage, states[-1].facts["step"]))
    own = [state.folder / ASIDE for state in states if state.facts["key"] == key]
    if step and own and own[-1].exists():
        drop_records(path, stage, after_step=-1)
        others = path.read_bytes() if path.exists() else b""
        atomic.write_bytes(path, others + records_of(own[-1], stage, step))
    else:
        drop_records(path, stage, after_step=step or -1)
