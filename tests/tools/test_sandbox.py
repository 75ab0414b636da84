"""The sandbox: honest programs run as usual; hostile ones end contained, in time, as a failure of theirs alone."""

import os
import socket
import struct
import subprocess
import sys
import textwrap
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from chatsmith.runtime.errors import UserError
from chatsmith.tools import sandbox
from chatsmith.tools.sandbox import Limits, Outcome, run_python
from chatsmith.tools.sandbox_filter import seccomp_filter

QUICK = Limits(seconds=20, cpu_seconds=1, memory_bytes=256 << 20, folder_bytes=1 << 20, output_bytes=64 << 10)
GUEST = Path(sandbox.__file__).with_name("sandbox_guest.py")


def run(source: str, limits: Limits = QUICK) -> Outcome:
    return run_python(textwrap.dedent(source), limits)


@pytest.fixture(autouse=True)
def nothing_is_left_running():
    """Of whatever a test started, no process may remain."""
    yield
    mark = GUEST.read_bytes()[:60]
    deadline = time.monotonic() + 60
    while left := [path for path in Path("/proc").glob("[0-9]*") if mark in _command_line(path)]:
        assert time.monotonic() < deadline, f"still running: {left}"
        time.sleep(0.02)


def _command_line(process: Path) -> bytes:
    try:
        return (process / "cmdline").read_bytes()
    except OSError:
        return b""


def test_an_honest_program_runs_to_its_end():
    outcome = run(
        """
        import collections, dataclasses, math, re, sys, typing
        with open("notes.txt", "w") as file:
            file.write("kept in the private folder")
        print(open("/tmp/notes.txt").read(), math.factorial(20), __name__)
        print("to stderr", file=sys.stderr)
        """
    )
    assert outcome.ending == "finished"
    assert outcome.stdout == "kept in the private folder 2432902008176640000 __main__\n"
    assert outcome.stderr == "to stderr\n"


def test_an_exception_is_a_failure_with_a_traceback_of_the_program_alone():
    outcome = run("def f():\n    raise ValueError('no')\nf()")
    assert outcome.ending == "failed"
    assert "ValueError: no" in outcome.stderr and 'File "program.py", line 2' in outcome.stderr
    assert "<string>" not in outcome.stderr
    assert "SyntaxError" in run("def").stderr


@pytest.mark.parametrize("source", ["import os; os._exit(0)", "exit(0)", "import sys; sys.exit()"])
def test_leaving_early_is_not_finishing(source: str):
    assert run(source).ending == "failed"


def test_each_program_has_a_folder_of_its_own():
    assert run("open('here', 'w')").finished
    assert run("import os; print(os.listdir('/tmp'))").stdout == "[]\n"


def test_stdin_is_empty_and_no_other_descriptor_is_inherited(tmp_path: Path):
    with socket.socket() as ours, (tmp_path / "secret").open("w+") as file:
        os.set_inheritable(ours.fileno(), True)
        os.set_inheritable(file.fileno(), True)
        outcome = run(
            """
            import os, sys
            there = []
            for number in range(300):
                try:
                    os.fstat(number)
                    there.append(number)
                except OSError:
                    pass
            print(there, repr(sys.stdin.read()), sys.argv, len(sys.orig_argv) < 9)
            """
        )
    assert outcome.stdout.startswith("[0, 1, 2] ''")


