"""The walls, in the one order in which they hold: around a zygote, and around each of its workers.

No wall is optional. The first that cannot be raised ends the attempt with its name.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from insula_jail import landlock, machine, root, seccomp
from insula_jail.root import Bind

if sys.platform != "win32":
    import resource

# A worker is never uid 0, whatever the number of its zygote's workers is.
FIRST_UID, USERS, GID, LONE_UID = 10_000, 10_000, 1000, 1000
_MOST_CAPABILITIES = 64
_CHOWN = 0
# What a zygote of tier B that is started by root keeps: it owns its workers under other uids.
_KEPT_BY_ROOT = (2, 5, 6, 7, 19)
_NAMESPACES = (
    machine.CLONE_NEWUSER
    | machine.CLONE_NEWNS
    | machine.CLONE_NEWPID
    | machine.CLONE_NEWNET
    | machine.CLONE_NEWIPC
    | machine.CLONE_NEWUTS
    | machine.CLONE_NEWCGROUP
)
_SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/etc/ld.so.cache")
_OWN_ETC = ("/etc/passwd", "/etc/group", "/etc/hosts")
# Not /dev/zero: mapped by several, it is memory that the watchdog cannot see.
_DEVICES = ("/dev/null", "/dev/full", "/dev/random", "/dev/urandom")
_OWN_DATA = ("/tmp", "/dev/shm")  # noqa: S108 - mounted for one worker
HOST_NAME = "sandbox"
# Queued, or kept ready by timers.
SIGNALS = 1024
# What a worker has open: nothing to read, two pipes to write, and the socket for frames.
FIRST_CLOSED = 4


class WallMissing(RuntimeError):
    """A wall could not be raised, or does not hold; no code may run. ``wall`` is its name."""

    def __init__(self, wall: str, why: str) -> None:
        super().__init__(f"{wall}: {why}")
        self.wall = wall
        self.why = why


class Limits(NamedTuple):
    """What one worker may use; see the frames' description for the units."""

    wall_s: int
    cpu_s: int
    memory_mb: int
    processes: int
    files: int
    file_mb: int
    disk_mb: int
    inodes: int


class Plan(NamedTuple):
    """Everything about a zygote's workers that can be known before the first is forked.

    ``uid_base``: None when the server is a plain user.
    ``base_kb``: the zygote's address space, which every worker has from the start.
    """

    tier: str
    uid_base: int | None
    limits: Limits
    rules: landlock.Rules
    program: seccomp.Program
    base_kb: int


@contextlib.contextmanager
def raising(wall: str) -> Iterator[None]:
    """Name the wall that an error of the system belongs to."""
    try:
        yield
    except (OSError, ValueError) as error:
        raise WallMissing(wall, str(error)) from error


def enter_namespaces(binds: list[Bind], uid_base: int | None) -> str:
    """Leave the host's namespaces and identity, and return where the new root is staged.

    The next child is the first process of the new pid namespace.
    """
    if uid_base is None:
        return _enter_as_user(binds)
    return _enter_as_root(binds, uid_base)


def enter_root(place: str) -> None:
    """Raise the walls that the first process of the pid namespace must raise itself."""
    with raising("root"):
        root.enter(place)
    with raising("namespaces"):
        machine.call("sethostname", HOST_NAME.encode(), len(HOST_NAME))


def guard_zygote(tier: str, readable: tuple[str, ...], scratch: str | None) -> None:
    """Raise what the imports of a zygote run behind, beside the namespaces of tier A."""
    _drop_bounding_set(kept=() if tier == "A" else _KEPT_BY_ROOT)
    if tier == "B":
        rules = [(path, landlock.READ) for path in (*_SYSTEM, *readable, "/proc")]
        rules += [(path, landlock.DEVICE) for path in _DEVICES]
        rules += [(scratch, landlock.WRITE)] if scratch else []
        with raising("landlock"):
            landlock.Rules(require_landlock(), rules).restrict()
    with raising("seccomp"):
        program = seccomp.zygote_program(machine.this_machine(), tier)
        seccomp.install(program.code)


def become_nobody(uid_base: int) -> None:
    """As root without namespaces: keep of root's rights only those over the own workers."""
    with raising("identity"):
        machine.prctl(machine.PR_SET_KEEPCAPS, 1)
        os.setgroups([])
        os.setresgid(uid_base, uid_base, uid_base)
        os.setresuid(*[uid_base + USERS] * 3)
        kept = sum(1 << capability for capability in _KEPT_BY_ROOT)
        _set_capabilities(kept & machine.capabilities()[1])


