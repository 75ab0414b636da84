"""The state of a training run on disk: all it takes to resume it exactly; and its records in metrics.jsonl.

    state/000007/tensors.safetensors    state/000007/state.json
    state/000008/...                    the newest, and the one before

Tensors have names: `model.` + parameter, the optimizer's own names, `carried.` + whatever the job keeps from step to
step. The facts say how far the run has come. The order of the data follows from the seed and the number of rows used,
and training draws no random numbers, so a resumed run equals the uninterrupted one: bit for bit on a CPU.

Every save is a new folder that appears whole or not at all, so a process killed while saving leaves the states before
it untouched. No pickle: a random generator's state is saved as the uint8 tensor that torch gives. States may belong to
several runs of one stage (their settings changed), told apart by the fact `key`: the saves of one leave the newest
state of the others.

metrics.jsonl holds every step of a stage once. Steps since the last save are done again after a kill, so their records
are dropped on resuming; the records of a superseded run move next to its newest state, and are restored with it.
"""

import contextlib
import json
import re
import shutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from chatsmith.bundle import DamagedFileError, Seal, read_tensors, write_tensors
from chatsmith.model.gpt import GPT
from chatsmith.optim.optimizer import Optimizer
from chatsmith.optim.sharded import ShardedOptimizer
from chatsmith.runtime import atomic
from chatsmith.runtime.atomic import new_folder
from chatsmith.runtime.console import differences
from chatsmith.runtime.errors import UserError
from chatsmith.runtime.metrics import drop_records, records_of
from chatsmith.train.plan import Plan

