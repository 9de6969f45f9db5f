"""The processes that are measured: start, readiness, CPU and memory of the whole tree, stop."""

import contextlib
import http.client
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final

PROC = Path("/proc")
TICKS_PER_S = os.sysconf("SC_CLK_TCK")
POLL_S = 0.005
READY_LIMIT_S = 120.0
STOP_LIMIT_S = 15.0
LOG_TAIL_CHARS = 2_000

# Nothing else of the caller's environment reaches a measured process: neither settings, nor
# PYTHONDONTWRITEBYTECODE, which doubles every start and slows LiteLLM down on every request.
KEPT: Final = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR")


class BenchError(Exception):
    """The benchmark cannot go on. The text says what to look at."""


class Server:
    """One started process and everything it starts itself. ``key`` is its clients'."""

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        environment: Mapping[str, str],
        port: int,
        *,
        key: str = "",
    ) -> None:
        self.name = name
        self.port = port
        self.key = key
        self._command = list(command)
        self._environment = {**bare_environment(), **environment}
        self._started_at = 0.0

    def start(self, *, log: Path, folder: Path) -> None:
        self._log = log
        with log.open("wb") as out:
            self._started_at = time.monotonic()
            self._process = subprocess.Popen(
                self._command,
                env=self._environment,
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def prepare(self, *command: str) -> None:
        """Run a command to its end as if it were this server's, before the server starts."""
        done = subprocess.run(
            command, env=self._environment, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise BenchError(f"{' '.join(command)} failed:\n{done.stderr[-LOG_TAIL_CHARS:]}")

    @property
    def pid(self) -> int:
        return self._process.pid

    def wait_for(self, path: str, *, body: str = "", key: str = "") -> float:
        """Wait for a 200 and answer how many seconds after the start it came."""
        status = 0
        while time.monotonic() - self._started_at < READY_LIMIT_S:
            with contextlib.suppress(OSError, http.client.HTTPException):
                status, _ = ask(self.port, path, body=body, key=key)
                if status == 200:
                    return time.monotonic() - self._started_at
            if self._process.poll() is not None:
                raise BenchError(f"{self.name} ended at its start:\n{self.tail()}")
            time.sleep(POLL_S)
        raise BenchError(f"{self.name}: {path} did not answer 200 but {status}:\n{self.tail()}")

    def tail(self) -> str:
        return self._log.read_text(errors="replace")[-LOG_TAIL_CHARS:]

    def cpu_s(self) -> float:
        return cpu_s(self.pid)

    def pss_mib(self) -> float:
        return sum(pss_kib(pid) for pid in tree(self.pid)) / 1024

    def rss_mib(self) -> float:
        return sum(rss_kib(pid) for pid in tree(self.pid)) / 1024

    def kill(self) -> None:
        """End it as a power cut would: nothing is told, nothing is flushed."""
        for pid in tree(self.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._process.wait()

    def stop(self) -> None:
        """End the process; what it leaves behind is killed, and nothing else."""
        members = tree(self.pid)
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(STOP_LIMIT_S)
        for pid, born in members.items():
            if birth(pid) == born:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        self._process.wait()


def bare_environment() -> dict[str, str]:
    return {name: os.environ[name] for name in KEPT if name in os.environ}


def free_port() -> int:
    with socket.socket() as door:
        door.bind(("127.0.0.1", 0))
        return int(door.getsockname()[1])


def ask(
    port: int, path: str, *, body: str = "", key: str = "", method: str = ""
) -> tuple[int, bytes]:
    """One request over a connection of its own."""
    headers = {"content-type": "application/json"} if body else {}
    if key:
        headers["authorization"] = f"Bearer {key}"
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request(method or ("POST" if body else "GET"), path, body or None, headers)
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def tree(root: int) -> dict[int, int]:
    """The process, its descendants and the rest of its session, each with its time of birth."""
    known = {}
    for folder in PROC.iterdir():
        if folder.name.isdigit() and (fields := stat_fields(int(folder.name))):
            known[int(folder.name)] = (int(fields[1]), int(fields[3]), int(fields[19]))
    found = {pid for pid, (_, session, _) in known.items() if root in (pid, session)}
    size = 0
    while size != len(found):
        size = len(found)
        found |= {pid for pid, (parent, _, _) in known.items() if parent in found}
    return {pid: known[pid][2] for pid in found}


def birth(pid: int) -> int | None:
    fields = stat_fields(pid)
    return int(fields[19]) if fields and fields[0] != "Z" else None


def stat_fields(pid: int) -> list[str]:
    """The fields after the command's name; empty when the process is gone."""
    try:
        return (PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def cpu_s(root: int) -> float:
    """CPU of a process tree, from the kernel's nanosecond clock of each process.

    It is the sum that /proc/<pid>/task/*/schedstat shows, threads that have ended included.
    """
    total = 0
    for pid in tree(root):
        with contextlib.suppress(OSError):
            total += time.clock_gettime_ns((~pid << 3) | 2)
    return total / 1e9


def pss_kib(pid: int) -> int:
    return _kib(pid, "smaps_rollup", "Pss:")


def rss_kib(pid: int) -> int:
    return _kib(pid, "status", "VmRSS:")


def _kib(pid: int, file: str, name: str) -> int:
    """A line of a process's account of itself; 0 when the process is gone."""
    try:
        lines = (PROC / str(pid) / file).read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith(name)), 0)


def sockets(pids: Iterable[int]) -> int:
    """How many sockets these processes have open."""
    found = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            for link in (PROC / str(pid) / "fd").iterdir():
                with contextlib.suppress(OSError):
                    found += str(link.readlink()).startswith("socket:")
    return found


def machine_cpu_s() -> tuple[float, float]:
    """What all processors of the machine have worked, and what the hypervisor took."""
    with (PROC / "stat").open() as lines:
        ticks = [int(text) for text in lines.readline().split()[1:]]
    return (sum(ticks[:3]) + sum(ticks[5:7])) / TICKS_PER_S, ticks[7] / TICKS_PER_S
