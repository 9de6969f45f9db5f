"""What a worker's processes use together, and how all of them are stopped at once.

The sums are read from /proc, of the zygote's own pid namespace. What a script can do to escape
a sum, such as forking without end while it is read, meets the next one.
"""

from __future__ import annotations

import os
import signal
import stat
import time
from collections.abc import Iterator
from typing import NamedTuple

from insula_jail.walls import Limits

# From here on memory that several processes share is told apart, which is slow to find out.
NEAR = 0.75
# On a busy host a process that was told to stop may wait long for the processor to do so; those
# that keep each other going hold up the zygote for as long.
FREEZE_WITHIN_S = 0.5
FREEZE_PAUSES_S = (0.0005, 0.005)
# A worker may have limits.processes of them; more are seen only while they change.
MOST_PROCESSES = 1024
DISK_BLOCK = 512
# Without a user of its own no limit of the kernel counts a worker's threads, as this allows them.
THREADS_A_PROCESS = 4
# What a socket's buffer holds is in no process's memory; so many descriptors are not looked at.
FEW_DESCRIPTORS = 256
BUFFER_KB = 256
# A line of text for each: far more than an interpreter maps that has imported everything.
MAPS_BYTES = 1 << 20
_HELD = (b"RssAnon:", b"RssShmem:", b"VmSwap:")
_SHARED = (b"Pss_Anon:", b"Pss_Shmem:", b"SwapPss:")
_ENDED = "ZX"
_TICK_MS = 1000 // os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 10


class Process(NamedTuple):
    """One line of /proc: ``ticks`` of its own, ``reaped`` those of the children it waited for."""

    state: str
    ticks: int
    reaped: int
    threads: int
    started: int


class Use:
    """What one worker has used so far, and the most it used at once."""

    def __init__(self, pid: int, base_kb: int, scratch: str | None) -> None:
        self.peak_kb = 0
        self.cpu_ms = 0
        self._pid = pid
        self._base_kb = base_kb
        self._scratch = scratch
        self._seen: dict[tuple[int, int], int] = {}
        self._ended_ticks = 0

    def excess(self, limits: Limits) -> str:
        """The limit that is passed: ``memory``, ``cpu``, or ``""``."""
        # In tier B there is one, and as many threads as it likes.
        pids = list(processes(self._pid)) if self._scratch is None else [self._pid]
        limit_kb = limits.memory_mb * 1024
        if self._memory_kb(pids, limit_kb) + _buffers_kb(pids, limits.files) > limit_kb:
            return "memory"
        if self._scratch is not None and _threads_of(self._pid) > _most_threads(limits):
            return "memory"
        self.cpu_ms = max(self.cpu_ms, self._cpu_ms(pids))
        if self.cpu_ms > limits.cpu_s * 1000:
            return "cpu"
        return ""

    def excess_on_disk(self, limits: Limits) -> str:
        """``disk`` when the scratch folder holds too much, or what cannot be counted."""
        if self._scratch is None:
            return ""
        used = disk_use(self._scratch, limits.inodes)
        unlinked = unlinked_use(self._pid, limits.file_mb << 20)
        if used is None or unlinked is None or used + unlinked > limits.disk_mb << 20:
            return "disk"
        return ""

    def _memory_kb(self, pids: list[int], limit_kb: int) -> int:
        used = sum(memory_kb(pid) for pid in pids) - self._base_kb
        if len(pids) > 1 and used > limit_kb * NEAR:
            used = min(used, sum(shared_memory_kb(pid) for pid in pids))
        self.peak_kb = max(self.peak_kb, used)
        return used

    def _cpu_ms(self, pids: list[int]) -> int:
        """Neither waiting for a child nor leaving it to nobody hides what it used."""
        found = {pid: read for pid in pids if (read := read_process(pid)) is not None}
        seen = {(pid, read.started): read.ticks for pid, read in found.items()}
        self._ended_ticks += sum(t for key, t in self._seen.items() if key not in seen)
        self._seen = seen
        living = sum(read.ticks for read in found.values())
        waited_for = sum(read.reaped for read in found.values())
        return (living + max(waited_for, self._ended_ticks)) * _TICK_MS


def processes(first: int) -> Iterator[int]:
    """``first`` and all that descend from it, at most ``MOST_PROCESSES``."""
    found = [first]
    for pid in found:
        yield pid
        if len(found) < MOST_PROCESSES:
            found.extend(_children(pid))


def _threads(pid: int) -> list[str]:
    try:
        return os.listdir(f"/proc/{pid}/task")  # noqa: PTH208 - read 20 times a second
    except OSError:
        return []


def _children(pid: int) -> list[int]:
    listed = (_read(f"/proc/{pid}/task/{thread}/children") for thread in _threads(pid))
    return [int(child) for line in listed for child in line.split()]


def read_process(pid: int) -> Process | None:
    """The process's state and CPU time; None when it is gone."""
    return _read_stat(f"/proc/{pid}")


def _living(pid: int) -> str:
    """Where the process is described; once its first thread has ended, where another one is."""
    first = f"/proc/{pid}"
    read = _read_stat(first)
    if read is None or read.state not in _ENDED or read.threads < 2:
        return first
    for thread in _threads(pid):
        other = _read_stat(f"{first}/task/{thread}")
        if other is not None and other.state not in _ENDED:
            return f"{first}/task/{thread}"
    return first


def _threads_of(pid: int) -> int:
    read = read_process(pid)
    return read.threads if read is not None else 0


def _most_threads(limits: Limits) -> int:
    return limits.processes * THREADS_A_PROCESS


