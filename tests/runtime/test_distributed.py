"""Two real processes sum gradients and numbers as one would; a process alone needs none of it."""

import json
import os
import socket
import subprocess
import sys

import pytest
import torch

from chatsmith.runtime.device import Runtime
from chatsmith.runtime.distributed import main_number, process_group, sum_number

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
