"""The filter on system calls: what is denied to whom, and the program that the kernel is given.

A list of what is denied, because packages need calls that no list of what is allowed foresees; but
every call that came into the kernel after this list was written does not exist here.
"""

from __future__ import annotations

import ctypes
import errno
import struct
from typing import NamedTuple

from insula_jail import machine
from insula_jail.machine import Machine

ALLOW = 0x7FFF_0000
KILL_PROCESS = 0x8000_0000
ERRNO = 0x0005_0000
DENY = ERRNO | errno.EPERM
NO_SUCH_CALL = ERRNO | errno.ENOSYS
# The call is not made, and the caller is told that it was.
PRETEND = ERRNO

_LOAD, _JUMP, _RETURN = 0x20, 0x05, 0x06
_IF_EQUAL, _IF_ABOVE, _IF_AT_LEAST, _IF_ANY_BIT, _AND = 0x15, 0x25, 0x35, 0x45, 0x54
_CALL_OFFSET, _ARCHITECTURE_OFFSET, _ARGUMENTS_OFFSET = 0, 4, 16
_X32_BIT = 0x4000_0000
_SET_MODE_FILTER = 1
_GROUP = 12


def _names(text: str) -> list[str]:
    return text.split()


# What a script has no use for and the kernel's weak spots were found in; and the clocks of
# ``timer_create``, whose signals would wake a script that is frozen.
_KERNEL = _names(
    "_sysctl acct add_key adjtimex bpf chroot clock_adjtime clock_settime delete_module "
    "fanotify_init fanotify_mark finit_module fsconfig fsmount fsopen fspick init_module "
    "io_uring_enter io_uring_register io_uring_setup ioperm iopl kcmp kexec_file_load kexec_load "
    "keyctl listmount lookup_dcookie lsm_set_self_attr mbind memfd_create memfd_secret "
    "migrate_pages mknod mknodat modify_ldt move_pages name_to_handle_at nfsservctl "
    "open_by_handle_at open_tree perf_event_open personality pidfd_getfd process_madvise "
    "process_mrelease process_vm_readv process_vm_writev ptrace quotactl quotactl_fd reboot "
    "request_key set_mempolicy set_mempolicy_home_node setdomainname settimeofday statmount "
    "swapoff swapon syslog timer_create uselib userfaultfd vhangup vmsplice"
)
# What all of the host have together: its number of asynchronous requests and of watches, and the
# time to write every disk. Whoever watches a file also sees when others use it.
_OF_THE_HOST = _names("inotify_add_watch inotify_init inotify_init1 io_setup io_submit sync")
# Nobody here talks to anybody. A connected pair of sockets is enough for an event loop; a message
# could hide open files from those who count them, an option enlarge a buffer that nobody counts.
_NETWORK = _names("accept accept4 bind connect listen sendmmsg sendmsg setsockopt socket")
# Shared memory and queues that outlive their process, and that no limit counts.
_IPC = _names(
    "mq_getsetattr mq_notify mq_open mq_timedreceive mq_timedsend mq_unlink msgctl msgget msgrcv "
    "msgsnd semctl semget semop semtimedop shmat shmctl shmdt shmget"
)
# What the zygote still needs to build a worker's walls, and a worker never.
_WALLS = _names(
    "capset landlock_add_rule landlock_create_ruleset landlock_restrict_self mount mount_setattr "
    "move_mount pivot_root seccomp setfsgid setfsuid setgid setgroups sethostname setns setregid "
    "setresgid setresuid setreuid setuid umount2 unshare"
)
_EVERYWHERE = _KERNEL + _OF_THE_HOST + _NETWORK + _IPC + _WALLS
_ZYGOTE_NEEDS = {
    "A": set(
        _names("capset landlock_add_rule landlock_create_ruleset landlock_restrict_self mount")
    )
    | set(_names("mount_setattr seccomp setgroups setns setresgid setresuid umount2 unshare")),
    "B": set(_names("capset landlock_add_rule landlock_create_ruleset landlock_restrict_self"))
    | set(_names("seccomp setgroups setresgid setresuid")),
}
# Without namespaces, what acts on other processes or files by number or name must be denied
# here: Landlock rules over opening files, not over their attributes.
_WITHOUT_NAMESPACES = _names(
    "chown execve execveat fchown fchownat fork fremovexattr fsetxattr ioprio_set "
    "lchown lremovexattr lsetxattr pidfd_open pidfd_send_signal removexattr "
    "removexattrat sched_setaffinity sched_setattr sched_setparam sched_setscheduler setpriority "
    "setxattr setxattrat tkill truncate vfork"
)
# Copying a file sets its mode and times. Files of the worker do without; others stay as they are.
_PRETENDED = _names("chmod fchmod fchmodat fchmodat2 futimesat utime utimensat utimes")
_SIGNALS_BY_PID = _names("kill rt_sigqueueinfo rt_tgsigqueueinfo tgkill")

