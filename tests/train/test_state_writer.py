"""Saving beside training: what is written is the past, a kill leaves the former state, no failure passes in silence."""

import errno
import json
import os
import shutil
import signal
import threading
from pathlib import Path

import pytest
import torch

from chatsmith.runtime import states
from chatsmith.runtime.device import Runtime
from chatsmith.runtime.errors import UserError
from chatsmith.runtime.states import StateWriter, load_state, saved_states
from chatsmith.train.step import prepare
from chatsmith.train.trainer import Job, fit
from tests.processes import together
from tests.train.conftest import save_state

CPU = torch.device("cpu")
ALONE = Runtime(CPU, torch.float32)


@pytest.fixture
def gate(monkeypatch) -> threading.Event:
    """Files are not written before it is set."""
    event, write = threading.Event(), states.write_tensors

    def held(*arguments):
        assert event.wait(60)
        return write(*arguments)

    monkeypatch.setattr(states, "write_tensors", held)
    yield event
    event.set()


def test_training_goes_on_while_a_state_is_written_and_does_not_change_it(tmp_path: Path, gate) -> None:
    weights = {"model.a": torch.zeros(3), "step": torch.tensor(0)}
    writer = StateWriter(tmp_path, ALONE)
    writer.begin(weights, {"step": 1})
    for value in weights.values():
        value += 7  # the steps that come meanwhile
    assert load_state(tmp_path, print) is None and not writer.has_failed
    gate.set()
    writer.finish()
    loaded = load_state(tmp_path, print)
    assert loaded is not None and loaded.facts == {"step": 1}
    assert all(value.abs().max() == 0 for value in loaded.tensors.values())


def test_a_copy_takes_the_memory_of_the_one_before_where_it_fits(tmp_path: Path, monkeypatch) -> None:
    places, write = [], states.write_tensors

    def noted(path: Path, tensors: dict[str, torch.Tensor]):
        places.append({name: tensor.data_ptr() for name, tensor in tensors.items()})
        return write(path, tensors)

    monkeypatch.setattr(states, "write_tensors", noted)
    writer, former = StateWriter(tmp_path, ALONE), torch.zeros(5)
    for tensor in (former, former + 1, torch.full((6,), 2.0), torch.full((6,), 3, dtype=torch.int64)):
        writer.begin({"a": tensor}, {})
        writer.finish()
        loaded = load_state(tmp_path, print)
        assert loaded is not None and torch.equal(loaded.tensors["a"], tensor)
        assert loaded.tensors["a"].dtype == tensor.dtype
    assert places[1] == places[0] and former.data_ptr() not in places[0].values()


def test_one_state_at_a_time_in_their_order(tmp_path: Path, gate) -> None:
    writer = StateWriter(tmp_path, ALONE)
    writer.begin({"a": torch.zeros(2)}, {"step": 1})
    threading.Timer(0.1, gate.set).start()
    for step in range(2, 5):
        writer.begin({"a": torch.full((2,), step)}, {"step": step})
    writer.finish()
    assert [facts["step"] for _, facts in saved_states(tmp_path)] == [3, 4]


KILLED = """
import os, signal, sys, torch
from pathlib import Path
from chatsmith.runtime.device import Runtime
from chatsmith.runtime import states

folder, moment = Path(sys.argv[1]), sys.argv[2]
writer = states.StateWriter(folder, Runtime(torch.device("cpu"), torch.float32))
writer.begin({"a": torch.ones(2000)}, {"step": 1})
writer.finish()
def kill(*_):
    os.kill(os.getpid(), signal.SIGKILL)
if moment == "tensors":
    write = states.write_tensors
    def half(path, tensors):
        write(path, tensors)
        with path.open("rb+") as file:
            file.truncate(1000)
        kill()
    states.write_tensors = half
else:
    setattr(states, moment, kill)
writer.begin({"a": torch.zeros(2000)}, {"step": 2})
writer.finish()
"""


