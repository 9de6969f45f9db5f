"""Whether the walls hold: asked from inside before a script runs, and of a host before it is used.

From inside every wall is tried, not looked up: a wall raised in the wrong order does not hold,
and nothing says so.
"""

from __future__ import annotations

import errno
import os
import signal
from typing import TYPE_CHECKING

from insula_jail import machine, root, walls
from insula_jail.walls import Plan

if TYPE_CHECKING:
    from insula_jail.machine import Argument

_KINDS = ("user", "mnt", "pid", "net", "ipc", "uts", "cgroup")
_FILTERED = 2
_FAMILIES = {"unix": 1, "inet": 2, "inet6": 10, "netlink": 16, "packet": 17}
_DATAGRAM, _STREAM = 2, 1
_HOST_PLACES = ("/", "/root", "/home", "/var", "/var/log", "/boot", "/sys", "/mnt", "/run", "/etc")
_HOST_FILES = ("/etc/shadow", "/etc/hostname", "/etc/machine-id")
_ENVIRONMENT = frozenset(
    (
        *("HOME", "TMPDIR", "MPLCONFIGDIR", "PATH", "LANG", "USER"),
        *("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MALLOC_ARENA_MAX"),
    )
)
_FIXED_MOUNTS = ("/", "/usr", "/dev/null")
_LOOSE_MOUNTS = ("/tmp", "/dev/shm", "/proc")  # noqa: S108 - its own
_FIXED_PLACES = ("", "/usr", "/etc", "/dev")
_AT_FDCWD = -100
_MAP_SHARED_ANONYMOUS = 0x21

# Calls that are refused whatever they are given, and do nothing should they not be.
_DENIED: dict[str, tuple[tuple[str, tuple[Argument, ...]], ...]] = {
    "network": (
        *(("socket", (family, _STREAM, 0)) for family in _FAMILIES.values()),
        ("socketpair", (_FAMILIES["inet"], _STREAM, 0, bytes(8))),
        ("socketpair", (_FAMILIES["unix"], _DATAGRAM, 0, bytes(8))),
        ("connect", (-1, None, 0)),
        ("sendmsg", (-1, None, 0)),
        ("setsockopt", (-1, 0, 0, None, 0)),
    ),
    "ptrace": (("ptrace", (16, -1, 0, 0)), ("process_vm_readv", (1, 0, 0, 0, 0, 0))),
    "new_namespaces": (("unshare", (machine.CLONE_NEWUSER,)), ("setns", (-1, 0))),
    "mounting": (
        ("mount", (0, 0, 0, 0, 0)),
        ("umount2", (0, 0)),
        ("pivot_root", (0, 0)),
        ("chroot", (0,)),
        ("fsopen", (0, 0)),
        ("open_tree", (-1, 0, 0)),
    ),
    "kernel": (
        ("keyctl", (0, 0, 0, 0, 0)),
        ("add_key", (0, 0, 0, 0, 0)),
        ("bpf", (0, 0, 0)),
        ("perf_event_open", (0, 0, -1, -1, 0)),
        ("io_uring_setup", (0, 0)),
        ("userfaultfd", (0,)),
        ("memfd_create", (0, 0)),
        ("mmap", (0, 4096, 0, _MAP_SHARED_ANONYMOUS, -1, 0)),
        ("inotify_init1", (0,)),
        ("io_setup", (0, 0)),
        ("open_by_handle_at", (-1, 0, 0)),
        ("personality", (0xFFFF_FFFF,)),
    ),
}


class Questions:
    """What a worker asks about its walls, prepared by its zygote to be asked fast."""

    def __init__(self, plan: Plan, zygote: int, host: dict[str, int]) -> None:
        """``zygote``: its process as it sees itself. ``host``: the server's namespaces."""
        self._plan = plan
        self._host = host
        self._zygote = zygote
        self._denied = {
            wall: [machine.attempt(name, *given) for name, given in calls]
            for wall, calls in _DENIED.items()
        }
        self._hidden = [_opening(path, os.O_RDONLY) for path in (*_HOST_PLACES, *_HOST_FILES)]
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
        self._fixed = [_opening(f"{path}/insula-was-here", flags) for path in _FIXED_PLACES]

    def ask(self) -> dict[str, bool]:
        """Try every wall that should stand around this process, and say which hold."""
        held = {
            wall: all(make() == errno.EPERM for make in attempts)
            for wall, attempts in self._denied.items()
        }
        held["new_namespaces"] &= machine.attempt("clone3", 0, 0)() == errno.ENOSYS
        held["host_files"] = all(make() != 0 for make in self._hidden)
        held["read_only"] = all(make() != 0 for make in self._fixed)
        held["limits"] = walls.limits_hold(self._plan)
        held.update(_hardening())
        if self._plan.tier == "A":
            held.update(_namespaced(self._host))
        else:
            held.update(_alone(self._plan, self._zygote))
        return held