def raise_around_worker(plan: Plan, worker: int, scratch: str | None) -> None:
    """Raise every wall around the calling process, for good. Its descriptors are in place."""
    if plan.tier == "A":
        with raising("namespaces"):
            machine.unshare(machine.CLONE_NEWNS | machine.CLONE_NEWIPC)
        with raising("root"):
            root.mount_own(plan.limits.disk_mb, plan.limits.inodes)
    with raising("identity"):
        _take_identity(plan, worker)
    with raising("parent"):
        # The kernel forgets it at every change of the identity.
        machine.prctl(machine.PR_SET_PDEATHSIG, signal.SIGKILL)
    with raising("limits"):
        _set_limits(plan)
    _harden(plan, scratch)


def raise_in_container(
    limits: Limits, readable: tuple[str, ...], writable: tuple[str, ...]
) -> None:
    """Raise the walls of a worker whose container is its namespaces, root and identity."""
    with raising("limits"):
        _limit_resources(limits, _address_space_kb() * 1024 + (limits.memory_mb << 20))
    with raising("capabilities"):
        _drop_capabilities()
        machine.prctl(machine.PR_SET_DUMPABLE, 0)
    rules = [(path, landlock.READ) for path in (*_SYSTEM, "/etc", "/proc", *readable)]
    rules += [(path, landlock.DEVICE) for path in _DEVICES]
    rules += [(path, landlock.WRITE) for path in writable]
    with raising("landlock"):
        landlock.Rules(require_landlock(), rules).restrict()
    with raising("seccomp"):
        seccomp.install(seccomp.worker_program(machine.this_machine(), "A").code)


def require_landlock() -> int:
    """Landlock's ABI; ``OSError`` when there is none."""
    abi = landlock.version()
    if abi == 0:
        raise OSError("this kernel has no Landlock, or it is switched off")
    return abi


def make_plan(tier: str, uid_base: int | None, limits: Limits, readable: tuple[str, ...]) -> Plan:
    """Prepare in the zygote, after its imports, what its workers have in common."""
    shared = (*_SYSTEM, *readable, *(_OWN_ETC if tier == "A" else ()))
    rules = [(path, landlock.READ) for path in shared]
    rules += [(path, landlock.DEVICE) for path in _DEVICES]
    with raising("landlock"):
        prepared = landlock.Rules(require_landlock(), rules)
    with raising("seccomp"):
        program = seccomp.worker_program(machine.this_machine(), tier)
    return Plan(tier, uid_base, limits, prepared, program, _address_space_kb())


def _enter_as_root(binds: list[Bind], uid_base: int) -> str:
    # With root's own rights, so that a Python below a folder that only root may enter is found.
    with raising("namespaces"):
        machine.unshare(machine.CLONE_NEWNS)
    with raising("root"):
        root.make_private()
        place = root.stage(binds, FIRST_UID, USERS)
    with raising("identity"):
        mapper, go = _start_mapper(uid_base)
    with raising("namespaces"):
        machine.unshare(_NAMESPACES)
    with raising("identity"):
        os.write(go, b"1")
        os.close(go)
        if os.waitpid(mapper, 0)[1] != 0:
            raise OSError("the user ids could not be mapped")
        os.setgroups([])
        os.setresgid(0, 0, 0)
        os.setresuid(0, 0, 0)
    with raising("root"):
        root.unlock(place)
    return place


def _start_mapper(uid_base: int) -> tuple[int, int]:
    """Fork who writes this process's maps from outside, when it has left and lost its rights."""
    ready, go = os.pipe()
    mapped = os.getpid()
    pid = os.fork()
    if pid:
        os.close(ready)
        return pid, go
    status = 1
    try:
        os.close(go)
        if os.read(ready, 1):
            zygote = uid_base + USERS
            _write_map(f"/proc/{mapped}/uid_map", f"0 {zygote} 1\n{FIRST_UID} {uid_base} {USERS}\n")
            _write_map(f"/proc/{mapped}/gid_map", f"0 {zygote} 1\n{GID} {uid_base} 1\n")
            status = 0
    finally:
        os._exit(status)


def _enter_as_user(binds: list[Bind]) -> str:
    uid, gid = os.getuid(), os.getgid()
    with raising("namespaces"):
        machine.unshare(_NAMESPACES)
    with raising("identity"):
        _map_alone(0, uid, gid)
    with raising("root"):
        root.make_private()
        return root.stage(binds, LONE_UID, 1)


def _map_alone(inside: int, uid: int, gid: int) -> None:
    _write_map("/proc/self/setgroups", "deny")
    _write_map("/proc/self/uid_map", f"{inside} {uid} 1")
    _write_map("/proc/self/gid_map", f"{inside} {gid} 1")


def _write_map(path: str, text: str) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(descriptor, text.encode("ascii"))
    finally:
        os.close(descriptor)


def _take_identity(plan: Plan, worker: int) -> None:
    if plan.uid_base is not None:
        inside = plan.tier == "A"
        gid = GID if inside else plan.uid_base
        uid = (FIRST_UID if inside else plan.uid_base) + worker % USERS
        os.setgroups([])
        os.setresgid(gid, gid, gid)
        os.setresuid(uid, uid, uid)
    elif plan.tier == "A":
        machine.unshare(machine.CLONE_NEWUSER)
        _map_alone(LONE_UID, 0, 0)


