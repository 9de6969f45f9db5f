"""What the walls need of the kernel and Python does not offer: libc, and system calls by name.

Nothing is loaded when this file is imported, so that it can be imported on any system.
"""

from __future__ import annotations

import ctypes
import functools
import os
import struct
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

PR_SET_PDEATHSIG = 1
PR_SET_DUMPABLE = 4
PR_GET_DUMPABLE = 3
PR_GET_SECCOMP = 21
PR_CAPBSET_READ = 23
PR_CAPBSET_DROP = 24
PR_SET_KEEPCAPS = 8
PR_SET_NO_NEW_PRIVS = 38
PR_GET_NO_NEW_PRIVS = 39
PR_CAP_AMBIENT = 47
PR_CAP_AMBIENT_CLEAR_ALL = 4
PR_GET_PDEATHSIG = 2
CAPABILITIES_VERSION = 0x2008_0522

CLONE_NEWNS = 0x0002_0000
CLONE_NEWCGROUP = 0x0200_0000
CLONE_NEWUTS = 0x0400_0000
CLONE_NEWIPC = 0x0800_0000
CLONE_NEWUSER = 0x1000_0000
CLONE_NEWPID = 0x2000_0000
CLONE_NEWNET = 0x4000_0000

# The highest call that the filters were written for. The numbers above it are the same everywhere.
LAST_KNOWN_CALL = 466