def host_report() -> list[dict[str, str | bool]]:
    """What this host offers for walls: ``name``, ``is_up``, and in plain words ``why`` not.

    It is found out by doing it, in processes of its own. Takes some tenths of a second.
    """
    from insula_jail import host  # noqa: PLC0415 - what only a server needs costs every fork

    return [found._asdict() for found in host.report()]


def namespaces() -> dict[str, int]:
    """Which namespaces the calling process is in: the number of each."""
    return {kind: os.stat(f"/proc/self/ns/{kind}").st_ino for kind in _KINDS}  # noqa: PTH116 - often


def _hardening() -> dict[str, bool]:
    """What holds in every tier."""
    return {
        "no_new_privileges": machine.prctl(machine.PR_GET_NO_NEW_PRIVS) == 1,
        "seccomp": machine.prctl(machine.PR_GET_SECCOMP) == _FILTERED,
        "landlock": _opening("/", os.O_RDONLY)() == errno.EACCES,
        "capabilities": machine.capabilities() == (0, 0, 0),
        "identity": 0 not in (os.getuid(), os.geteuid(), os.getgid(), os.getegid()),
        "parent": machine.parent_death_signal() == signal.SIGKILL,
        "environment": _ENVIRONMENT.issuperset(os.environ),  # noqa: TID251 - is it ours?
    }


def _namespaced(host: dict[str, int]) -> dict[str, bool]:
    own = namespaces()
    pids = [name for name in os.listdir("/proc") if name.isdigit()]  # noqa: PTH208 - as the rest
    opened = os.listdir("/proc/self/fd")  # noqa: PTH208 - as the rest
    return {
        "namespaces": all(own[kind] != host[kind] for kind in _KINDS)
        and os.uname().nodename == walls.HOST_NAME,
        "root": _has_own_root(),
        "processes": pids == ["1"],
        "signals": os.getpid() == 1 and os.getppid() == 0,
        # The fifth is the one that lists them.
        "descriptors": len(opened) <= 5,
        "dumpable": machine.prctl(machine.PR_GET_DUMPABLE) == 0,
    }


def _alone(plan: Plan, zygote: int) -> dict[str, bool]:
    others = (zygote, 1, -1, 0)
    return {
        "processes": _opening("/proc", os.O_RDONLY)() == errno.EACCES,
        "signals": all(machine.attempt("kill", pid, 0)() == errno.EPERM for pid in others),
        "forking": _cannot_fork(),
        "descriptors": not any(_is_open(n) for n in range(walls.FIRST_CLOSED, plan.limits.files)),
    }


def _opening(path: str, flags: int) -> machine.Attempt:
    return machine.attempt("openat", _AT_FDCWD, os.fsencode(path), flags, 0o600)


def _has_own_root() -> bool:
    """The root is our small one, and can no more be written to than what is bound into it."""
    own = os.statvfs("/")
    is_small = own.f_blocks * own.f_frsize <= root.SIZE_KB * 1024
    fixed = os.ST_RDONLY | os.ST_NOSUID
    loose = os.ST_NOSUID | os.ST_NODEV | os.ST_NOEXEC
    return (
        is_small
        and all(os.statvfs(path).f_flag & fixed == fixed for path in _FIXED_MOUNTS)
        and all(os.statvfs(path).f_flag & loose == loose for path in _LOOSE_MOUNTS)
    )


def _cannot_fork() -> bool:
    try:
        child = machine.call("clone", signal.SIGCHLD, 0, 0, 0, 0)
    except OSError as error:
        return error.errno == errno.EPERM
    if child == 0:
        os._exit(0)
    return False


def _is_open(number: int) -> bool:
    try:
        os.fstat(number)
    except OSError:
        return False
    return True
