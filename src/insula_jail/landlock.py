"""Landlock: which files a process and its children may open, and whom they may signal or call.

A rule set is made from the process's own mounts, after they are in place, and before seccomp.
"""

from __future__ import annotations

import os
import stat
import struct
from collections.abc import Iterable, Iterator

from insula_jail import machine

EXECUTE, WRITE_FILE, READ_FILE, READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
_MAKE_CHAR, _MAKE_SOCK, _MAKE_BLOCK = 1 << 6, 1 << 9, 1 << 11
_REFER, _TRUNCATE, _IOCTL_DEV = 1 << 13, 1 << 14, 1 << 15
_OF_FILES = EXECUTE | WRITE_FILE | READ_FILE | _TRUNCATE | _IOCTL_DEV
_NEVER = EXECUTE | _MAKE_CHAR | _MAKE_SOCK | _MAKE_BLOCK | _IOCTL_DEV

READ = EXECUTE | READ_FILE | READ_DIR
# Data is read and written, never executed, and no device or socket is made among it.
WRITE = ((1 << 15) - 1) & ~_NEVER
DEVICE = READ_FILE | WRITE_FILE

_TCP_BIND_AND_CONNECT = 3
_ABSTRACT_SOCKETS_AND_SIGNALS = 3
_ASK_VERSION = 1
_PATH_BENEATH = 1
_NO_AUDIT = 1


def version() -> int:
    """The kernel's Landlock ABI, 0 when it has none or it is not switched on."""
    try:
        return machine.call("landlock_create_ruleset", None, 0, _ASK_VERSION)
    except OSError:
        return 0


def handled(abi: int) -> int:
    """Every right over files that this ABI can take away."""
    rights = _REFER - 1
    for since, right in ((2, _REFER), (3, _TRUNCATE), (5, _IOCTL_DEV)):
        rights |= right if abi >= since else 0
    return rights


def attributes(abi: int) -> bytes:
    """What a rule set of this ABI rules over, as the kernel reads it."""
    network = _TCP_BIND_AND_CONNECT if abi >= 4 else 0
    scopes = _ABSTRACT_SOCKETS_AND_SIGNALS if abi >= 6 else 0
    length = 24 if abi >= 6 else 16 if abi >= 4 else 8
    return struct.pack("=QQQ", handled(abi), network, scopes)[:length]


class Rules:
    """A process's rules, of which those that many processes share are looked up once."""

    def __init__(self, abi: int, shared: Iterable[tuple[str, int]]) -> None:
        """``shared``: paths, what is beneath them, and the rights to it.

        A path that is not there gives no right. The descriptors stay open, for children too.
        """
        self._abi = abi
        self._attributes = attributes(abi)
        self._shared = [rule for path, rights in shared for rule in self._rule(path, rights)]

    def restrict(self, own: Iterable[tuple[str, int]] = ()) -> None:
        """Leave this process, for good, only the rights of the shared rules and its ``own``.

        ``OSError`` when the kernel refuses.
        """
        described = self._attributes
        ruleset = machine.call("landlock_create_ruleset", described, len(described), 0)
        mine = [rule for path, rights in own for rule in self._rule(path, rights)]
        for rule in (*self._shared, *mine):
            machine.call("landlock_add_rule", ruleset, _PATH_BENEATH, rule, 0)
        machine.prctl(machine.PR_SET_NO_NEW_PRIVS, 1)
        machine.call("landlock_restrict_self", ruleset, _NO_AUDIT if self._abi >= 7 else 0)

    def _rule(self, path: str, rights: int) -> Iterator[bytes]:
        """The rule as the kernel reads it, with a descriptor in it."""
        try:
            beneath = os.open(path, os.O_PATH | os.O_CLOEXEC)
        except (FileNotFoundError, NotADirectoryError):
            return
        rights &= handled(self._abi)
        if not stat.S_ISDIR(os.fstat(beneath).st_mode):
            rights &= _OF_FILES
        yield struct.pack("=Qi", rights, beneath)
