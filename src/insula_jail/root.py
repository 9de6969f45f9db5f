"""The root folder of tier A: what of the host is in it, read-only, and how a process enters it."""

from __future__ import annotations

import os
import stat
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from insula_jail import machine

RDONLY, NOSUID, NODEV, NOEXEC = 1, 2, 4, 8
_BIND, _REC, _PRIVATE = 4096, 16384, 1 << 18
_AT_FDCWD, _AT_RECURSIVE = -100, 0x8000
_DETACH = 2

PACKAGE_ROOT = "/run/insula"
_SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32")
_OWN_DATA = "/tmp"  # noqa: S108 - in the new root
_COVERED = (_OWN_DATA, "/proc", "/dev")
_LINKER_CACHE = "/etc/ld.so.cache"
_DEVICES = ("null", "full", "random", "urandom")
_OWN_FOLDERS = ("dev/shm", "etc", "proc", "tmp", PACKAGE_ROOT[1:])
# Any folder that the host has will do: it is covered in our own mount namespace only.
_STAGES = ("/mnt", "/srv", "/tmp", "/run")  # noqa: S108 - nothing is written there
SIZE_KB = 4096
_HOSTS = "127.0.0.1 localhost\n::1 localhost\n"


class Bind(NamedTuple):
    """A file or folder of the host, and where it lies in the root."""

    source: str
    target: str


def mount(source: str | None, target: str, kind: str | None, flags: int, options: str = "") -> None:
    """Mount; ``OSError`` when the kernel refuses."""
    machine.call(
        "mount",
        None if source is None else os.fsencode(source),
        os.fsencode(target),
        None if kind is None else kind.encode(),
        flags,
        options.encode() or None,
    )


def make_private() -> None:
    """Let no mount of this namespace reach the host, or one of the host's reach it."""
    mount(None, "/", None, _REC | _PRIVATE)


def stage(binds: Iterable[Bind], first_uid: int, users: int) -> str:
    """Build the root, and return the folder where it stands until it is entered.

    ``first_uid``, ``users``: who has a name in it. Everything in it is read-only afterwards.
    ``ValueError`` for a target that a worker's own mounts would hide.
    """
    binds = list(binds)
    for bind in binds:
        if any(_is_above(own, bind.target) for own in _COVERED):
            raise ValueError(f"nothing can be bound at {bind.target}: a worker has its own there")
    wanted = sorted({*_system(), *binds}, key=lambda bind: bind.target.count("/"))
    sources = {bind: os.open(bind.source, os.O_PATH | os.O_CLOEXEC) for bind in wanted}
    devices = {name: os.open(f"/dev/{name}", os.O_PATH | os.O_CLOEXEC) for name in _DEVICES}
    place = next(folder for folder in _STAGES if Path(folder).is_dir())
    mount("tmpfs", place, "tmpfs", NOSUID | NODEV, f"size={SIZE_KB}k,mode=755")
    try:
        _furnish(place, first_uid, users)
        for bind in wanted:
            _bind_below(place, bind, sources[bind], wanted)
        _protect(place, RDONLY | NOSUID | NODEV)
        for name, descriptor in devices.items():
            _bind(descriptor, f"{place}/dev/{name}")
            _protect(f"{place}/dev/{name}", RDONLY | NOSUID | NOEXEC)
    finally:
        for descriptor in (*sources.values(), *devices.values()):
            os.close(descriptor)
    return place


def unlock(place: str) -> None:
    """Make a root that was staged with more rights one that can be entered with fewer."""
    mount(place, place, None, _BIND | _REC)


def enter(place: str) -> None:
    """Make ``place`` the root and forget the host's, as the first process of a pid namespace."""
    hidden = NOSUID | NODEV | NOEXEC
    # Once the host's root is gone the kernel mounts no proc for whoever is not root on the host.
    mount("proc", f"{place}/proc", "proc", hidden)
    mount("tmpfs", place + _OWN_DATA, "tmpfs", hidden, "size=64m,mode=1777")
    os.chdir(place)
    machine.call("pivot_root", b".", b".")
    machine.call("umount2", b".", _DETACH)
    os.chdir("/")


def mount_own(disk_mb: int, inodes: int) -> None:
    """Give the calling worker, in its own mount namespace, data and processes of its own."""
    limits = f"size={disk_mb}m,nr_inodes={inodes},mode=1777"
    mount("tmpfs", _OWN_DATA, "tmpfs", NOSUID | NODEV | NOEXEC, limits)
    mount("tmpfs", "/dev/shm", "tmpfs", NOSUID | NODEV | NOEXEC, limits)  # noqa: S108 - it is ours
    mount("proc", "/proc", "proc", NOSUID | NODEV | NOEXEC, "subset=pid")


def _system() -> Iterator[Bind]:
    for path in _SYSTEM:
        if Path(path).is_dir() and not Path(path).is_symlink():
            yield Bind(path, path)
    if Path(_LINKER_CACHE).is_file():
        yield Bind(_LINKER_CACHE, _LINKER_CACHE)


def _furnish(place: str, first_uid: int, users: int) -> None:
    for folder in _OWN_FOLDERS:
        Path(place, folder).mkdir(parents=True)
    for name in _DEVICES:
        Path(place, "dev", name).touch()
    for path in _SYSTEM:
        if Path(path).is_symlink():
            Path(place + path).symlink_to(Path(path).readlink())
    people = "".join(f"sandbox:x:{first_uid + n}:1000::/tmp:/bin/sh\n" for n in range(users))
    Path(place, "etc/passwd").write_text(f"root:x:0:0::/:/bin/sh\n{people}", encoding="ascii")
    Path(place, "etc/group").write_text("root:x:0:\nsandbox:x:1000:\n", encoding="ascii")
    Path(place, "etc/hosts").write_text(_HOSTS, encoding="ascii")


def _bind_below(place: str, bind: Bind, descriptor: int, all_binds: Iterable[Bind]) -> None:
    above = [other for other in all_binds if _is_above(other.target, bind.target)]
    if any(other.source == other.target and bind.source == bind.target for other in above):
        return
    target = Path(place + bind.target)
    if not above:
        # Only in our own tmpfs: below a bind this would write into the host.
        target.parent.mkdir(parents=True, exist_ok=True)
        is_folder = stat.S_ISDIR(os.fstat(descriptor).st_mode)
        target.mkdir(exist_ok=True) if is_folder else target.touch()
    _bind(descriptor, str(target))


def _is_above(upper: str, lower: str) -> bool:
    return lower != upper and lower.startswith(upper.rstrip("/") + "/")


def _bind(descriptor: int, target: str) -> None:
    mount(f"/proc/self/fd/{descriptor}", target, None, _BIND | _REC)


def _protect(target: str, attributes: int) -> None:
    described = struct.pack("=QQQQ", attributes, 0, 0, 0)
    path = os.fsencode(target)
    machine.call("mount_setattr", _AT_FDCWD, path, _AT_RECURSIVE, described, len(described))