_NAMESPACE_FLAGS = (
    machine.CLONE_NEWNS
    | machine.CLONE_NEWCGROUP
    | machine.CLONE_NEWUTS
    | machine.CLONE_NEWIPC
    | machine.CLONE_NEWUSER
    | machine.CLONE_NEWPID
    | machine.CLONE_NEWNET
)
_CLONE_THREAD, _CLONE_FILES = 0x1_0000, 0x400
_CLOSE_RANGE_UNSHARE = 2
# Memory that counts for nobody as soon as it is mapped no more, and pages that the host reserved.
_MAP_SHARED_ANONYMOUS, _MAP_HUGETLB = 0x21, 0x4_0000
# The process at the other end of the frames, by a handle.
_SO_PEERPIDFD = 77
_AF_UNIX, _SOCK_STREAM, _SOCK_SEQPACKET, _SOCKET_TYPE_MASK = 1, 1, 5, 0xF
# TIOCSTI and TIOCLINUX type into a terminal.
_TERMINAL_REQUESTS = (0x5412, 0x541C)
# TCGETS, TIOCGWINSZ, FIONREAD, FIONBIO, TCGETS2, FIONCLEX, FIOCLEX, FICLONE, FICLONERANGE: what a
# file needs. Others change files that were opened to be read, or say who gets a signal.
_HARMLESS_REQUESTS = (
    *(0x5401, 0x5413, 0x541B, 0x5421, 0x802C_542A, 0x5450, 0x5451, 0x4004_9409, 0x4020_940D),
)
# F_SETOWN, F_SETSIG, F_SETOWN_EX: a descriptor that sends any signal to any process. F_SETLEASE,
# F_NOTIFY: one that makes others wait, or sees what they do.
_OWNER_COMMANDS = (8, 10, 15, 1024, 1026)
# The parent-death signal ends a worker with its zygote; dumpable is what the watchdog relies on.
_KEPT_ATTRIBUTES = (machine.PR_SET_PDEATHSIG, machine.PR_SET_DUMPABLE, 22)
_O_ACCMODE, _O_TRUNC = 0o3, 0o1000


class _Instruction(NamedTuple):
    code: int
    if_true: int
    if_false: int
    value: int


class Program(NamedTuple):
    """A filter as the kernel reads it. ``pid_offsets``: where ``for_pid`` writes the pid."""

    code: bytes
    pid_offsets: tuple[int, ...] = ()

    def for_pid(self, pid: int) -> bytes:
        """The program with ``pid`` as the one process that may be signalled."""
        code = bytearray(self.code)
        for offset in self.pid_offsets:
            struct.pack_into("=I", code, offset, pid)
        return bytes(code)


