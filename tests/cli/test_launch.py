"""Several processes started by `chatsmith run`: their environment, their exit codes, signals, and machines."""

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest

from chatsmith.cli import launch as module
from chatsmith.cli.launch import Machines, Place, find_place, launch
from chatsmith.runtime.errors import UserError

HERE = Place()


def start(script: str, processes: int = 3, place: Place = HERE) -> None:
    launch(
        [sys.executable, "-c", "import os, sys, time, signal\n" + textwrap.dedent(script)],
        processes,
        place,
        os.environ,
    )


def test_each_process_knows_its_rank_and_only_the_first_one_speaks(tmp_path, capfd):
    start(
        f"""
        names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR")
        open("{tmp_path}/" + os.environ["LOCAL_RANK"], "w").write(" ".join(os.environ[name] for name in names))
        print("out of", os.environ["RANK"])
        print("err of", os.environ["RANK"], file=sys.stderr)
        """,
        place=Place(2, 1, "10.0.0.1", 3000),
    )
    assert (tmp_path / "2").read_text() == "5 2 6 3 10.0.0.1"
    assert capfd.readouterr() == ("", ""), "the first process of the second machine is not the first one"
    start("print('out of', os.environ['RANK'])")
    assert capfd.readouterr().out == "out of 0\n"


@pytest.mark.parametrize("rank", [0, 1])
def test_the_exit_code_is_that_of_the_first_to_fail_and_so_is_the_message(rank, capfd, monkeypatch):
    monkeypatch.setattr(module, "GRACE", 0.3)
    with pytest.raises(SystemExit) as stop:
        start(
            f"""
            if os.environ["RANK"] == "{rank}":
                print("chatsmith: out of memory", file=sys.stderr)
                sys.exit(2)
            time.sleep(60)
            """
        )
    assert stop.value.code == 2
    assert capfd.readouterr().err == "chatsmith: out of memory\n"


def test_what_all_have_to_say_is_said_once(capfd):
    with pytest.raises(SystemExit) as stop:
        start("time.sleep(0.1 * (os.environ['RANK'] == '0')); print('no data', file=sys.stderr); sys.exit(2)")
    assert stop.value.code == 2
    assert capfd.readouterr().err == "no data\n"


def test_a_process_that_the_system_killed_is_one_line():
    with pytest.raises(UserError, match="process 1 was killed \\(SIGKILL\\), most often for want of memory"):
        start("os.environ['RANK'] == '1' and os.kill(os.getpid(), signal.SIGKILL)", processes=2)


SAVES = """
import os, signal, sys, time
def save(*_):
    time.sleep(0.5)
    open(sys.argv[1] + "/saved" + os.environ["RANK"], "w")
    sys.exit(130)
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, save)
open(sys.argv[1] + "/ready" + os.environ["RANK"], "w")
time.sleep(60)
"""


def wait_for(folder: Path, name: str) -> None:
    deadline = time.monotonic() + 30
    while {path.name for path in folder.iterdir()} < {f"{name}0", f"{name}1"}:
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.fixture
def launcher(tmp_path, subprocess_environment):
    """A process that launches two which save when they are told to."""
    code = (
        "import os, sys; from chatsmith.cli.launch import Place, launch; "
        f"launch([sys.executable, '-c', {SAVES!r}, {str(tmp_path)!r}], 2, Place(), os.environ)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], env=subprocess_environment, start_new_session=True
    )
    wait_for(tmp_path, "ready")
    yield process
    process.kill()
    process.wait()


def test_a_signal_reaches_all_once_and_those_that_save_are_waited_for(launcher, tmp_path):
    os.kill(launcher.pid, signal.SIGINT)
    assert launcher.wait(timeout=30) == 130
    assert {path.name for path in tmp_path.iterdir()} >= {"saved0", "saved1"}


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process of its parent's death")
def test_where_the_one_that_started_them_is_killed_they_save_and_end(launcher, tmp_path):
    launcher.kill()
    launcher.wait()
    wait_for(tmp_path, "saved")


SLURM = {"SLURM_NNODES": "4", "SLURM_NODEID": "2", "SLURM_JOB_NODELIST": "gpu-[07-09,12]"}


@pytest.mark.parametrize(
    ("environ", "place"),
    [
        ({}, Place()),
        ({"WORLD_SIZE": "1", "RANK": "0"}, Place()),
        (SLURM, Place(4, 2, "gpu-07", 29_500)),
        ({**SLURM, "SLURM_JOB_NODELIST": "a1,a2,b[3-4]"}, Place(4, 2, "a1", 29_500)),
        ({**SLURM, "MASTER_ADDR": "10.1.1.1", "MASTER_PORT": "4000"}, Place(4, 2, "10.1.1.1", 4000)),
        ({"NNODES": "2", "NODE_RANK": "1", "MASTER_ADDR": "h"}, Place(2, 1, "h", 29_500)),
        (
            {"GROUP_WORLD_SIZE": "2", "GROUP_RANK": "1", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "1"}
            | {"MASTER_ADDR": "h", "MASTER_PORT": "4000"},
            Place(2, 1, "h", 4000),
        ),
    ],
)
def test_machines_are_those_of_slurm_or_torchrun(environ, place):
    assert find_place(environ) == place
    assert find_place(environ, nodes=1) == Place()


@pytest.mark.parametrize(
    ("environ", "nodes", "message"),
    [
        ({"WORLD_SIZE": "8", "RANK": "0"}, 0, "start it once on each machine"),
        ({}, 2, "for 2 machines the environment must say"),
        (SLURM, 2, "for 2 machines the environment must say"),
        ({"NNODES": "2"}, 0, "for 2 machines the environment must say"),
    ],
)
def test_an_environment_that_does_not_say_where_this_machine_belongs_is_refused(environ, nodes, message):
    with pytest.raises(UserError, match=message):
        find_place(environ, nodes)


def test_other_machines_begin_a_stage_when_the_first_one_does():
    port = module._free_port()
    first = Machines(Place(2, 0, "127.0.0.1", port))
    other = Machines(Place(2, 1, "127.0.0.1", port))
    begun: list[str] = []
    waiting = threading.Thread(target=lambda: (other.begin("pretrain"), begun.append("pretrain")))
    waiting.start()
    time.sleep(0.2)
    assert begun == []
    first.begin("pretrain")
    waiting.join(timeout=10)
    assert begun == ["pretrain"]
