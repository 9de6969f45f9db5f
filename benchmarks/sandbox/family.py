"""The processes that a server starts: known by their marks also when their parents are gone."""

import contextlib
import os
import signal
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Final, Self

from app.modules.sandbox.adapters.jail.host import UIDS_A_TEMPLATE, UIDS_FROM
from benchmarks.processes import PROC, BenchError, birth, stat_fields, tree

JAIL_MARK: Final = b"insula_jail"
DEATH_LIMIT_S: Final = 10.0
LOOK_EVERY_S: Final = 0.01
WITNESS_EVERY_S: Final = 0.03
NAME_MARK: Final = "once-"


class Family:
    """Everybody who descends from a server at this moment.

    Each has a session of its own or an ancestor's; and what runs scripts for a server of root's
    has user ids that nobody else on the machine has.
    """

    def __init__(self, pid: int) -> None:
        self.members = tree(pid)
        self._sessions = {int(fields[3]) for p in self.members if (fields := stat_fields(p))}
        self._blocks = {_block(member) for member in self.members} - {None}

    @property
    def servers(self) -> list[int]:
        """Those that answer requests."""
        return [pid for pid in self.members if not is_jailed(pid)]

    @property
    def jailed(self) -> list[int]:
        """Zygotes, what keeps them, and workers."""
        return [pid for pid in self.members if is_jailed(pid)]

    def left(self) -> list[int]:
        """Who of them, or of those that they have started since, is alive."""
        return [pid for pid in _pids() if birth(pid) is not None and self._has(pid)]

    def strike(self) -> None:
        """`kill -9` the server and nothing else; return when it is dead."""
        struck = {pid: self.members[pid] for pid in self.servers}
        for pid in struck:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        give_up_at = time.monotonic() + DEATH_LIMIT_S
        while any(birth(pid) == born for pid, born in struck.items()):
            if time.monotonic() > give_up_at:
                raise BenchError(f"Killed, and alive: {sorted(struck)}")
            time.sleep(LOOK_EVERY_S)

    def _has(self, pid: int) -> bool:
        if self.members.get(pid) == birth(pid):
            return True
        fields = stat_fields(pid)
        return bool(fields) and (int(fields[3]) in self._sessions or _block(pid) in self._blocks)


class Witness:
    """Watches, from outside, which processes have taken the name ``once-<number>``.

    It sees every one that keeps it for longer than a few looks apart.
    """

    def __init__(self) -> None:
        self.seen: defaultdict[int, set[tuple[int, int]]] = defaultdict(set)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(WITNESS_EVERY_S):
            for pid in _pids():
                name = _read(pid, "comm").decode(errors="replace").strip()
                number = name.removeprefix(NAME_MARK)
                born = birth(pid) if number != name else None
                if born is not None and number.isdigit():
                    self.seen[int(number)].add((pid, born))


def is_jailed(pid: int) -> bool:
    return JAIL_MARK in _read(pid, "cmdline")


def zombies(members: dict[int, int]) -> set[int]:
    """Those that have ended and are not reaped."""
    return {pid for pid in members if stat_fields(pid)[:1] == ["Z"]}


def descriptors(pids: list[int]) -> int:
    """How many files these processes have open."""
    found = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            found += sum(1 for _ in (PROC / str(pid) / "fd").iterdir())
    return found


def _block(pid: int) -> int | None:
    """Which range of user ids a process is in, if in one that a template has for itself."""
    lines = _read(pid, "status").decode(errors="replace").splitlines()
    uid = next((int(line.split()[1]) for line in lines if line.startswith("Uid:")), 0)
    return (uid - UIDS_FROM) // UIDS_A_TEMPLATE if uid >= UIDS_FROM else None


def _pids() -> Iterator[int]:
    return (int(folder.name) for folder in PROC.iterdir() if folder.name.isdigit())


def _read(pid: int, name: str) -> bytes:
    try:
        return Path(PROC, str(pid), name).read_bytes()
    except OSError:
        return b""
