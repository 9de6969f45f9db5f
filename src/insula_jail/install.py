"""Runs the installer of packages behind walls: it needs the network, and nothing else of the host.

What to run comes as JSON on the standard input: ``program`` (its arguments), ``env``, ``read`` and
``write`` (paths, the same inside as outside), ``root`` (an empty folder), ``uid`` (whose the
program is where the server is root) and ``limits``: ``memory_mb``, ``cpu_s``, ``file_mb``,
``files``, ``processes``. There are two ways in, the second where the host refuses the first:

1. Namespaces: an own root with those paths only, own processes, no other user's rights, and
   Landlock on top where the kernel has it.
2. Landlock alone.

Where neither is to be had, nothing is run, and the exit code is ``NO_WALL``.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from insula_jail import landlock, machine
from insula_jail.root import NODEV, NOEXEC, NOSUID, RDONLY, make_private, mount

# What pip never ends with.
NO_WALL = 97
NO_NAMESPACES = 98

BIND, RECURSIVE = 4096, 16384
AT_FDCWD, AT_RECURSIVE = -100, 0x8000
DETACH = 2
CAPABILITIES_END = 64
CAPABILITY_VERSION = 0x2008_0522
PATH_BENEATH = 1

DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom")
# What the system's own programs and libraries need, as far as a system has it.
SYSTEM = (
    "/usr",
    "/lib",
    "/lib32",
    "/lib64",
    "/bin",
    "/etc/ld.so.cache",
    "/etc/resolv.conf",
    "/etc/hosts",
    "/etc/nsswitch.conf",
    "/etc/host.conf",
    "/etc/gai.conf",
    "/etc/localtime",
    # What pip asks a system for its name and its types of files by: it fails where a file is
    # there and cannot be read.
    "/etc/os-release",
    "/etc/lsb-release",
    "/etc/debian_version",
    "/etc/mime.types",
    "/etc/httpd/mime.types",
    "/etc/httpd/conf/mime.types",
    "/etc/apache/mime.types",
    "/etc/apache2/mime.types",
    "/etc/ssl",
    "/etc/pki",
    "/etc/ca-certificates",
)

Plan = dict[str, Any]


class NoWall(Exception):
    """This host has none of the walls."""


def main() -> None:
    plan = json.load(sys.stdin)
    os.dup2(os.open("/dev/null", os.O_RDONLY), 0)
    os.umask(0o022)
    _die_with_parent()
    child = os.fork()
    if child == 0:
        _attempt(_enter_namespaces, plan, NO_NAMESPACES)
    code = _ended(child)
    if code != NO_NAMESPACES:
        os._exit(code)
    _attempt(_enter_landlock, plan, NO_WALL)


def _attempt(enter: Callable[[Plan], None], plan: Plan, refused: int) -> None:
    """Go in and become the program; end with ``refused`` where that cannot be."""
    try:
        enter(plan)
        os.execve(plan["program"][0], plan["program"], plan["env"])  # noqa: S606 - no shell wanted
    except Exception as error:  # noqa: BLE001 - a step that failed must not lead past the wall
        sys.stderr.write(f"{enter.__name__.strip('_')}: {error}\n")
        sys.stderr.flush()
    finally:
        os._exit(refused)


def _enter_namespaces(plan: Plan) -> None:
    """Go on as the first process of a small world of its own; the one before waits for it."""
    _die_with_parent()
    uid: int | None = plan["uid"] if os.geteuid() == 0 else None
    _unshare(is_root=uid is not None)
    child = os.fork()
    if child:
        os._exit(_ended(child))
    _die_with_parent()
    if uid is not None:
        for path in plan["write"]:
            os.chown(path, uid, uid)
    _build_root(plan)
    _restrict(plan["limits"])
    _limit(resource.RLIMIT_NPROC, plan["limits"]["processes"])
    _drop_rights(uid)
    if landlock.version():
        _landlock(plan)
    os.chdir(plan["write"][0])


def _enter_landlock(plan: Plan) -> None:
    if not landlock.version():
        raise NoWall("this kernel has no Landlock, and refuses namespaces")
    _restrict(plan["limits"])
    _drop_rights(None)
    _landlock(plan)
    os.chdir(plan["write"][0])


def _unshare(*, is_root: bool) -> None:
    uid, gid = os.geteuid(), os.getegid()
    spaces = machine.CLONE_NEWNS | machine.CLONE_NEWPID | machine.CLONE_NEWIPC
    spaces |= machine.CLONE_NEWUTS | machine.CLONE_NEWCGROUP
    if is_root:
        machine.unshare(spaces)
        return
    machine.unshare(spaces | machine.CLONE_NEWUSER)
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"{uid} {uid} 1")
    Path("/proc/self/gid_map").write_text(f"{gid} {gid} 1")


def _build_root(plan: Plan) -> None:
    root = plan["root"]
    make_private()
    mount("tmpfs", root, "tmpfs", NOSUID | NODEV, "size=4m,mode=755")
    # A folder comes before what lies in it, which it would hide otherwise.
    for path in sorted({*SYSTEM, *plan["read"], *plan["write"]}, key=len):
        if Path(path).exists():
            _bind(path, root + path, NOEXEC if path in plan["write"] else RDONLY)
    for path in DEVICES:
        _place(path, root + path)
        mount(path, root + path, None, BIND)
    os.chdir(root)
    machine.call("pivot_root", b".", b".")
    machine.call("umount2", b".", DETACH)
    os.chdir("/")
    _protect("/", RDONLY | NOSUID, 0)


def _bind(path: str, inside: str, attribute: int) -> None:
    source = os.path.realpath(path)
    _place(source, inside)
    mount(source, inside, None, BIND | RECURSIVE)
    _protect(inside, attribute | NOSUID | NODEV, AT_RECURSIVE)


def _protect(inside: str, attributes: int, how_far: int) -> None:
    described = struct.pack("=QQQQ", attributes, 0, 0, 0)
    path = os.fsencode(inside)
    machine.call("mount_setattr", AT_FDCWD, path, how_far, described, len(described))


def _place(source: str, inside: str) -> None:
    """Make what ``source`` can be mounted on."""
    target = Path(inside)
    if Path(source).is_dir():
        target.mkdir(parents=True, exist_ok=True)
    elif not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        target.touch()


def _restrict(limits: dict[str, int]) -> None:
    _limit(resource.RLIMIT_AS, limits["memory_mb"] << 20)
    _limit(resource.RLIMIT_CPU, limits["cpu_s"])
    _limit(resource.RLIMIT_FSIZE, limits["file_mb"] << 20)
    _limit(resource.RLIMIT_NOFILE, limits["files"])
    _limit(resource.RLIMIT_CORE, 0)


def _limit(which: int, most: int) -> None:
    hard = resource.getrlimit(which)[1]
    lower = most if hard == resource.RLIM_INFINITY else min(most, hard)
    resource.setrlimit(which, (lower, lower))


def _drop_rights(uid: int | None) -> None:
    """Become ``uid``, or stay who we are: without any capability, and for good."""
    for capability in range(CAPABILITIES_END):
        try:
            machine.prctl(machine.PR_CAPBSET_DROP, capability)
        except OSError:
            # Who has no rights to drop has none, and the kernel has fewer capabilities than 64.
            break
    if uid is not None:
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
        # The kernel forgets this when the user changes.
        _die_with_parent()
    machine.call("capset", struct.pack("=Ii", CAPABILITY_VERSION, 0), bytes(24))
    machine.prctl(machine.PR_SET_NO_NEW_PRIVS, 1)


def _landlock(plan: Plan) -> None:
    """Leave only the paths of the plan, and the network as it is."""
    abi = landlock.version()
    described = landlock.attributes(abi)
    described = described[:8] + bytes(len(described[8:16])) + described[16:]
    rules = machine.call("landlock_create_ruleset", described, len(described), 0)
    for path in (*SYSTEM, *plan["read"]):
        _allow(rules, path, landlock.READ & landlock.handled(abi))
    for path in plan["write"]:
        _allow(rules, path, landlock.WRITE & landlock.handled(abi))
    for path in DEVICES:
        _allow(rules, path, landlock.DEVICE)
    machine.call("landlock_restrict_self", rules, 0)
    os.close(rules)


def _allow(rules: int, path: str, rights: int) -> None:
    if not Path(path).exists():
        return
    if not Path(path).is_dir():
        rights &= ~landlock.READ_DIR
    beneath = os.open(path, os.O_PATH | os.O_CLOEXEC)
    rule = struct.pack("=Qi", rights, beneath)
    machine.call("landlock_add_rule", rules, PATH_BENEATH, rule, 0)
    os.close(beneath)


def _die_with_parent() -> None:
    machine.prctl(machine.PR_SET_PDEATHSIG, signal.SIGKILL)


def _ended(child: int) -> int:
    """Wait for a child; the code to end with, as a shell says it."""
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code
