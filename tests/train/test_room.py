"""A full disk makes training wait or stop, and never costs what was saved; and what runs after a save."""

import errno
import io
import json
import os
import subprocess
import time
from collections import namedtuple
from dataclasses import replace
from itertools import chain, repeat

import pytest

from chatsmith.runtime import atomic, states
from chatsmith.runtime.errors import UserError
from chatsmith.runtime.metrics import MetricsLog
from chatsmith.runtime.states import StateWriter, saved_states
from chatsmith.train.step import prepare
from chatsmith.train.trainer import Job, fit

Usage = namedtuple("Usage", "free")


@pytest.fixture
def train(new_model, new_plan, batches_from, runtime, monkeypatch):
    monkeypatch.setattr(atomic, "POLL_SECONDS", 0.01)

    def start(run, steps: int = 4):
        model = new_model()
        job = Job(lambda row: batches_from(2, row), prepare(model, runtime, False, print))
        return fit(run, model, new_plan(steps), job)

    return start


def told(run) -> str:
    assert isinstance(run.reporter._stream, io.StringIO)
    return run.reporter._stream.getvalue()


def records(run) -> list[int]:
    return [json.loads(line)["step"] for line in run.metrics_path.read_text().splitlines()]


def test_a_save_waits_for_room_and_goes_on(training_run, train, monkeypatch):
    free = iter([10**9, 0, 0, 0, *[10**9] * 99])
    monkeypatch.setattr(states.shutil, "disk_usage", lambda _: Usage(next(free)))
    one = training_run(save_seconds=0.0, disk_wait_seconds=60.0)
    assert train(one).steps == 4
    assert told(one).count("the disk is full: waiting up to 1 min 00 s for room") == 1
    assert [state.facts["step"] for state in saved_states(one.state_folder)] == [2, 3]


@pytest.mark.parametrize("seconds", [0.0, 0.05])
def test_without_room_it_stops_before_the_save_and_the_older_state_stays(
    training_run, train, monkeypatch, seconds
):
    free = chain([10**9] * 2, repeat(0))
    monkeypatch.setattr(states.shutil, "disk_usage", lambda _: Usage(next(free)))
    one = training_run(save_seconds=0.0, disk_wait_seconds=seconds)
    with pytest.raises(
        UserError, match=r"the disk is full: a training state of .* MB has no room in .*state"
    ) as error:
        train(one, steps=8)
    assert error.value.settings == ("disk_wait",)
    steps = [state.facts["step"] for state in saved_states(one.state_folder)]
    assert steps in ([1, 2], [2, 3]), "a state that was being written when room was looked for is whole"
    monkeypatch.setattr(states.shutil, "disk_usage", lambda _: Usage(10**9))
    assert train(one, steps=8).steps == 8 and records(one) == list(range(1, 9))


def test_room_is_looked_for_when_the_state_before_is_written(training_run, train, monkeypatch):
    one, write, half_written = training_run(save_seconds=0.0), StateWriter._write, []

    def slow(*arguments):
        time.sleep(0.05)
        write(*arguments)

    def usage(run):
        half_written.extend((run / "state").glob(".*"))
        return Usage(10**9)

    monkeypatch.setattr(StateWriter, "_write", slow)
    monkeypatch.setattr(states.shutil, "disk_usage", lambda _: usage(one.state_folder.parent))
    assert train(one).steps == 4 and not half_written


def test_metrics_wait_for_room_too_and_none_is_lost(training_run, train, monkeypatch):
    append, tries = MetricsLog._append, []

    def full(self, line):
        tries.append(line)
        if 3 <= len(tries) <= 6:
            raise OSError(errno.ENOSPC, "No space left on device")
        append(self, line)

    monkeypatch.setattr(MetricsLog, "_append", full)
    one = training_run(disk_wait_seconds=60.0)
    assert train(one).steps == 4 and records(one) == [1, 2, 3, 4]
    tries.clear()
    with pytest.raises(OSError, match="No space left"):
        train(training_run(folder="again"), steps=6)


def test_a_command_runs_after_saves_in_the_background_and_its_failure_is_one_line(
    training_run, train, tmp_path, monkeypatch
):
    copies, one = tmp_path / "copies", training_run(save_seconds=0.0, folder="run/pretrain")
    copies.mkdir()
    command = (
        f'echo "$CHATSMITH_RUN" > "{copies}/$(basename $CHATSMITH_STATE)"; '
        f'for i in $(seq 900); do [ -e "{tmp_path}/go" ] && exit 3; sleep 0.1; done'
    )
    train(replace(one, on_save=command))  # which ends, though the command does not
    deadline = time.monotonic() + 60
    while not (found := [path for path in copies.iterdir() if path.read_text()]):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    # One command at a time; of states that were saved before it began, the newest.
    [first] = found
    assert first.name in {"000001", "000002", "000003", "000004"}
    assert first.read_text() == f"{tmp_path / 'run'}\n"
    (tmp_path / "go").touch()
    start = subprocess.Popen

    def ended(*arguments, **options):
        process = start(*arguments, **options)
        process.wait()
        return process

    monkeypatch.setattr(states.subprocess, "Popen", ended)
    two = training_run(save_seconds=0.0, folder="other/pretrain", on_save="exit 3")
    train(two, steps=6)
    assert "the command after a save failed with code 3: exit 3" in told(two)
    assert os.path.isdir(two.state_folder)
