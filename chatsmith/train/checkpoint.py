"""What the state of a training run is made of: all it takes to resume it exactly; and its records in metrics.jsonl.

`runtime.states` writes it beside training, every process its part, and reads it back. Tensors have names: `model.` +
parameter, the optimizer's own names, `carried.` + whatever the job keeps from step to step; those of a part end in
@start:stop, and any number of processes puts the parts together again. The facts say how far the run has come. The
order of the data follows from the seed and the number of rows used, and training draws no random numbers, so a resumed
run equals the uninterrupted one: bit for bit on a CPU.

No pickle: a random generator's state is saved as the uint8 tensor that torch gives. States may belong to several runs
of one stage (their settings changed), told apart by the fact `key`.

metrics.jsonl holds every step of a stage once. Steps since the last save are done again after a kill, so their records
are dropped on resuming; the records of a superseded run move next to its newest state, and are restored with it.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from chatsmith.model.gpt import GPT
from chatsmith.optim.optimizer import Optimizer
from chatsmith.optim.sharded import whole_state
from chatsmith.runtime import atomic
from chatsmith.runtime.console import differences
from chatsmith.runtime.errors import UserError
from chatsmith.runtime.metrics import drop_records, records_of
from chatsmith.runtime.states import StateWriter, load_state, saved_states
from chatsmith.train.plan import Plan

MODEL_PREFIX = "model."
CARRIED_PREFIX = "carried."


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
    chosen: Mapping[str, Any] = field(default_factory=dict)
    """See `TrainingRun.chosen`."""


def save_training(
    writer: StateWriter,
    optimizer: Optimizer,
    *,
    progress: Progress,
    key: TrainingKey,
    carried: Carried | None = None,
) -> None:
    """Begin to save the state of the run identified by `key`. All processes call it, after the same step."""
    tensors = {MODEL_PREFIX + name: value for name, value in optimizer.named_weights().items()}
    tensors |= optimizer.named_state()
    kept = carried.named_state() if carried else {}
    tensors |= {CARRIED_PREFIX + name: value for name, value in kept.items()}
    if not writer.runtime.is_main:  # what is no part is the same everywhere
        tensors = {name: value for name, value in tensors.items() if "@" in name}
    writer.begin(tensors, asdict(progress) | {"key": str(key)})


def restore_training(
    folder: Path,
    model: GPT,
    optimizer: Optimizer,
    *,
    key: TrainingKey,
    notice: Callable[[str], None],
    carried: Carried,
) -> Progress:
    """Load the newest state of the run `key` into model and optimizer. Returns how far it had come: nowhere if there is
    none. A state of another run (different settings or data) is left alone."""
    state = load_state(folder, notice, str(key))
    if state is None:
        return Progress()
    load_training(model, optimizer, state.tensors)
    carried.load_named_state(under(CARRIED_PREFIX, state.tensors))
    names = {field.name for field in fields(Progress)}  # an older chatsmith noted fewer
    return Progress(**{name: value for name, value in state.facts.items() if name in names})


def load_training(model: GPT, optimizer: Optimizer, tensors: dict[str, Tensor]) -> None:
    """Put weights and optimizer state, of however many processes, into a model and its optimizer. Takes parts out of
    `tensors`, as `whole_state` does."""
    whole = whole_state(tensors, model)
    frozen = {name: value for name, value in model.named_parameters() if not value.requires_grad}
    model.load_state_dict(frozen | under(MODEL_PREFIX, whole))
    optimizer.load_named_state(whole)


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


def under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors whose names begin with `prefix`, by the rest of their names."""
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
