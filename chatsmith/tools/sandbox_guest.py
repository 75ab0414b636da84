"""What runs inside the sandbox, before and around the untrusted program; it is never imported by chatsmith.

`chatsmith.tools.sandbox` hands the text of this file to a bare interpreter. On stdin come a line with a mark and the
limits, and then the program. The limits are lowered for good; then it makes sure that it is shut in, and refuses to go
on if not. The program runs as `__main__`. The mark stands before its output, so that a sandbox that failed is not taken
for a program that failed; and after it only if the program ran to its end, so that one that leaves early
(`os._exit(0)`) is not taken for one that finished.
"""

import os
import resource
import sys
from contextlib import suppress
from os import _exit, write  # for the program may put something else in their place
from resource import RLIMIT_CPU, getrlimit

UNPROTECTED = 97
"""Exit code: the sandbox is not one, and the program was not run."""

OUT_OF_TIME = 128 + 24
"""Exit code: as if SIGXCPU had ended it. A program that has ignored the signal may come to its end, but late."""


def main():
    first_line, _, source = sys.stdin.buffer.read().partition(b"\n")
    # A dict of numbers and a hexadecimal string: the parent wrote it, and json would cost 5 ms to import.
    mark, *numbers = first_line.decode("ascii").split()
    cpu_seconds, memory_bytes, file_bytes = map(int, numbers)
    os.close(0)
    _, end = os.pipe()  # takes the lowest free number, 0: stdin has ended, and there are no devices
    os.close(end)
    limits = {
        "AS": memory_bytes,
        "FSIZE": file_bytes,
        "NOFILE": 64,
        "CORE": 1,  # the one value at which the kernel does not even hand a crash to the system's crash reporter
        "MEMLOCK": 0,
        "MSGQUEUE": 0,
        "NPROC": 1,
        "SIGPENDING": 64,
    }
    for name, value in limits.items():
        resource.setrlimit(getattr(resource, "RLIMIT_" + name), (value, value))
    # At the first limit comes SIGXCPU, which tells the parent why; at the second SIGKILL, which cannot be ignored.
    resource.setrlimit(resource.RLIMIT_CPU, (cpu_seconds, cpu_seconds + 1))
    if is_unprotected():
        _exit(UNPROTECTED)
    write(1, mark.encode("ascii"))
    del sys.argv[1:]
    module = type(sys)("__main__")
    sys.modules["__main__"] = module
    try:
        exec(compile(source, "program.py", "exec"), module.__dict__)
    except BaseException as error:
        error.__traceback__ = error.__traceback__ and error.__traceback__.tb_next  # not this file's frame
        sys.__excepthook__(type(error), error, error.__traceback__)
        flush()
        _exit(OUT_OF_TIME if is_late(cpu_seconds) else 1)
    flush()
    if is_late(cpu_seconds):
        _exit(OUT_OF_TIME)
    write(1, mark.encode("ascii"))
    _exit(0)


def is_unprotected():
    """Whether anything that must be impossible is possible."""
    if os.path.exists("/etc") or os.path.exists("/proc"):
        return True
    try:
        process = os.fork()
    except OSError:
        return False
    if process == 0:
        _exit(0)
    return True


def is_late(cpu_seconds):
    """Whether SIGXCPU was sent, whatever the program did with it: with it the kernel raises the limit by a second."""
    return getrlimit(RLIMIT_CPU)[0] > cpu_seconds


def flush():
    """Bring the program's output out, whatever it did to its streams."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(BaseException):
            stream.flush()


main()