class _Assembler:
    """Writes one program. Each rule leaves the call's number in the accumulator."""

    def __init__(self, on: Machine) -> None:
        self._machine = on
        self._written: list[_Instruction] = []
        self._pids: list[int] = []

    def prologue(self) -> None:
        """Kill what enters by another architecture's door, where the numbers mean other calls."""
        self._write(_LOAD, 0, 0, _ARCHITECTURE_OFFSET)
        self._write(_IF_EQUAL, 1, 0, self._machine.audit_architecture)
        self._write(_RETURN, 0, 0, KILL_PROCESS)
        self._write(_LOAD, 0, 0, _CALL_OFFSET)
        self._write(_IF_AT_LEAST, 0, 1, _X32_BIT)
        self._write(_RETURN, 0, 0, KILL_PROCESS)
        self._write(_IF_ABOVE, 0, 1, machine.LAST_KNOWN_CALL)
        self._write(_RETURN, 0, 0, NO_SUCH_CALL)

    def answer(self, calls: list[str], verdict: int) -> None:
        """Answer every one of ``calls`` with ``verdict``.

        In groups that most calls skip: the kernel runs the program for every number when it is
        installed, to remember what is always allowed.
        """
        known = (self._machine.numbers[call] for call in calls)
        numbers = sorted(number for number in known if number is not None)
        groups = [numbers[n : n + _GROUP] for n in range(0, len(numbers), _GROUP)]
        left = len(numbers) + 2 * len(groups)
        for group in groups:
            self._write(_IF_ABOVE, len(group) + 1, 0, group[-1])
            left -= 1
            for number in group:
                left -= 1
                self._write(_IF_EQUAL, left + 1, 0, number)
            left -= 1
            self._write(_JUMP, 0, 0, left + 2)
        self._write(_JUMP, 0, 0, 1)
        self._write(_RETURN, 0, 0, verdict)

    def deny_values(self, call: str, argument: int, values: tuple[int, ...]) -> None:
        """Deny ``call`` when the low half of its argument is one of ``values``."""
        tests = [_Instruction(_IF_EQUAL, len(values) - i, 0, v) for i, v in enumerate(values)]
        allow = [_Instruction(_RETURN, 0, 0, ALLOW)]
        self._on(call, argument, [*tests, *allow, _Instruction(_RETURN, 0, 0, DENY)])

    def deny_bits(self, call: str, argument: int, bits: int) -> None:
        """Deny ``call`` when any of ``bits`` is set in its argument."""
        test = _Instruction(_IF_ANY_BIT, 1, 0, bits)
        self._on(call, argument, [test, *_allow_else_deny()])

    def guard_clone(self, *, is_forking: bool) -> None:
        """Deny ``clone`` a new namespace, and a thread whose files are not its process's.

        Unless ``is_forking`` it makes threads only.
        """
        tests = [
            _Instruction(_IF_ANY_BIT, 3, 0, _NAMESPACE_FLAGS),
            _Instruction(_IF_ANY_BIT, 0, 1 if is_forking else 2, _CLONE_THREAD),
            _Instruction(_IF_ANY_BIT, 0, 1, _CLONE_FILES),
        ]
        self._on("clone", 0, [*tests, *_allow_else_deny()])

    def deny_uncounted_memory(self) -> None:
        """Let ``mmap`` share with nobody what lies in no file, and take no reserved pages."""
        body = [
            _Instruction(_IF_ANY_BIT, 3, 0, _MAP_HUGETLB),
            _Instruction(_AND, 0, 0, _MAP_SHARED_ANONYMOUS),
            _Instruction(_IF_EQUAL, 1, 0, _MAP_SHARED_ANONYMOUS),
        ]
        self._on("mmap", 3, [*body, *_allow_else_deny()])

    def need_value(self, call: str, argument: int, *values: int) -> None:
        """Deny ``call`` unless its argument is one of ``values``."""
        last = len(values) - 1
        tests = [_Instruction(_IF_EQUAL, last - i, i == last, v) for i, v in enumerate(values)]
        self._on(call, argument, [*tests, *_allow_else_deny()])

    def need_own_pid(self, call: str) -> None:
        """Deny ``call`` unless its first argument is the pid that is filled in later."""
        if self._machine.numbers[call] is not None:
            self._pids.append(len(self._written) + 2)
        self.need_value(call, 0, 0)

    def need_stream_pair(self) -> None:
        """Let ``socketpair`` make no socket that could be sent to an address."""
        body = [
            _Instruction(_IF_EQUAL, 0, 4, _AF_UNIX),
            _Instruction(_LOAD, 0, 0, _ARGUMENTS_OFFSET + 8),
            _Instruction(_AND, 0, 0, _SOCKET_TYPE_MASK),
            _Instruction(_IF_EQUAL, 2, 0, _SOCK_STREAM),
            _Instruction(_IF_EQUAL, 1, 0, _SOCK_SEQPACKET),
            _Instruction(_RETURN, 0, 0, DENY),
            _Instruction(_RETURN, 0, 0, ALLOW),
        ]
        self._on("socketpair", 0, body)

    def deny_truncating_reads(self, call: str, argument: int) -> None:
        """Deny opening what that would empty, unless to write: old Landlock sees no write in it.

        With both bits of the mode a file is opened neither to read nor to write.
        """
        body = [
            _Instruction(_AND, 0, 0, _O_ACCMODE | _O_TRUNC),
            _Instruction(_IF_EQUAL, 2, 0, _O_TRUNC),
            _Instruction(_IF_EQUAL, 1, 0, _O_TRUNC | _O_ACCMODE),
            *_allow_else_deny(),
        ]
        self._on(call, argument, body)

    def program(self) -> Program:
        self._write(_RETURN, 0, 0, ALLOW)
        code = b"".join(struct.pack("=HBBI", *instruction) for instruction in self._written)
        value_offset = 4
        return Program(code, tuple(pid * 8 + value_offset for pid in self._pids))

    def _on(self, call: str, argument: int, body: list[_Instruction]) -> None:
        """Run ``body``, which always returns, on the low half of an argument of ``call``."""
        number = self._machine.numbers[call]
        if number is None:
            return
        self._write(_IF_EQUAL, 0, len(body) + 1, number)
        self._write(_LOAD, 0, 0, _ARGUMENTS_OFFSET + 8 * argument)
        self._written.extend(body)

    def _write(self, code: int, if_true: int, if_false: int, value: int) -> None:
        self._written.append(_Instruction(code, if_true, if_false, value))