# Each call's number on x86_64 and on aarch64, or None where the machine has no such call.
_CALLS = {
    "_sysctl": (156, None),
    "accept": (43, 202),
    "accept4": (288, 242),
    "acct": (163, 89),
    "add_key": (248, 217),
    "adjtimex": (159, 171),
    "bind": (49, 200),
    "bpf": (321, 280),
    "capget": (125, 90),
    "capset": (126, 91),
    "chmod": (90, None),
    "chown": (92, None),
    "chroot": (161, 51),
    "clock_adjtime": (305, 266),
    "clock_settime": (227, 112),
    "clone": (56, 220),
    "clone3": (435, 435),
    "close_range": (436, 436),
    "connect": (42, 203),
    "delete_module": (176, 106),
    "execve": (59, 221),
    "execveat": (322, 281),
    "fanotify_init": (300, 262),
    "fanotify_mark": (301, 263),
    "fchmod": (91, 52),
    "fchmodat": (268, 53),
    "fchmodat2": (452, 452),
    "fchown": (93, 55),
    "fchownat": (260, 54),
    "fcntl": (72, 25),
    "finit_module": (313, 273),
    "fork": (57, None),
    "fremovexattr": (199, 16),
    "fsconfig": (431, 431),
    "fsetxattr": (190, 7),
    "fsmount": (432, 432),
    "fsopen": (430, 430),
    "fspick": (433, 433),
    "futimesat": (261, None),
    "getsockopt": (55, 209),
    "init_module": (175, 105),
    "inotify_add_watch": (254, 27),
    "inotify_init": (253, None),
    "inotify_init1": (294, 26),
    "io_setup": (206, 0),
    "io_submit": (209, 2),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "io_uring_setup": (425, 425),
    "ioctl": (16, 29),
    "ioperm": (173, None),
    "iopl": (172, None),
    "ioprio_set": (251, 30),
    "kcmp": (312, 272),
    "kexec_file_load": (320, 294),
    "kexec_load": (246, 104),
    "keyctl": (250, 219),
    "kill": (62, 129),
    "landlock_add_rule": (445, 445),
    "landlock_create_ruleset": (444, 444),
    "landlock_restrict_self": (446, 446),
    "lchown": (94, None),
    "listen": (50, 201),
    "listmount": (458, 458),
    "lookup_dcookie": (212, 18),
    "lremovexattr": (198, 15),
    "lsetxattr": (189, 6),
    "lsm_set_self_attr": (460, 460),
    "mbind": (237, 235),
    "memfd_create": (319, 279),
    "memfd_secret": (447, 447),
    "migrate_pages": (256, 238),
    "mknod": (133, None),
    "mknodat": (259, 33),
    "modify_ldt": (154, None),
    "mmap": (9, 222),
    "mount": (165, 40),
    "mount_setattr": (442, 442),
    "move_mount": (429, 429),
    "move_pages": (279, 239),
    "mq_getsetattr": (245, 185),
    "mq_notify": (244, 184),
    "mq_open": (240, 180),
    "mq_timedreceive": (243, 183),
    "mq_timedsend": (242, 182),
    "mq_unlink": (241, 181),
    "msgctl": (71, 187),
    "msgget": (68, 186),
    "msgrcv": (70, 188),
    "msgsnd": (69, 189),
    "name_to_handle_at": (303, 264),
    "nfsservctl": (180, 42),
    "open": (2, None),
    "open_by_handle_at": (304, 265),
    "open_tree": (428, 428),
    "openat": (257, 56),
    "openat2": (437, 437),
    "perf_event_open": (298, 241),
    "personality": (135, 92),
    "pidfd_getfd": (438, 438),
    "pidfd_open": (434, 434),
    "pidfd_send_signal": (424, 424),
    "pivot_root": (155, 41),
    "prctl": (157, 167),
    "prlimit64": (302, 261),
    "process_madvise": (440, 440),
    "process_mrelease": (448, 448),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "ptrace": (101, 117),
    "quotactl": (179, 60),
    "quotactl_fd": (443, 443),
    "reboot": (169, 142),
    "removexattr": (197, 14),
    "removexattrat": (466, 466),
    "request_key": (249, 218),
    "rt_sigqueueinfo": (129, 138),
    "rt_tgsigqueueinfo": (297, 240),
    "sched_setaffinity": (203, 122),
    "sched_setattr": (314, 274),
    "sched_setparam": (142, 118),
    "sched_setscheduler": (144, 119),
    "seccomp": (317, 277),
    "semctl": (66, 191),
    "semget": (64, 190),
    "semop": (65, 193),
    "semtimedop": (220, 192),
    "sendmmsg": (307, 269),
    "sendmsg": (46, 211),
    "set_mempolicy": (238, 237),
    "set_mempolicy_home_node": (450, 450),
    "setdomainname": (171, 162),
    "setfsgid": (123, 152),
    "setfsuid": (122, 151),
    "setgid": (106, 144),
    "setgroups": (116, 159),
    "sethostname": (170, 161),
    "setns": (308, 268),
    "setpriority": (141, 140),
    "setregid": (114, 143),
    "setresgid": (119, 149),
    "setresuid": (117, 147),
    "setreuid": (113, 145),
    "setsockopt": (54, 208),
    "settimeofday": (164, 170),
    "setuid": (105, 146),
    "setxattr": (188, 5),
    "setxattrat": (463, 463),
    "shmat": (30, 196),
    "shmctl": (31, 195),
    "shmdt": (67, 197),
    "shmget": (29, 194),
    "socket": (41, 198),
    "socketpair": (53, 199),
    "statmount": (457, 457),
    "swapoff": (168, 225),
    "swapon": (167, 224),
    "sync": (162, 81),
    "syslog": (103, 116),
    "tgkill": (234, 131),
    "timer_create": (222, 107),
    "tkill": (200, 130),
    "truncate": (76, 45),
    "umount2": (166, 39),
    "unshare": (272, 97),
    "uselib": (134, None),
    "userfaultfd": (323, 282),
    "utime": (132, None),
    "utimensat": (280, 88),
    "utimes": (235, None),
    "vfork": (58, None),
    "vhangup": (153, 58),
    "vmsplice": (278, 75),
}
_COLUMNS = {"x86_64": 0, "aarch64": 1}
_AUDIT_ARCHITECTURES = {"x86_64": 0xC000_003E, "aarch64": 0xC000_00B7}