def test_the_environment_and_the_files_of_the_machine_are_not_there(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CHATSMITH_SECRET_OF_THE_TEST", "hunter2")
    outcome = run(
        """
        import os
        print(sorted(os.environ), os.getcwd(), os.uname().nodename)
        for path in ("/etc/passwd", "/proc/self/environ", "/proc/1/root/etc/passwd", "/sys", "/root/.ssh", "/home",
                     "/var", "/bin/sh", "/usr/bin/env", "/run", "/dev", "/dev/null", "/dev/shm", "/dev/mem"):
            print(path, os.path.lexists(path))
        """
    )
    first, *paths = outcome.stdout.splitlines()
    assert "SECRET" not in outcome.stdout
    assert first.endswith("/tmp sandbox")
    assert [line for line in paths if not line.endswith("False")] == []


def test_neither_chatsmith_nor_installed_packages_are_inside():
    for name in ("chatsmith", "torch", "numpy", "pytest"):
        assert "ModuleNotFoundError" in run(f"import {name}").stderr


HOSTILE = {
    "fork bomb": "import os\nwhile True: os.fork()",
    "fork bomb that goes on": """
        import os
        while True:
            try:
                os.fork()
            except OSError:
                pass
        """,
    "thread bomb": """
        import threading, time
        for _ in range(100_000): threading.Thread(target=time.sleep, args=(60,)).start()
        """,
    "memory bomb": "x = bytearray(10 ** 10)",
    "memory bomb in steps": "x = []\nwhile True: x.append(bytearray(1 << 20))",
    "memory bomb by mapping": "import mmap\nx = [mmap.mmap(-1, 1 << 28) for _ in range(100)]",
    "memory bomb by files": """
        for number in range(10_000): open(f"/tmp/{number}", "wb").write(bytes(1 << 20))
        """,
    "memory bomb by shared memory": """
        from multiprocessing.shared_memory import SharedMemory
        x = [SharedMemory(create=True, size=1 << 28) for _ in range(100)]
        """,
    "large number": "x = 10 ** (10 ** 10)",
    "infinite loop": "while True: pass",
    "infinite loop that ignores signals": """
        import signal
        for number in range(1, 65):
            try:
                signal.signal(number, signal.SIG_IGN)
            except (OSError, ValueError):
                pass
        while True: pass
        """,
    "infinite loop in C": "sum(x for x in iter(int, 1))",
    "infinite output": "while True: print('x' * 10_000)",
    "infinite output to stderr": "import os\nwhile True: os.write(2, b'x' * 65536)",
    "infinite file": "file = open('/tmp/x', 'wb')\nwhile True: file.write(bytes(65536))",
    "reading the passwords": "print(open('/etc/passwd').read())",
    "writing outside": "open('/usr/lib/chatsmith-was-here', 'w').write('x')",
    "writing beside": "open('/chatsmith-was-here', 'w').write('x')",
    "writing into the library": "import os\nopen(os.__file__, 'a').write('x')",
    "another folder": "import os\nos.mkdir('/home')",
    "a socket": "import socket\nsocket.create_connection(('127.0.0.1', 22), 1)",
    "a raw socket": "import socket\nsocket.socket(socket.AF_NETLINK, socket.SOCK_RAW)",
    "a local socket": "import socket\nsocket.socket(socket.AF_UNIX).connect('\\0abstract')",
    "a name": "import socket\nprint(socket.gethostbyname('example.org'))",
    "a signal to the parent": "import os, signal\nos.kill(os.getppid(), signal.SIGKILL)",
    "a signal to everybody": "import os, signal\nos.kill(-1, signal.SIGKILL)",
    "a signal to the group": "import os, signal\nos.killpg(0, signal.SIGTERM)",
    "os._exit": "import os\nos._exit(0)",
    "a crash": "import ctypes\nctypes.string_at(0)",
    "deep recursion": "import sys\nsys.setrecursionlimit(10 ** 9)\ndef f(): f()\nf()",
    "/proc of the parent": "print(open('/proc/1/environ').read())",
    "a symlink": "import os\nos.symlink('/etc', '/tmp/etc')\nprint(open('/tmp/etc/passwd').read())",
    "a symlink far up": "import os\nos.symlink('../' * 40 + 'etc/passwd', '/tmp/x')\nprint(open('/tmp/x').read())",
    "a hard link": "import os\nos.link(os.__file__, '/tmp/os.py')",
    "a device": "import os, stat\nos.mknod('/tmp/sda', 0o600 | stat.S_IFBLK, os.makedev(8, 0))\nopen('/tmp/sda', 'rb')",
    "a shell": "import os\nos.execv('/bin/sh', ['sh', '-c', 'id'])",
    "a subprocess": "import subprocess, sys\nsubprocess.run([sys.executable, '-c', 'pass'], check=True)",
    "a process that stays": "import os, time\nif os.fork() == 0:\n    os.setsid()\n    time.sleep(1000)",
    "sleeping": "import time\ntime.sleep(1000)",
    "more for itself": """
        import resource
        resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        """,
    "an exit code that means something to us": "import os\nos._exit(97)",
    "no way to leave": "import os\nos._exit = os.write = lambda *_: None\nraise ValueError",
    "stopping itself": "import os, signal\nos.kill(os.getpid(), signal.SIGSTOP)",
    "waiting without the processor": "import select\nselect.select([], [], [])",
    "ignoring every signal": "import signal\nsignal.pthread_sigmask(signal.SIG_BLOCK, range(1, 65))\nwhile True: pass",
    "a daemon": """
        import os, time
        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0:
                time.sleep(1000)
        """,
    "another program": "import os, sys\nos.execv(sys.executable, [sys.executable, '-c', 'print(1)'])",
    "a spawned program": "import os, sys\nos.posix_spawn(sys.executable, [sys.executable, '-c', ''], {})",
    "the machine's devices": "import os\nos.chmod('/dev/null', 0o666)",
    "a large hole in a file": "open('/tmp/x', 'wb').truncate(1 << 40)",
    "a large hole in memory": "import mmap\nmmap.mmap(-1, 1 << 45)",
    "memory without reserve": """
        import ctypes
        libc = ctypes.CDLL(None)
        libc.mmap.restype = ctypes.c_long
        if libc.mmap(None, ctypes.c_size_t(1 << 40), 3, 0x4022, -1, 0) == -1:  # private, anonymous, MAP_NORESERVE
            raise MemoryError
        """,
    "many empty files": """
        import os
        number = 0
        while True:
            os.mkdir(f"/tmp/{number}")
            number += 1
        """,
    "large attributes of a file": """
        import os
        open("/tmp/x", "w").close()
        for number in range(1_000_000): os.setxattr("/tmp/x", f"user.{number}", bytes(60_000))
        """,
    "nested brackets": "eval('(' * 100_000 + ')' * 100_000)",
    "recursion in C": """
        import sys
        sys.setrecursionlimit(10 ** 8)
        class Deep:
            def __getattr__(self, name): return getattr(self, name + "x")
        Deep().x
        """,
    "an exception that never ends": """
        class Endless(Exception):
            def __str__(self):
                while True: pass
        raise Endless
        """,
    "a long exception": "raise ValueError('x' * 10 ** 8)",
    "the 32-bit way into the kernel": """
        import ctypes, mmap
        code = mmap.mmap(-1, 4096, prot=7)
        code.write(bytes([0xb8, 2, 0, 0, 0, 0xcd, 0x80, 0xc3]))  # mov eax, fork; int 0x80; ret
        ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(code)))()
        """,
    "closing its output and staying": "import os, time\nos.close(1)\nos.close(2)\ntime.sleep(1000)",
    "a namespace": """
        import ctypes, os
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.unshare(0x10000000):
            raise OSError(ctypes.get_errno())
        """,
}

ENDINGS = {
    "infinite loop": "timeout",
    "infinite loop that ignores signals": "timeout",
    "infinite output": "output",
    "sleeping": "timeout",
    "memory bomb in steps": "failed",
    "large attributes of a file": "failed",
    "the machine's devices": "failed",
    "an exit code that means something to us": "failed",
    "no way to leave": "failed",
    "os._exit": "failed",
    "a crash": "killed",
}
"""How some of them must have ended; the others may fail in more than one way."""

WAITING = (
    "sleeping",
    "closing its output and staying",
    "stopping itself",
    "waiting without the processor",
)
"""They use no processor, and are ended by the clock on the wall."""

SYSTEM_CALLS = {
    "fork": 57, "vfork": 58, "clone": 56, "clone3": 435, "ptrace": 101, "mount": 165, "unshare": 272, "setns": 308,
    "bpf": 321, "keyctl": 250, "userfaultfd": 323, "io_uring_setup": 425, "perf_event_open": 298, "socket": 41,
    "socketpair": 53, "memfd_create": 319, "shmget": 29, "pidfd_open": 434, "chroot": 161, "pivot_root": 155,
    "io_setup": 206, "inotify_init1": 294, "setxattr": 188, "landlock_create_ruleset": 444,
    "fork by x32": 0x40000000 + 57, "process_vm_readv": 310, "open_by_handle_at": 304, "mq_open": 240,
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_program_fails_alone_and_in_time(name: str):
    limits = replace(QUICK, seconds=1) if name in WAITING else QUICK
    started = time.monotonic()
    outcome = run(HOSTILE[name], limits)
    assert time.monotonic() - started < limits.seconds + 60  # they would go on for ever
    assert outcome.ending == ENDINGS.get(name, outcome.ending) != "finished"
    assert len(outcome.stdout) + len(outcome.stderr) <= 2 * limits.output_bytes
    assert "root:" not in outcome.stdout
    assert "chatsmith-was-here" not in os.listdir("/usr/lib") + os.listdir("/")


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="the numbers are those of x86_64")
def test_system_calls_by_number_are_refused():
    """Through ctypes, past all of Python: the kernel itself must say no."""
    outcome = run(
        f"""
        import ctypes, errno
        libc = ctypes.CDLL(None, use_errno=True)
        for name, number in {SYSTEM_CALLS}.items():
            result = libc.syscall(number, 0, 0, 0, 0, 0)
            print(name, result, errno.errorcode.get(ctypes.get_errno()))
            if result == 0:
                import os; os._exit(3)
        """
    )
    lines = outcome.stdout.splitlines()
    assert len(lines) == len(SYSTEM_CALLS), outcome
    assert [line for line in lines if not line.endswith("-1 EPERM")] == []


def test_system_calls_that_came_after_the_filter_do_not_exist():
    """Among them are listmount, which tells where the machine keeps things, and what later kernels will bring."""
    outcome = run(
        """
        import ctypes, errno
        libc = ctypes.CDLL(None, use_errno=True)
        print({(libc.syscall(number, 0, 0, 0, 0, 0), ctypes.get_errno()) for number in range(450, 600)})
        """
    )
    assert outcome.stdout == "{(-1, 38)}\n"


def test_what_belongs_to_the_machine_is_as_before():
    """Whoever runs the programs as root owns the devices and the library; no program may lay hands on them."""
    outcome = run(
        f"""
        import os
        for path in ("/dev/null", "/dev/zero", "/dev/urandom", {os.__file__!r}):
            # Each leaves everything as it is, should it work.
            for act in (
                lambda: os.chmod(path, os.stat(path).st_mode & 0o777),
                lambda: os.utime(path, ns=(os.stat(path).st_atime_ns, os.stat(path).st_mtime_ns)),
                lambda: os.chown(path, 65534, -1),
            ):
                try:
                    act()
                    print("changed", path)
                except OSError:
                    pass
        """
    )
    assert (outcome.ending, outcome.stdout) == ("finished", "")


def test_one_program_does_not_see_or_disturb_another():
    """Several at once, from threads, beside one that does its worst."""
    honest = "import time\ntime.sleep(0.5)\nprint('alive')"
    with ThreadPoolExecutor(4) as pool:
        bombs = [pool.submit(run, HOSTILE[name]) for name in ("a signal to everybody", "fork bomb")]
        outcomes = [pool.submit(run, honest) for _ in range(2)]
        assert [outcome.result().stdout for outcome in outcomes] == ["alive\n"] * 2
        assert not any(bomb.result().finished for bomb in bombs)
    assert threading.active_count() < 50


def test_odd_texts_are_programs_too():
    assert run("x = '\\u00e9'; print(x)").stdout == "é\n"
    assert run("import os; os.write(1, b'\\xff\\xfe')").stdout == "��"
    assert run("x = '\ud800'").ending == "failed"
    assert run("\0").ending == "failed"
    assert run("").finished
    assert run("x = 1\n" * 100_000).finished, "longer than a pipe holds"


def test_without_bubblewrap_nothing_runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    ran = tmp_path / "ran"
    monkeypatch.setattr(sandbox, "_bubblewrap", lambda: None)
    sandbox._problem.cache_clear()
    try:
        with pytest.raises(UserError, match=r"bubblewrap \S+ or newer is missing"):
            run(f"open({str(ran)!r}, 'w')")
    finally:
        sandbox._problem.cache_clear()
    assert not ran.exists()


def test_a_bubblewrap_that_fails_is_explained(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    broken = tmp_path / "bwrap"
    broken.write_text("#!/bin/sh\necho 'bwrap: No permissions to create a new namespace' >&2; exit 1\n")
    broken.chmod(0o755)
    monkeypatch.setattr(sandbox, "_bubblewrap", lambda: str(broken))
    sandbox._problem.cache_clear()
    try:
        with pytest.raises(UserError, match=r"No permissions.*unprivileged_userns"):
            run("print(1)")
    finally:
        sandbox._problem.cache_clear()


def test_a_sandbox_that_fails_later_is_no_failure_of_the_program(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    """A score would else be lower for the machine's sake, and nobody would know."""
    assert run("print(1)").finished, "it worked at first"
    broken = tmp_path / "bwrap"
    broken.write_text("#!/bin/sh\necho 'bwrap: Resource temporarily unavailable' >&2; exit 1\n")
    broken.chmod(0o755)
    monkeypatch.setattr(sandbox, "_bubblewrap", lambda: str(broken))
    with pytest.raises(UserError, match=r"could not be started: bwrap: Resource temporarily"):
        run("print(1)")


def test_output_up_to_the_limit_is_kept():
    assert len(run("print('x' * 99, end='')", replace(QUICK, output_bytes=99)).stdout) == 99
    assert run("print('x' * 99)", replace(QUICK, output_bytes=99)).ending == "output"


def test_the_guest_refuses_to_run_a_program_unprotected(tmp_path: Path):
    """Should the walls ever be missing, the program inside must not start."""
    ran = tmp_path / "ran"
    program = f"mark 5 {1 << 30} {1 << 20}\nopen({str(ran)!r}, 'w')\n"
    guest = subprocess.run([sys.executable, "-I", str(GUEST)], input=program.encode(), capture_output=True)
    assert guest.returncode == 97
    assert not ran.exists()


def decide(machine: str, number: int, *arguments: int, architecture: int | None = None) -> int:
    """What the filter says of a system call: its instructions, carried out one by one."""
    architecture = architecture or {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}[machine]
    first, second = (argument & (2**64 - 1) for argument in (*arguments, 0, 0)[:2])
    data = struct.pack("<IIQQQ", number, architecture, 0, first, second)
    program = list(struct.iter_unpack("<HBBI", seccomp_filter(machine)))
    position, word = 0, 0
    while True:
        code, if_true, if_false, value = program[position]
        position += 1
        if code == 0x20:
            (word,) = struct.unpack_from("<I", data, value)
        elif code == 0x06:
            return value
        else:
            position += if_true if (word == value if code == 0x15 else word >= value) else if_false


@pytest.mark.parametrize(
    ("machine", "fork", "read", "kill", "ioctl"),
    [("x86_64", 56, 0, 62, 16), ("aarch64", 220, 63, 129, 29)],
)
def test_the_filter_decides_as_written(machine: str, fork: int, read: int, kill: int, ioctl: int):
    """Also for the processor that this machine is not."""
    allow, refuse, death = 0x7FFF0000, 0x00050001, 0x80000000
    assert decide(machine, read) == allow
    assert decide(machine, fork) == refuse
    assert decide(machine, read, architecture=0x40000003) == death, "a call in another architecture's way"
    assert (decide(machine, 449), decide(machine, 450)) == (allow, 0x00050000 | 38), (
        "newer calls do not exist"
    )
    assert decide(machine, kill, 2, 9) == allow
    assert [decide(machine, kill, process, 9) for process in (1, 0, -1, -2)] == [refuse] * 4
    assert [decide(machine, ioctl, 0, request) for request in (0x5412, 0x541C, 0x5401)] == [
        refuse,
        refuse,
        allow,
    ]


BUSY = """
import time
while time.process_time() < 1.3:
    pass
"""


@pytest.mark.parametrize(
    "source",
    [
        "import signal\nsignal.signal(signal.SIGXCPU, signal.SIG_IGN)\nwhile True: pass",
        "import signal\nsignal.signal(signal.SIGXCPU, lambda *_: None)\nwhile True: pass",
        "import signal\nsignal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGXCPU])\nwhile True: pass",
        "import signal\nsignal.signal(signal.SIGXCPU, signal.SIG_IGN)" + BUSY + "print(1)",
        "import signal\nsignal.signal(signal.SIGXCPU, signal.SIG_IGN)" + BUSY + "raise ValueError",
        "import signal\nsignal.signal(signal.SIGXCPU, lambda *_: 1 / 0)\nwhile True: pass",
        "while True: pass",
    ],
    ids=["ignored", "handled", "blocked", "ignored, finished", "ignored, failed", "raises", "plain"],
)
def test_row_10_a_program_out_of_processor_time_is_out_of_time_whatever_it_does_with_the_signal(source: str):
    outcome = run(source, replace(QUICK, seconds=60))
    assert outcome.ending == "timeout" and not outcome.finished


def test_row_10_a_program_that_kills_itself_at_once_is_killed():
    assert run("import os, signal; os.kill(os.getpid(), signal.SIGKILL)").ending == "killed"
    assert run("import os; os.abort()").ending == "killed"
