"""The system calls that a program in the sandbox may not make, as a seccomp filter the kernel can read.

Everything is allowed but a list, as Flatpak does it for whole desktops. A small program needs far less, so more is
refused: no new processes or threads, no sockets, no memory outside the address space, nothing that reaches other
processes, keys, namespaces, mounts, modules, clocks. A refused call fails with EPERM and the program goes on. Calls
that the list is too old to know do not exist (ENOSYS), as on an older kernel.

The filter is a classic BPF program (linux/filter.h, linux/seccomp.h), built here from the numbers of the calls in
`system_calls.toml`: a few instructions of four kinds need no library. It says nothing of files: those are
simply not there.
"""

import struct
import tomllib
from pathlib import Path

EPERM, ENOSYS = 1, 38

_LOAD_WORD = 0x20  # BPF_LD | BPF_W | BPF_ABS
_JUMP_IF_EQUAL = 0x15
_JUMP_IF_AT_LEAST = 0x35
_RETURN = 0x06

_ALLOW = 0x7FFF0000
_REFUSE = 0x00050000 | EPERM
_UNKNOWN = 0x00050000 | ENOSYS
_KILL = 0x80000000

# Offsets into struct seccomp_data; arguments are 64 bits, of which these are the lower halves (little endian).
_NUMBER, _ARCHITECTURE, _FIRST_ARGUMENT, _SECOND_ARGUMENT = 0, 4, 16, 24

_ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_X32 = 0x40000000  # numbers from here on are the x32 way into the same calls
_FIRST_UNJUDGED = 450
"""Calls from here on (Linux 5.17 and later) were not looked at; new ones have one number on all processors."""

# Typing into the terminal of whoever started us.
_IOCTL = (16, 29)
_TIOCSTI, _TIOCLINUX = 0x5412, 0x541C


def supports(machine: str) -> bool:
    """Whether there is a filter for processors of this kind (`platform.machine()`)."""
    return machine in _ARCHITECTURES


def seccomp_filter(machine: str) -> bytes:
    """The filter for `machine` ("x86_64" or "aarch64"), as an array of struct sock_filter."""
    column = list(_ARCHITECTURES).index(machine)
    program = [
        (_LOAD_WORD, 0, 0, _ARCHITECTURE),
        (_JUMP_IF_EQUAL, 1, 0, _ARCHITECTURES[machine]),
        (_RETURN, 0, 0, _KILL),
        (_LOAD_WORD, 0, 0, _NUMBER),
    ]
    if machine == "x86_64":
        program += [(_JUMP_IF_AT_LEAST, 0, 1, _X32), (_RETURN, 0, 0, _REFUSE)]
    program += [(_JUMP_IF_AT_LEAST, 0, 1, _FIRST_UNJUDGED), (_RETURN, 0, 0, _UNKNOWN)]
    for number in _numbers("refused", column):
        program += [(_JUMP_IF_EQUAL, 0, 1, number), (_RETURN, 0, 0, _REFUSE)]
    for number in _numbers("signals", column):
        program += [
            (_JUMP_IF_EQUAL, 0, 5, number),
            (_LOAD_WORD, 0, 0, _FIRST_ARGUMENT),
            (_JUMP_IF_AT_LEAST, 2, 0, 0x80000000),
            (_JUMP_IF_AT_LEAST, 0, 1, 2),
            (_RETURN, 0, 0, _ALLOW),
            (_RETURN, 0, 0, _REFUSE),
        ]
    program += [
        (_JUMP_IF_EQUAL, 0, 5, _IOCTL[column]),
        (_LOAD_WORD, 0, 0, _SECOND_ARGUMENT),
        (_JUMP_IF_EQUAL, 1, 0, _TIOCSTI),
        (_JUMP_IF_EQUAL, 0, 1, _TIOCLINUX),
        (_RETURN, 0, 0, _REFUSE),
        (_RETURN, 0, 0, _ALLOW),
        (_RETURN, 0, 0, _ALLOW),
    ]
    return b"".join(struct.pack("<HBBI", *instruction) for instruction in program)


def _numbers(group: str, column: int) -> list[int]:
    calls = tomllib.loads(Path(__file__).with_name("system_calls.toml").read_text(encoding="utf-8"))[group]
    return [numbers[column] for numbers in calls.values() if numbers[column] >= 0]
