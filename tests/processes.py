"""Processes forked from one that has imported torch: importing it takes longer than all that most of them do."""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[1]

# A child leaves the loop and becomes what `python -c` would be; so it also ends as any Python does.
SERVER = """
import json, os, sys
import torch, torch._dynamo, torch.distributed, safetensors.torch
import chatsmith.cli.evaluate, chatsmith.cli.pretrain, chatsmith.cli.rl, chatsmith.optim.sharded, tests.train.conftest

os.fsync = lambda descriptor: None  # this and the next as in tests/conftest.py
chatsmith.train.step.gemm_peak = chatsmith.train.trainer.gemm_peak = lambda *_, **__: 1e11
for line in sys.stdin:
    job, children = json.loads(line), []
    for rank, environment in enumerate(job["environments"]):
        children.append(os.fork())
        if not children[-1]:
            break
    else:
        print(json.dumps([os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]), flush=True)
        continue
    break
else:
    sys.exit()
os.environ.clear()
os.environ.update(environment)
sys.argv = job["argv"]
for descriptor, name in enumerate(("/dev/null", f"{job['folder']}/{rank}.out", f"{job['folder']}/{rank}.err")):
    os.dup2(os.open(name, os.O_RDWR | os.O_CREAT), descriptor)
exec(compile(job["program"], "<program>", "exec"), {"__name__": "__main__"})
"""
CHATSMITH = "from chatsmith.cli.main import run\nrun()"
"""The program that is `python -m chatsmith`."""


@cache
def _server() -> subprocess.Popen[str]:
    """Ends with the process that asked for it, when its stdin is closed."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONIOENCODING": "utf-8"}
    return subprocess.Popen(
        [sys.executable, "-c", SERVER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env=environment,
        process_group=0,
    )


@dataclass(frozen=True)
class Ended:
    """How a process ended, and what it said."""

    code: int
    out: str
    err: str


class Processes:
    """Starts `world_size` processes of one group (alone, they are of none) which run a program's text.

    The environment is the caller's unless one is given. One group at a time: `wait` before the next is started.
    """

    def __init__(
        self, program: str, *argv: object, world_size: int = 1, environment: Mapping[str, str] | None = None
    ) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = str(free.getsockname()[1])
        group = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": str(world_size)}
        environment = {
            **(os.environ if environment is None else environment),
            "OMP_NUM_THREADS": "1",
            **group,
        }
        self._folder = tempfile.TemporaryDirectory()
        ranks = [environment | {"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(world_size)]
        job = {
            "program": program,
            "argv": ["chatsmith", *map(str, argv)],
            "folder": self._folder.name,
            "environments": ranks,
        }
        pipe = _server().stdin
        assert pipe is not None
        pipe.write(json.dumps(job) + "\n")
        pipe.flush()

    def wait(self) -> list[Ended]:
        """Until all have ended."""
        server = _server()
        assert server.stdout is not None
        try:
            codes = json.loads(server.stdout.readline())
        except BaseException:  # such as a test's timeout
            os.killpg(server.pid, signal.SIGKILL)
            _server.cache_clear()
            raise
        folder = Path(self._folder.name)
        ended = [
            Ended(code, (folder / f"{rank}.out").read_text(), (folder / f"{rank}.err").read_text())
            for rank, code in enumerate(codes)
        ]
        self._folder.cleanup()
        return ended


def together(program: str, *argv: object, world_size: int = 1, **environment: str) -> list[Ended]:
    """Start them, and wait until all have ended."""
    return Processes(program, *argv, world_size=world_size, environment=os.environ | environment).wait()


def well(ended: list[Ended]) -> list[Ended]:
    """The same, if none failed."""
    assert [one.code for one in ended] == [0] * len(ended), "\n".join(one.err for one in ended)
    return ended
