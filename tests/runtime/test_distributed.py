"""Two real processes sum gradients and numbers as one would; a process alone needs none of it."""

import json
import os
import socket
import subprocess
import sys

import pytest
import torch

from chatsmith.runtime import distributed
from chatsmith.runtime.device import Runtime
from chatsmith.runtime.distributed import main_number, process_group, sum_number
from chatsmith.runtime.rank import Rank, gpu_index, rank_from

PROGRAM = """
import importlib, json, torch
from pathlib import Path
from chatsmith.runtime import distributed
from chatsmith.runtime.device import detect_runtime

runtime = detect_runtime("cpu", "fp32")
tasks = Path("/proc/self/task")
threads = set(tasks.glob("*"))
with distributed.process_group(runtime):
    importlib.import_module("torch._dynamo")  # as torch itself does in the first step
    facts = {
        "sum": distributed.sum_number(0.1 + runtime.rank, runtime),
        "main": distributed.main_number(7.0 + runtime.rank, runtime),
    }
facts["threads left"] = len(set(tasks.glob("*")) - threads)
print(json.dumps(facts))
"""


@pytest.fixture(scope="module")
def two_processes():
    """What each of two processes found."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2", "OMP_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM],
            env={**os.environ, **place, "RANK": str(rank)},
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    outputs = [process.communicate(timeout=120)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    return [json.loads(output.splitlines()[-1]) for output in outputs]


def test_numbers_are_summed_or_the_main_process_s(two_processes):
    assert [facts["sum"] for facts in two_processes] == [pytest.approx(1.2, abs=1e-12)] * 2
    assert [facts["main"] for facts in two_processes] == [7.0, 7.0]


@pytest.mark.skipif(not os.path.isdir("/proc/self/task"), reason="threads are counted as Linux shows them")
def test_no_thread_outlives_the_group(two_processes):
    """One that did would still free tensors while Python ends, which aborts the process now and then."""
    assert [facts["threads left"] for facts in two_processes] == [0, 0]


def test_a_process_alone_is_left_as_it_is():
    runtime = Runtime(torch.device("cpu"), torch.float32)
    with process_group(runtime):
        assert not torch.distributed.is_initialized()
        assert (sum_number(2.5, runtime), main_number(2.5, runtime)) == (2.5, 2.5)


STEP = {
    "SLURM_JOB_ID": "20003",
    "SLURM_STEP_ID": "1",
    "SLURM_STEP_NUM_TASKS": "16",
    "SLURM_PROCID": "11",
    "SLURM_LOCALID": "3",
    "SLURM_STEP_NODELIST": "gpu[07-08,12],login",
}
TORCHRUN = {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "MASTER_ADDR": "a", "MASTER_PORT": "1"}


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, Rank()),
        (TORCHRUN, Rank(5, 8, 1)),
        (STEP | TORCHRUN, Rank(5, 8, 1)),  # srun starts torchrun on each machine
        ({"RANK": "0", "WORLD_SIZE": "1"}, Rank()),
        (STEP, Rank(11, 16, 3, {"MASTER_ADDR": "gpu07", "MASTER_PORT": "15004"})),
        (
            STEP | {"MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "9"},
            Rank(11, 16, 3, {"MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "9"}),
        ),
        # A batch script without srun is one process, though the job may have many tasks.
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "16", "SLURM_LOCALID": "0", "SLURM_JOB_ID": "3"}, Rank()),
    ],
)
def test_the_starter_says_which_process_this_is(environment, expected):
    assert rank_from(environment) == expected


@pytest.mark.parametrize(
    ("nodes", "first"),
    [("node1", "node1"), ("a-b-3,c", "a-b-3"), ("n[010,20]", "n010"), ("rack2-[1-3]", "rack2-1")],
)
def test_processes_of_a_job_step_meet_on_its_first_machine(nodes, first):
    assert rank_from(STEP | {"SLURM_STEP_NODELIST": nodes}).rendezvous["MASTER_ADDR"] == first


@pytest.mark.parametrize(
    ("visible", "environment", "expected"),
    [
        (8, {}, 3),
        (8, {"CUDA_VISIBLE_DEVICES": "0,1,2,3,4,5,6,7"}, 3),
        (1, {"CUDA_VISIBLE_DEVICES": "3"}, 0),  # Slurm gave each task one
        (1, {}, 3),  # four processes and one GPU: that it is not there is said by name
    ],
)
def test_a_process_takes_its_own_gpu_also_where_no_other_is_visible(visible, environment, expected):
    assert gpu_index(Rank(11, 16, 3), visible, environment) == expected


def test_a_gpu_s_group_knows_its_device_and_keeps_the_host_s_numbers_off_it(monkeypatch):
    made, chosen = [], []
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    monkeypatch.setattr(distributed, "_store_of_attempt", lambda runtime: None)  # it would wait for the first
    monkeypatch.setattr(torch.distributed, "init_process_group", lambda *a, **k: made.append((a, k)))
    monkeypatch.setattr(torch.distributed, "destroy_process_group", lambda: None)
    for name in ("RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in STEP.items():
        monkeypatch.setenv(name, value)
    device = torch.device("cuda", 3)
    with process_group(Runtime(device, torch.bfloat16, 11, 16)):
        assert os.environ["MASTER_ADDR"] == "gpu07"
    ((backend,), options) = made[0]
    assert backend == "cpu:gloo,cuda:nccl" and options["device_id"] == device and chosen == [device]
    assert (options["rank"], options["world_size"]) == (11, 16) and options["timeout"].total_seconds() >= 1800