def _set_limits(plan: Plan) -> None:
    _limit_resources(plan.limits, plan.base_kb * 1024 + (plan.limits.memory_mb << 20))
    # What a server may have been given for itself: to come before others, and to queue signals.
    _limit(resource.RLIMIT_RTPRIO, 0)
    _limit(resource.RLIMIT_NICE, 0)
    _limit(resource.RLIMIT_SIGPENDING, SIGNALS)
    if plan.tier == "A" or plan.uid_base is not None:
        # Without a uid of its own a worker would be counted together with its server.
        _limit(resource.RLIMIT_NPROC, plan.limits.processes)


def limits_hold(plan: Plan) -> bool:
    """Whether this process is held by the limits of ``plan``."""
    mb = 1 << 20
    most = (
        (resource.RLIMIT_AS, plan.base_kb * 1024 + plan.limits.memory_mb * mb),
        (resource.RLIMIT_CPU, plan.limits.cpu_s + 1),
        (resource.RLIMIT_FSIZE, plan.limits.file_mb * mb),
        (resource.RLIMIT_NOFILE, plan.limits.files),
        (resource.RLIMIT_CORE, 1),
        (resource.RLIMIT_RTPRIO, 0),
        (resource.RLIMIT_NICE, 0),
        (resource.RLIMIT_SIGPENDING, SIGNALS),
    )
    return all(0 <= resource.getrlimit(kind)[1] <= value for kind, value in most)


def _limit_resources(limits: Limits, address_space: int) -> None:
    _limit(resource.RLIMIT_AS, address_space)
    # The watchdog counts the group and comes first; this holds should it be late.
    _limit(resource.RLIMIT_CPU, limits.cpu_s + 1)
    _limit(resource.RLIMIT_FSIZE, limits.file_mb << 20)
    _limit(resource.RLIMIT_NOFILE, limits.files)
    # With 0 the host's crash handler would still be started, with 1 it is not.
    _limit(resource.RLIMIT_CORE, 1)


def _limit(kind: int, value: int) -> None:
    hardest = resource.getrlimit(kind)[1]
    value = value if hardest == resource.RLIM_INFINITY else min(value, hardest)
    resource.setrlimit(kind, (value, value))


def _harden(plan: Plan, scratch: str | None) -> None:
    with raising("capabilities"):
        _drop_capabilities()
    with raising("dumpable"):
        # In tier B the watchdog must see which files a worker has open after it removed them.
        machine.prctl(machine.PR_SET_DUMPABLE, 0 if plan.tier == "A" else 1)
    with raising("landlock"):
        plan.rules.restrict(_own_rules(scratch))
    with raising("descriptors"):
        machine.call("close_range", FIRST_CLOSED, 0xFFFF_FFFF, 0)
    with raising("seccomp"):
        seccomp.install(plan.program.for_pid(os.getpid()))


def _own_rules(scratch: str | None) -> list[tuple[str, int]]:
    """What no other worker has: where the data is, and in tier A the processes."""
    if scratch is not None:
        return [(scratch, landlock.WRITE)]
    return [("/proc", landlock.READ), *((path, landlock.WRITE) for path in _OWN_DATA)]


def _drop_capabilities() -> None:
    # Only a new user namespace gives the set back that the zygote gave up.
    if machine.prctl(machine.PR_CAPBSET_READ, _CHOWN):
        _drop_bounding_set(kept=())
    _clear_ambient_set()
    _set_capabilities(0)


def _clear_ambient_set() -> None:
    try:
        machine.prctl(machine.PR_CAP_AMBIENT, machine.PR_CAP_AMBIENT_CLEAR_ALL)
    except OSError as error:
        # A kernel that knows no such set has nothing in it.
        if error.errno != errno.EINVAL:
            raise


def _drop_bounding_set(kept: tuple[int, ...]) -> None:
    """Give up for ever what this process may give up; who may not has nothing to lose."""
    for capability in range(_MOST_CAPABILITIES):
        if capability in kept:
            continue
        try:
            if machine.prctl(machine.PR_CAPBSET_READ, capability):
                machine.prctl(machine.PR_CAPBSET_DROP, capability)
        except OSError:
            # It may not give up any, or the kernel knows none of this number or above.
            return


def _set_capabilities(mask: int) -> None:
    header = struct.pack("=Ii", machine.CAPABILITIES_VERSION, 0)
    low, high = mask & 0xFFFF_FFFF, mask >> 32
    machine.call("capset", header, struct.pack("=6I", low, low, 0, high, high, 0))


def _address_space_kb() -> int:
    pages = Path("/proc/self/statm").read_text(encoding="ascii").split()[0]
    return int(pages) * resource.getpagesize() // 1024
