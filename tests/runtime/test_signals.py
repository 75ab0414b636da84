"""A signal is acknowledged at once and obeyed, also in the middle of a call into C."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from chatsmith.runtime.signals import STOPPING

PROGRAM = """
import hashlib, itertools, os, sys, time, weakref
from pathlib import Path
from chatsmith.cli import main as cli
from chatsmith.runtime import atomic, signals

signals.GRACE_SECONDS = 0.3 if sys.argv[2] == "c" else 30.0
class SlowToEnd:  # as a Python with torch in it
    def __del__(self):
        time.sleep(0.5)
slow = SlowToEnd()
def endless():
    for number in itertools.count():
        yield f"{number} and so on {sum(range(50_000))}"
        if number == 200:
            print("working", flush=True)
def work(*_):
    with atomic.new_folder(Path(sys.argv[1]) / "bundle") as folder:
        (folder / "half").write_text("")
        if sys.argv[2] == "tokenizer":  # native code that calls Python back
            from chatsmith.cli.tokenizer import interruptible
            from chatsmith.text.tokenizer import train_tokenizer
            interruptible(lambda: train_tokenizer(endless(), 300))
        print("working", flush=True)
        if sys.argv[2] != "c":
            if sys.argv[2] == "callback":  # in which Python ignores what is raised
                kept = set()
                gone = weakref.ref(kept, lambda _: time.sleep(60))
                del kept
            time.sleep(60)
        else:  # which no handler of Python's interrupts
            hashlib.pbkdf2_hmac("sha256", b"", b"", 1 << 30)
cli._dispatch = work
signals.install()
sys.exit(cli.main([], {}))
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("where", ["python", "callback", "c", "tokenizer"])
def test_a_signal_is_acknowledged_and_ends_the_process_with_its_code_and_no_temporary_files(
    tmp_path: Path, number: int, where: str
) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(tmp_path), where],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "RANK": "0"},
    ) as process:
        assert process.stdout and process.stdout.readline() == "working\n"
        process.send_signal(number)
        error = process.communicate(timeout=60)[1]
    assert process.returncode == 128 + number
    said = error.splitlines()  # in C it has no time for the second line, unless the signal came before
    assert said == [STOPPING, "chatsmith: stopped"] or (where == "c" and said == [STOPPING])
    assert list(tmp_path.iterdir()) == []
