"""Processes under torchrun, one of which is killed: the others end with one line, and torchrun starts all again."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from chatsmith.runtime.run_directory import RunDirectory


def torchrun(run: Path, environment: dict[str, str], *options: str, tokens: int) -> subprocess.Popen[str]:
    agent = (sys.executable, "-m", "torch.distributed.run", *options)
    command = ("-m", "chatsmith", "pretrain", str(run), "--tokens", str(tokens), "--save-minutes", "0.001")
    return subprocess.Popen(
        [*agent, *command],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def ranks(run: Path, rank: str) -> list[int]:
    """The processes that train in `run` as this rank."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            words, place = (
                (path / "cmdline").read_bytes().split(b"\0"),
                (path / "environ").read_bytes().split(b"\0"),
            )
        except OSError:
            continue
        if str(run).encode() in words and f"RANK={rank}".encode() in place:
            found.append(int(path.name))
    return found


def steps_of(run: Path) -> list[int]:
    path = run / "metrics.jsonl"
    lines = (
        [json.loads(line) for line in path.read_text().splitlines() if line.endswith("}")]
        if path.exists()
        else []
    )
    return [line["step"] for line in lines if line["stage"] == "pretrain" and "loss" in line]


def wait_for_steps(run: Path, count: int, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 240
    while len(steps_of(run)) < count:
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.long
@pytest.mark.parametrize("victim", ["0", "1"])
def test_a_killed_rank_is_started_again_and_training_goes_on(tiny_copy, subprocess_environment, victim):
    (tiny_copy / "metrics.jsonl").unlink()
    options = ("--nproc-per-node", "2", "--max-restarts", "2", "--master-port", str(29510 + int(victim)))
    process = torchrun(tiny_copy, subprocess_environment, *options, tokens=60 * 1024)
    wait_for_steps(tiny_copy, 8, process)
    os.kill(ranks(tiny_copy, victim)[0], signal.SIGKILL)
    said = process.communicate(timeout=400)[0]
    assert process.returncode == 0, said
    assert steps_of(tiny_copy) == list(range(1, 61))
    assert said.count("another process of this training ended") <= 1 and "Traceback" not in said
    assert "resuming after step" in said


@pytest.mark.long
def test_without_restarts_the_others_end_with_one_line(tiny_copy, subprocess_environment):
    (tiny_copy / "metrics.jsonl").unlink()
    options = ("--nproc-per-node", "2", "--master-port", "29512")
    process = torchrun(tiny_copy, subprocess_environment, *options, tokens=400 * 1024)
    wait_for_steps(tiny_copy, 4, process)
    os.kill(ranks(tiny_copy, "1")[0], signal.SIGKILL)
    said = process.communicate(timeout=120)[0]
    assert process.returncode != 0 and said.count("chatsmith: another process of this training ended") == 1
    assert RunDirectory(tiny_copy).state("pretrain").is_dir()