@pytest.mark.parametrize(("moment", "left"), [("tensors", 1), ("content_hash", 1), ("_remove_older", 2)])
def test_a_kill_leaves_the_former_state_or_the_new_one(tmp_path: Path, moment: str, left: int) -> None:
    (killed,) = together(KILLED, tmp_path, moment)
    assert killed.code == -signal.SIGKILL
    notices: list[str] = []
    loaded = load_state(tmp_path, notices.append)
    assert loaded is not None and loaded.facts == {"step": left} and notices == []
    save_state(tmp_path, {"a": torch.zeros(2)}, {"step": 3})
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_a_kill_while_an_old_state_is_removed_makes_no_state_look_damaged(
    tmp_path: Path, monkeypatch
) -> None:
    for step in (1, 2):
        save_state(tmp_path, {"a": torch.zeros(2)}, {"step": step, "key": "one"})
    remove = shutil.rmtree

    def half(path, **_):
        if path.name.endswith(".old"):
            (path / "state.json").unlink(missing_ok=True)
        else:
            remove(path, ignore_errors=True)

    with monkeypatch.context() as killed:
        killed.setattr(states.shutil, "rmtree", half)
        save_state(tmp_path, {"a": torch.zeros(2)}, {"step": 3, "key": "one"})
    notices: list[str] = []
    assert load_state(tmp_path, notices.append, key="two") is None and notices == []
    assert [facts["step"] for _, facts in saved_states(tmp_path)] == [2, 3]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EFBIG])
def test_what_fails_in_the_thread_ends_training_at_the_next_step(
    new_model, new_plan, batches_from, training_run, runtime, monkeypatch, number
) -> None:
    run, model, done = training_run(save_seconds=0.0), new_model(), []
    write, loss = states.write_tensors, prepare(model, runtime, False, print)

    def full(path, tensors):
        if len(done) > 3:
            raise OSError(number, os.strerror(number), str(path))
        return write(path, tensors)

    def counted(model, batch, scale):
        done.append(batch)
        return loss(model, batch, scale)

    monkeypatch.setattr(states, "write_tensors", full)
    with pytest.raises(UserError, match=r"disk is full|larger than files may be"):
        fit(run, model, new_plan(8), Job(lambda row: batches_from(2, row), counted))
    assert 4 <= len(done) <= 8  # two batches a step
    assert [facts["step"] for _, facts in saved_states(run.state_folder)] == [1]
    assert [path.name for path in run.state_folder.iterdir()] == ["000001"]


