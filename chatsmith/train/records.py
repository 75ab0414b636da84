"""The records of one training in metrics.jsonl, which holds every step of a stage once.

Steps since the last save come once more after a kill, and other settings begin at step 1 again. Where one training
takes the place of another, the records of the latter are put beside its newest state, and come back with it. What the
records say is the loop's business.
"""

from pathlib import Path

from chatsmith.checkpoint.state import saved_states
from chatsmith.runtime import atomic
from chatsmith.runtime.metrics import drop_records, records_of

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