def _buffers_kb(pids: list[int], files: int) -> int:
    """What the descriptors of all may hold in buffers, where they are more than a few."""
    if len(pids) * files <= FEW_DESCRIPTORS:
        return 0
    opened = sum(_descriptors(pid) for pid in pids)
    return max(0, opened - FEW_DESCRIPTORS) * BUFFER_KB


def _descriptors(pid: int) -> int:
    try:
        folder = f"{_living(pid)}/fd"
        # Newer kernels say it at once.
        return os.stat(folder).st_size or len(os.listdir(folder))  # noqa: PTH116, PTH208 - as above
    except OSError:
        return 0


def _read_stat(folder: str) -> Process | None:
    line = _read(f"{folder}/stat")
    if not line:
        return None
    # The name in parentheses is the process's own choice, and may contain any of them.
    fields = line.rpartition(b")")[2].split()
    own, reaped = int(fields[11]) + int(fields[12]), int(fields[13]) + int(fields[14])
    return Process(fields[0].decode(), own, reaped, int(fields[17]), int(fields[19]))


def memory_kb(pid: int) -> int:
    """What the process has in memory that is in no file, shared or not; 0 when it is gone."""
    used = _sum_kb(f"/proc/{pid}/status", _HELD)
    # Once its first thread has ended a process shows its memory at the others only.
    others = () if used else _threads(pid)
    return used or max(
        (_sum_kb(f"/proc/{pid}/task/{one}/status", _HELD) for one in others), default=0
    )


def shared_memory_kb(pid: int) -> int:
    """The same, with each shared page divided among those who share it."""
    return _sum_kb(f"/proc/{pid}/smaps_rollup", _SHARED) or memory_kb(pid)


def _sum_kb(path: str, names: tuple[bytes, ...]) -> int:
    lines = (line.split() for line in _read(path).splitlines())
    return sum(int(words[1]) for words in lines if words and words[0] in names)


def _read(path: str) -> bytes:
    return b"".join(_pieces(path, 1))


def _pieces(path: str, most: int) -> Iterator[bytes]:
    """What a file has, until it is ``most`` bytes; of most files here the first piece is all."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return
    try:
        while most > 0:
            piece = os.read(descriptor, 65_536)
            if not piece:
                return
            most -= len(piece)
            yield piece
    except OSError:
        return
    finally:
        os.close(descriptor)


def disk_use(folder: str, inodes: int) -> int | None:
    """The bytes below ``folder``; None for more than ``inodes`` entries, or when some hide."""
    used = entries = 0
    folders = [folder]
    while folders:
        try:
            with os.scandir(folders.pop()) as found:
                for entry in found:
                    entries += 1
                    if entries > inodes:
                        return None
                    status = entry.stat(follow_symlinks=False)
                    used += status.st_blocks * DISK_BLOCK
                    if stat.S_ISDIR(status.st_mode):
                        folders.append(entry.path)
        except FileNotFoundError:
            continue
        except OSError:
            # Too deep to be named, or closed to us: what cannot be counted is over the limit.
            return None
    return used


def unlinked_use(pid: int, file_bytes: int) -> int | None:
    """The bytes of the files that the process removed and still has open or mapped.

    ``file_bytes``: what a file has that is only mapped, for nobody says it. None when too much is
    mapped to be looked through.
    """
    folder = _living(pid)
    opened = _unlinked_files(folder)
    maps = b"".join(_pieces(f"{folder}/maps", MAPS_BYTES))
    if len(maps) >= MAPS_BYTES:
        return None
    # The start of a line: addresses, rights, offset, device, inode.
    mapped = {int(line.split(None, 5)[4]) for line in maps.splitlines() if b"(deleted)" in line}
    return sum(opened.values()) + len(mapped - opened.keys()) * file_bytes


def _unlinked_files(folder: str) -> dict[int, int]:
    """The bytes of each removed file that is open, by its inode."""
    found: dict[int, int] = {}
    try:
        with os.scandir(f"{folder}/fd") as opened:
            for entry in opened:
                status = entry.stat()
                if stat.S_ISREG(status.st_mode) and status.st_nlink == 0:
                    found[status.st_ino] = status.st_blocks * DISK_BLOCK
    except OSError:
        # Where the host lets us not look, the limits of files and of their size bound it.
        return found
    return found


def freeze(first: int) -> bool:
    """Stop ``first`` and all that descend from it; False when they keep each other going."""
    told: set[int] = set()
    pause_s, longest_s = FREEZE_PAUSES_S
    deadline = time.monotonic() + FREEZE_WITHIN_S
    while time.monotonic() < deadline:
        running = [pid for pid in processes(first) if _runs(pid, is_told=pid in told)]
        if not running:
            return True
        for pid in running:
            send(pid, signal.SIGSTOP)
        told.update(running)
        time.sleep(pause_s)
        pause_s = min(2 * pause_s, longest_s)
    return False


def _runs(pid: int, *, is_told: bool) -> bool:
    """Whether it must be told to stop, again or for the first time, whatever it does now.

    One that sleeps deeply stops before it does anything else; it may sleep until a child goes on.
    """
    read = _read_stat(_living(pid))
    return read is not None and read.state not in ("TtZXD" if is_told else "Tt")


def is_frozen(first: int) -> bool:
    """Whether all are still stopped: a timer can send even a stopped process on its way."""
    return not any(_runs(pid, is_told=True) for pid in processes(first))


def thaw(first: int) -> None:
    """Let ``first`` and all that descend from it go on."""
    for pid in processes(first):
        send(pid, signal.SIGCONT)


def send(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return