if TYPE_CHECKING:
    Argument = int | bytes | None | ctypes.Array[Any] | ctypes.Structure


# Makes a call and returns its error number, 0 when it succeeded.
Attempt = Callable[[], int]


class UnknownArchitecture(OSError):
    """The numbers of this machine's system calls are not known here, so no wall can be built."""


class Machine(NamedTuple):
    """One architecture: what the kernel calls it in a filter, and the numbers of its calls."""

    name: str
    audit_architecture: int
    numbers: dict[str, int | None]

    def number(self, call: str) -> int:
        """The call's number; ``KeyError`` where this machine has no such call."""
        number = self.numbers[call]
        if number is None:
            raise KeyError(call)
        return number


def machine(name: str) -> Machine:
    """The machine that ``uname -m`` calls ``name``; ``UnknownArchitecture`` for any other."""
    column = _COLUMNS.get(name)
    if column is None:
        raise UnknownArchitecture(f"no system call numbers for {name or 'a nameless machine'}")
    numbers = {call: numbers[column] for call, numbers in _CALLS.items()}
    return Machine(name, _AUDIT_ARCHITECTURES[name], numbers)


@functools.lru_cache(maxsize=1)
def this_machine() -> Machine:
    """The machine this runs on; ``UnknownArchitecture`` also for a 32-bit Python on a known one."""
    name = os.uname().machine
    if ctypes.sizeof(ctypes.c_void_p) != 8:
        raise UnknownArchitecture(f"a 32-bit Python on {name} is not supported")
    return machine(name)


@functools.lru_cache(maxsize=1)
def _libc() -> ctypes.CDLL:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.syscall.restype = ctypes.c_long
    return libc


def call(name: str, *arguments: Argument) -> int:
    """Make the system call ``name``; raise ``OSError`` with its error number and name."""
    passed = [_as_register(argument) for argument in arguments]
    result = int(_libc().syscall(ctypes.c_long(this_machine().number(name)), *passed))
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")
    return result


def attempt(name: str, *arguments: Argument) -> Attempt:
    """Prepare the system call ``name`` so that it is made fast and raises nothing."""
    passed = [_as_register(argument) for argument in arguments]
    prepared = (ctypes.c_long(this_machine().number(name)), *passed)
    syscall = _libc().syscall

    def make() -> int:
        return 0 if syscall(*prepared) >= 0 else ctypes.get_errno()

    return make


def _as_register(argument: Argument) -> object:
    if isinstance(argument, int):
        return ctypes.c_long(argument)
    if isinstance(argument, ctypes.Structure):
        return ctypes.byref(argument)
    return argument


def prctl(option: int, value: int = 0) -> int:
    """Ask for or set an attribute of this process; ``OSError`` when the kernel refuses."""
    return call("prctl", option, value, 0, 0, 0)


def unshare(flags: int) -> None:
    call("unshare", flags)


def capabilities() -> tuple[int, int, int]:
    """This process's effective, permitted and inheritable capabilities, a bit for each."""
    header = struct.pack("=Ii", CAPABILITIES_VERSION, 0)
    sets = (ctypes.c_uint32 * 6)()
    call("capget", header, sets)
    return sets[0] | sets[3] << 32, sets[1] | sets[4] << 32, sets[2] | sets[5] << 32


def parent_death_signal() -> int:
    """What this process gets when its parent ends; 0 for nothing."""
    number = (ctypes.c_int * 1)()
    call("prctl", PR_GET_PDEATHSIG, number, 0, 0, 0)
    return int(number[0])


def limit_arenas(count: int) -> None:
    """Let malloc keep at most ``count`` arenas, because each reserves address space per thread.

    Only glibc can; another libc has no arenas.
    """
    mallopt = getattr(_libc(), "mallopt", None)
    if mallopt is not None:
        arena_max = -8
        mallopt(arena_max, count)
