"""The system calls that a program in the sandbox may not make, as a seccomp filter the kernel can read.

Everything is allowed but a list, as Flatpak does it for whole desktops. A small program needs far less, so more is
refused: no new processes or threads, no sockets, no memory outside the address space, nothing that reaches other
processes, keys, namespaces, mounts, modules, clocks. A refused call fails with EPERM and the program goes on. Calls
that the list is too old to know do not exist (ENOSYS), as on an older kernel.

The filter is a classic BPF program (linux/filter.h, linux/seccomp.h), built here from the numbers of the calls: a
few instructions of four kinds need no library. It says nothing of files: those are simply not there.
"""

import struct

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

_REFUSED = """
    # new processes and threads: one process, so that its limits are the limits of everything
    clone 56 220, fork 57 -, vfork 58 -, clone3 435 435
    # network, and other ways to speak to somebody
    socket 41 198, socketpair 53 199, mq_open 240 180, msgget 68 186
    # memory that no limit on the address space would see
    shmget 29 194, shmat 30 196, shmctl 31 195, semget 64 190, memfd_create 319 279, memfd_secret 447 447
    # other processes
    ptrace 101 117, process_vm_readv 310 270, process_vm_writev 311 271, kcmp 312 272, pidfd_open 434 434
    pidfd_getfd 438 438, pidfd_send_signal 424 424, process_madvise 440 440, migrate_pages 256 238
    move_pages 279 239
    # namespaces and mounts
    unshare 272 97, setns 308 268, mount 165 40, umount2 166 39, pivot_root 155 41, chroot 161 51
    open_tree 428 428, move_mount 429 429, fsopen 430 430, fsconfig 431 431, fsmount 432 432, fspick 433 433
    mount_setattr 442 442, open_by_handle_at 304 265, name_to_handle_at 303 264
    # attributes of files and rules about them, which take the kernel's memory and are bounded by nothing: 1.3 GB in 3 s
    setxattr 188 5, lsetxattr 189 6, fsetxattr 190 7, landlock_create_ruleset 444 444, landlock_add_rule 445 445
    # of which there is one number for the whole machine or for all that its user runs
    io_setup 206 0, inotify_init 253 -, inotify_init1 294 26, quotactl_fd 443 443
    # parts of the kernel with a long record of holes, of no use to a small program
    bpf 321 280, perf_event_open 298 241, userfaultfd 323 282, io_uring_setup 425 425, io_uring_enter 426 426
    io_uring_register 427 427, add_key 248 217, request_key 249 218, keyctl 250 219, vmsplice 278 75
    fanotify_init 300 262, personality 135 92, modify_ldt 154 -, mbind 237 235, set_mempolicy 238 237
    lookup_dcookie 212 18
    # the machine itself
    init_module 175 105, finit_module 313 273, delete_module 176 106, kexec_load 246 104
    kexec_file_load 320 294, reboot 169 142, swapon 167 224, swapoff 168 225, acct 163 89, quotactl 179 60
    settimeofday 164 170, clock_settime 227 112, adjtimex 159 171, clock_adjtime 305 266, syslog 103 116
    vhangup 153 58, iopl 172 -, ioperm 173 -, uselib 134 -, sysfs 139 -
"""
"""Each call with its numbers on x86_64 and aarch64; - where it does not exist."""

# To whom a signal goes is the first argument. A program may signal itself, and nobody else is there but process 1
# of its namespace, and groups (0 and what is negative).
_SIGNALS = "kill 62 129, tkill 200 130, tgkill 234 131, rt_sigqueueinfo 129 138, rt_tgsigqueueinfo 297 240"

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
    for number in _numbers(_REFUSED, column):
        program += [(_JUMP_IF_EQUAL, 0, 1, number), (_RETURN, 0, 0, _REFUSE)]
    for number in _numbers(_SIGNALS, column):
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


def _numbers(table: str, column: int) -> list[int]:
    lines = [line for line in table.splitlines() if not line.lstrip().startswith("#")]
    calls = [call.split() for line in lines for call in line.split(",") if call.strip()]
    return [int(numbers[column]) for _, *numbers in calls if numbers[column] != "-"]