def _allow_else_deny() -> list[_Instruction]:
    return [_Instruction(_RETURN, 0, 0, ALLOW), _Instruction(_RETURN, 0, 0, DENY)]


def zygote_program(on: Machine, tier: str) -> Program:
    """What the imports of a zygote of ``tier`` may not do either."""
    kept = _ZYGOTE_NEEDS[tier]
    assembler = _Assembler(on)
    assembler.prologue()
    assembler.answer([call for call in _EVERYWHERE if call not in kept], DENY)
    _add_common_rules(assembler)
    assembler.guard_clone(is_forking=True)
    return assembler.program()


def worker_program(on: Machine, tier: str) -> Program:
    """What a script in ``tier`` may not do. A worker in a container of its own is in tier A."""
    assembler = _Assembler(on)
    assembler.prologue()
    assembler.answer(_EVERYWHERE, DENY)
    if tier == "B":
        _add_rules_without_namespaces(assembler)
    assembler.guard_clone(is_forking=tier == "A")
    assembler.deny_values("prctl", 0, _KEPT_ATTRIBUTES)
    _add_common_rules(assembler)
    return assembler.program()


def _add_common_rules(assembler: _Assembler) -> None:
    # The flags of clone3 lie in memory, where no filter sees them. libc falls back to clone.
    assembler.answer(["clone3"], NO_SUCH_CALL)
    assembler.deny_values("ioctl", 1, _TERMINAL_REQUESTS)
    assembler.deny_values("fcntl", 1, _OWNER_COMMANDS)
    assembler.deny_values("getsockopt", 2, (_SO_PEERPIDFD,))
    assembler.deny_bits("close_range", 2, _CLOSE_RANGE_UNSHARE)
    assembler.deny_uncounted_memory()
    assembler.need_value("prlimit64", 0, 0)
    assembler.need_stream_pair()


def _add_rules_without_namespaces(assembler: _Assembler) -> None:
    assembler.answer(_WITHOUT_NAMESPACES, DENY)
    assembler.answer(_PRETENDED, PRETEND)
    assembler.answer(["openat2"], NO_SUCH_CALL)
    for call in _SIGNALS_BY_PID:
        assembler.need_own_pid(call)
    assembler.need_value("ioctl", 1, *_HARMLESS_REQUESTS)
    assembler.deny_truncating_reads("open", 1)
    assembler.deny_truncating_reads("openat", 2)


class _Filter(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("code", ctypes.c_void_p))


def install(code: bytes) -> None:
    """Put this process under the program for good. ``OSError`` when the kernel refuses.

    Landlock comes before: afterwards it can no longer be set up, and nobody would notice.
    """
    kept = ctypes.create_string_buffer(code, len(code))
    described = _Filter(len(code) // 8, ctypes.cast(kept, ctypes.c_void_p))
    machine.prctl(machine.PR_SET_NO_NEW_PRIVS, 1)
    machine.call("seccomp", _SET_MODE_FILTER, 0, described)