STATE_FORMAT_VERSION = 1
_TENSORS = "tensors.safetensors"
_FACTS = "state.json"
MODEL_PREFIX = "model."
CARRIED_PREFIX = "carried."


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

    `facts` must be JSON; of the states with each other `key` the newest complete one is kept. Returns the new state's
    folder. Raises UserError on a full disk; then the states saved earlier are as they were.
    """
    earlier = _saved(folder)
    number = int(earlier[-1].name) + 1 if earlier else 1
    newest = folder / f"{number:06d}"
    with new_folder(newest) as temporary:
        seal = write_tensors(temporary / _TENSORS, tensors)
        stored = {"format_version": STATE_FORMAT_VERSION, "tensors": seal.to_json(), "facts": dict(facts)}
        (temporary / _FACTS).write_text(json.dumps(stored, indent=1), encoding="utf-8")
    by_run: dict[object, list[Path]] = {}
    for path in earlier:
        by_run.setdefault(_key_of(path), []).append(path)
    _remove_all_but(folder, newest, *map(_newest_whole, by_run.values()))
    return newest


def load_state(
    folder: Path, notice: Callable[[str], None] | None = None, key: str | None = None
) -> TrainingState | None:
    """The newest complete state in `folder`, with `key` the newest of that run; None if none was ever saved there.

    A damaged one is passed over for the one before, and `notice` (standard error if not given) gets a line about it.
    Raises UserError if all candidates are damaged (of a damaged state the key may be unknown), or if a newer chatsmith
    saved one of them.
    """
    notify = notice or _write_to_stderr
    is_damaged = False
    for candidate in reversed(_saved(folder)):
        try:
            seal, facts = _read_facts(candidate)
            if key is None or facts.get("key") == key:
                return TrainingState(read_tensors(candidate / _TENSORS, seal), facts)
        except DamagedFileError as error:
            is_damaged = True
            notify(f"A damaged training state is passed over: {error}.")
    if is_damaged:
        raise UserError(
            f"every training state in {folder} that this stage could resume from is damaged; delete that folder to "
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


def _key_of(folder: Path) -> object:
    try:
        return _read_facts(folder)[1].get("key")
    except ValueError:
        return None


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


class Carried(Protocol):
    """What a job keeps from step to step besides weights and optimizer, such as the best weights so far."""

    def named_state(self) -> dict[str, Tensor]:
        """Everything a resumed run needs, by name."""
        ...

    def load_named_state(self, state: dict[str, Tensor]) -> None:
        """Restore what `named_state` gave."""
        ...


@dataclass(frozen=True)
class TrainingKey:
    """Which run a state belongs to: only that one resumes from it. In a state it is kept as its text."""

    settings: str
    """The identity of its settings, and of what it reads."""
    steps: int
    """How many were planned."""
    rows: int | None
    """Rows of a step, which a different number of processes may round differently; None where steps differ in size."""

    def __str__(self) -> str:
        size = "" if self.rows is None else f" of {self.rows} rows"
        return f"{self.settings} {self.steps} steps{size}"

    def rows_of_same(self, other: str) -> int | None:
        """The rows of a step in the run whose key has the text `other`, if it has these settings and this token budget,
        but steps of a different size."""
        found = re.fullmatch(re.escape(self.settings) + r" (\d+) steps of (\d+) rows", other)
        if self.rows is None or not found:
            return None
        steps, rows = map(int, found.groups())
        # Both are the whole number of steps nearest to one budget; a budget that was measured again is another one.
        is_near = abs(steps * rows - self.steps * self.rows) <= (rows + self.rows) / 2
        return rows if rows != self.rows and is_near else None


@dataclass(frozen=True)
class Progress:
    """How far a run has come, over all its sessions."""

    step: int = 0
    steps: int | None = None
    """Of how many; None where nothing is saved, or an older chatsmith did not note it."""
    step_seconds: float = 0.0
    """What the steps took."""
    seconds: float = 0.0
    """What the commands took, evaluations and all, each up to its last save."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """With which the run was started."""


def save_training(
    folder: Path,
    model: GPT,
    optimizer_state: Mapping[str, Tensor],
    *,
    progress: Progress,
    key: TrainingKey,
    carried: Carried | None = None,
) -> None:
    """Save the state of the run identified by `key`."""
    tensors = {MODEL_PREFIX + name: value for name, value in model.state_dict().items()}
    kept = carried.named_state() if carried else {}
    tensors |= {CARRIED_PREFIX + name: value for name, value in kept.items()}
    save_state(folder, {**tensors, **optimizer_state}, asdict(progress) | {"key": str(key)})


def restore_training(
    folder: Path,
    model: GPT,
    optimizer: Optimizer | ShardedOptimizer,
    *,
    key: TrainingKey,
    notice: Callable[[str], None],
    carried: Carried | None = None,
) -> Progress:
    """Load the newest state of the run `key` into model and optimizer. Returns how far it had come: nowhere if there is
    none. A state of another run (different settings or data) is left alone."""
    state = load_state(folder, notice, str(key))
    if state is None:
        return Progress()
    model.load_state_dict(_under(MODEL_PREFIX, state.tensors))
    with torch.no_grad():
        optimizer.load_named_state(state.tensors)
    if carried:
        carried.load_named_state(_under(CARRIED_PREFIX, state.tensors))
    names = {field.name for field in fields(Progress)}  # an older chatsmith noted fewer
    return Progress(**{name: value for name, value in state.facts.items() if name in names})


def check_other_states(
    folder: Path, key: TrainingKey, plan: Plan, notice: Callable[[str], None], settings: Mapping[str, Any]
) -> None:
    """Say which state of different settings is in `folder`. Raises UserError where this would be the same run but for
    the number of processes."""
    states = saved_states(folder)
    others = [state.facts for state in states if state.facts["key"] != str(key)]
    if not others:
        return
    for facts in reversed(others) if len(others) == len(states) else ():
        rows = key.rows_of_same(facts["key"])
        fitting = plan.world_sizes_for(rows) if rows else []
        if fitting:
            numbers = ", ".join(map(str, fitting))
            raise UserError(
                f"what is saved in {folder} was trained in steps of {rows:,} rows, and this number of processes "
                f"({plan.world_size}) makes them {key.rows:,}: resume with a number that fits ({numbers}), or delete "
                "that folder to start over"
            )
    step, steps = others[-1]["step"], others[-1].get("steps")
    of = f" of {steps:,}" if steps else ""
    changed = differences(others[-1].get("settings", {}), settings)
    notice(
        f"found a checkpoint of a run with different settings (step {step:,}{of}){changed and f': {changed}'}; it "
        "is kept until this run finishes, and the former settings resume from it"
    )


ASIDE = "metrics.jsonl"
"""In the folder of a state: its stage's records up to its step, written when another run supersedes it."""


def keep_records(path: Path, stage: str, state_folder: Path, key: str, step: int) -> None:
    """Leave in the metrics at `path`, of what `stage` wrote, the records of the run `key` up to `step`, where it
    resumes; none if that is 0. Lines that are no JSON object go as well, records of other stages stay.

    Raises UserError on a full disk.
    """
    states = saved_states(state_folder)
    if states and states[-1].facts["key"] != key:
        # The newest state is of the run that wrote last; if its records are there already, they moved when it ended.
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


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