def test_no_flipped_bit_of_a_state_passes(tmp_path: Path) -> None:
    newest = save_state(tmp_path, {"a": torch.arange(4.0)}, {"step": 31, "seconds": 0.5})
    for path in newest.iterdir():
        content = path.read_bytes()
        for index in range(0, 8 * len(content), 5):
            changed = bytearray(content)
            changed[index // 8] ^= 1 << index % 8
            path.write_bytes(changed)
            try:
                loaded = load_state(tmp_path, lambda _: None)
            except UserError:
                continue
            assert loaded is not None and loaded.facts == {"step": 31, "seconds": 0.5}, (path.name, index)
            assert loaded.tensors["a"].tolist() == [0, 1, 2, 3]
        path.write_bytes(content)


@pytest.fixture
def two_writers(tmp_path: Path, monkeypatch) -> list[StateWriter]:
    """Of two processes, here in one: the main one speaks first."""
    said: list[float] = []

    def main_number(value: float, runtime: Runtime) -> float:
        if runtime.is_main and runtime.world_size == 1:
            return value
        if runtime.is_main:
            said.append(value)
            return value
        return said.pop(0)

    monkeypatch.setattr(states, "main_number", main_number)
    monkeypatch.setattr(states, "sum_numbers", lambda values, _: values)  # each waits for its own
    return [StateWriter(tmp_path, Runtime(CPU, torch.float32, rank, 2)) for rank in range(2)]


def test_two_processes_write_one_state(tmp_path: Path, two_writers) -> None:
    save_state(tmp_path, {"before": torch.zeros(1)}, {"step": 1})
    main, other = two_writers
    main.begin({"a@0:2": torch.zeros(2)}, {"step": 2})
    assert saved_states(tmp_path)[-1].facts == {"step": 1}
    other.begin({"a@2:4": torch.ones(2)}, {"step": "ignored"})
    other.finish()
    main.finish()
    loaded = load_state(tmp_path, print)
    assert loaded is not None and loaded.facts == {"step": 2}
    assert sorted(loaded.tensors) == ["a@0:2", "a@2:4"]
    index = json.loads((tmp_path / "000002" / "state.json").read_text())
    assert sorted(index["files"]) == ["tensors.1.safetensors", "tensors.safetensors"]
    assert sorted(path.name for path in (tmp_path / "000002").iterdir()) == [
        "state.json",
        *sorted(index["files"]),
    ]
    (tmp_path / "000002" / "tensors.1.safetensors").unlink()
    loaded = load_state(tmp_path, lambda _: None)
    assert loaded is not None and loaded.facts == {"step": 1}


def test_a_part_that_never_comes_is_not_waited_for_when_training_ends(tmp_path: Path, two_writers) -> None:
    main, _ = two_writers
    main.begin({"a@0:2": torch.zeros(2)}, {"step": 2})
    with pytest.raises(UserError, match="before all processes"):
        main.finish(even_incomplete=True)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_of_another_process_is_told_in_its_words(
    tmp_path: Path, two_writers, monkeypatch
) -> None:
    def full(path, _):
        raise OSError(errno.ENOSPC, "", str(path))

    main, other = two_writers
    main.begin({}, {})
    monkeypatch.setattr(states, "write_tensors", full)
    other.begin({}, {})
    with pytest.raises(UserError, match="disk is full"):
        other.finish()
    assert not other.has_failed
    with pytest.raises(UserError):
        main.finish(even_incomplete=True)


APART = """
import errno, os, signal, sys, time, torch
from pathlib import Path
from chatsmith.runtime import states
from chatsmith.runtime.device import detect_runtime
from chatsmith.runtime.distributed import process_group
from chatsmith.runtime.errors import UserError

runtime, write = detect_runtime("cpu", "fp32"), states.write_tensors
def broken(path, tensors):
    time.sleep(0.5)  # by then all wait in `finish`
    if sys.argv[2] == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
try:
    with process_group(runtime):
        writer = states.StateWriter(Path(sys.argv[1]), runtime)
        writer.begin({"a": torch.zeros(2)}, {"step": 1})
        writer.finish()
        if runtime.rank:
            states.write_tensors = broken
        try:
            writer.begin({"a": torch.ones(2)}, {"step": 2})
            writer.finish()
        except BaseException:
            writer.finish(even_incomplete=True)
            raise
except UserError as error:
    print(error, file=sys.stderr)
    sys.exit(2)
"""


@pytest.mark.parametrize("how", ["full", "killed"])
def test_a_part_that_another_process_cannot_write_is_not_waited_for(tmp_path: Path, how: str) -> None:
    main, other = together(APART, tmp_path / "state", how, world_size=2)
    said = main.err.splitlines()[-1]
    if how == "full":
        assert (main.code, other.code) == (2, 2), (main.err, other.err)
        assert "another process could not write its part" in said and "the disk is full" in other.err
    else:
        assert (main.code, other.code) == (2, -signal.SIGKILL), (main.err, other.err)
        assert "another process of this training ended" in said
    notices: list[str] = []
    loaded = load_state(tmp_path / "state", notices.append)
    assert loaded is not None and loaded.facts == {"step": 1} and notices == []
    assert [path.name for path in (tmp_path / "state").iterdir() if path.name.startswith(".")] == []


LATE = (
    APART.replace("import states", "import atomic, states")
    .replace(
        "def broken", "flush = atomic._flush\ndef late(path):\n    time.sleep(1)\n    flush(path)\ndef broken"
    )
    .replace("states.write_tensors = broken", "atomic._flush = late")
)


def test_a_part_whose_process_is_slow_after_it_is_not_taken_from_under_it(tmp_path: Path) -> None:
    """The main process renames the folder as soon as it sees every part's seals."""
    for ended in together(LATE, tmp_path / "state", "", world_size=2):
        assert ended.code == 0, ended.err
    loaded = load_state(tmp_path / "state", print)
    assert loaded is not None and loaded.facts == {"step": 2}
