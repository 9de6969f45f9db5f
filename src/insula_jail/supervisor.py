"""A container's first process: one worker behind it, the wire to the server in front of it.

Its stdin and stdout are the wire, its stderr is a log. What the worker prints becomes frames.
"""

from __future__ import annotations

import json
import os
import resource
import select
import signal
import socket
import sys
from binascii import b2a_base64
from contextlib import suppress
from importlib import import_module
from typing import Any, NamedTuple, NoReturn

from insula_jail import frames, machine, seccomp, walls
from insula_jail.script import flush
from insula_jail.worker import serve

READ_BYTES = 64 * 1024
# A pipe has no more in it than this, unless the host's administrator wants it so.
PIPE_LIMIT_BYTES = 1024 * 1024
SERVER_IN, SERVER_OUT, LOG = 0, 1, 2
FIRST_UNUSED_FD, LAST_UNUSED_FD = 3, 1024
# More bytes than ``close`` has; a frame that has more is not looked at here.
CLOSE_BYTES = 64
INIT = 1
WRITABLE = ("/tmp", "/dev/shm")  # noqa: S108 - the container has them to itself
# Threads that an import starts would be outside the walls.
ONE_THREAD = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")
STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Child(NamedTuple):
    """The worker, and this side of its wire and its two pipes."""

    pid: int
    wire: int
    out: int
    err: int


def main() -> NoReturn:
    """Run a worker. The one argument is a JSON object of limits, ``paths`` and ``preload``."""
    plan = json.loads(sys.argv[1])
    Supervisor(start(plan)).run()


def start(plan: dict[str, Any]) -> Child:
    """Fork the worker."""
    ours, theirs = socket.socketpair()
    out, out_end = os.pipe()
    err, err_end = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            _become_worker(plan, theirs.detach(), out_end, err_end)
        except BaseException as error:  # noqa: BLE001 - whatever it is, no second supervisor runs
            os.write(LOG, f"{type(error).__name__}: {error}\n".encode())
        os._exit(1)
    theirs.close()
    os.close(out_end)
    os.close(err_end)
    return Child(pid, ours.detach(), out, err)


def _become_worker(plan: dict[str, Any], wire: int, out: int, err: int) -> NoReturn:
    os.setsid()
    with suppress(OSError):
        machine.prctl(machine.PR_SET_PDEATHSIG, signal.SIGKILL)
    # Until the walls are up, whatever is said goes to the log, and nothing to the server.
    nothing = os.open(os.devnull, os.O_RDWR)
    os.dup2(nothing, SERVER_IN)
    os.dup2(LOG, SERVER_OUT)
    paths = [str(path) for path in plan.get("paths", ())]
    sys.path.extend(paths)
    for name in ONE_THREAD:
        os.environ[name] = "1"  # noqa: TID251 - libraries read it when they are imported
    for name in plan.get("preload", ()):
        import_module(name)
    flush()
    raised = _raise_walls(plan, (sys.prefix, sys.base_prefix, *paths))
    os.dup2(out, 1)
    os.dup2(err, 2)
    os.closerange(FIRST_UNUSED_FD, wire)
    os.closerange(wire + 1, LAST_UNUSED_FD)
    serve(wire, raised)


def _raise_walls(plan: dict[str, Any], readable: tuple[str, ...]) -> dict[str, bool]:
    """Raise what this host has; the container stands around it all. Which wall is up."""
    raised = {"limits": False, "capabilities": False, "landlock": False, "seccomp": False}
    limits = walls.Limits(*[plan[name] for name in walls.Limits._fields])
    try:
        walls.raise_in_container(limits, readable, (*WRITABLE, os.getcwd()))  # noqa: PTH109
        raised = dict.fromkeys(raised, True)
    except walls.WallMissing as missing:
        os.write(LOG, f"{missing}\n".encode())
        for name in raised:
            if name == missing.wall:
                break
            raised[name] = True
        # gVisor has no Landlock, but it has seccomp.
        if missing.wall == "landlock":
            raised["seccomp"] = _raise_seccomp()
    if raised["limits"]:
        _be_told_of_cpu_limit(limits.cpu_s)
    return raised


def _raise_seccomp() -> bool:
    try:
        seccomp.install(seccomp.worker_program(machine.this_machine(), "A").code)
    except OSError as error:
        os.write(LOG, f"seccomp: {error}\n".encode())
        return False
    return True


def _be_told_of_cpu_limit(cpu_s: int) -> None:
    """End by a signal that says why, before the one that every end by force has."""
    _, hardest = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_CPU, (min(cpu_s, hardest), hardest))


class Outlet:
    """What waits to be written to a descriptor that does not block."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self._waiting = bytearray()

    @property
    def is_empty(self) -> bool:
        return not self._waiting

    def add(self, data: bytes) -> None:
        self._waiting += data

    def pump(self) -> None:
        """Write what goes. OSError when nobody reads any more."""
        with suppress(BlockingIOError):
            while self._waiting:
                written = os.write(self.fd, self._waiting[:READ_BYTES])
                del self._waiting[:written]

    def drop(self) -> None:
        self._waiting.clear()


class Supervisor:
    """Passes on frames both ways, and output before the frames that came after it.

    Nothing is read from the worker while the server takes nothing; so a flood waits in its pipe.
    """

    def __init__(self, child: Child) -> None:
        self._child = child
        self._wake, told = socket.socketpair()
        for end in (self._wake, told):
            end.settimeout(0)
        for fd in (SERVER_IN, SERVER_OUT, child.wire, child.out, child.err):
            os.set_blocking(fd, False)
        for caught in (signal.SIGCHLD, *STOP_SIGNALS):
            signal.signal(caught, lambda _number, _frame: None)
        signal.set_wakeup_fd(told.detach(), warn_on_full_buffer=False)
        self._to_server = Outlet(SERVER_OUT)
        self._to_worker = Outlet(child.wire)
        self._from_server = frames.Splitter(frames.MAX_IN)
        self._from_worker = frames.Splitter(frames.MAX_OUT)
        self._readable = {child.wire, child.out, child.err}
        self._is_gone = False

    def run(self) -> NoReturn:
        """Return never: the process ends when the worker has and the server knows."""
        self._look_for_end()
        while not (self._is_gone and self._to_server.is_empty):
            for fd, events in self._poll():
                self._act(fd, events)
        os._exit(0)

    def _poll(self) -> list[tuple[int, int]]:
        poll = select.poll()
        poll.register(self._wake.fileno(), select.POLLIN)
        if self._to_worker.is_empty:
            poll.register(SERVER_IN, select.POLLIN)
        wanted = dict.fromkeys(self._readable, select.POLLIN) if self._to_server.is_empty else {}
        if not self._to_server.is_empty:
            poll.register(SERVER_OUT, select.POLLOUT)
        if not self._to_worker.is_empty:
            wanted[self._child.wire] = wanted.get(self._child.wire, 0) | select.POLLOUT
        for fd, events in wanted.items():
            poll.register(fd, events)
        return poll.poll()

    def _act(self, fd: int, events: int) -> None:
        if fd == self._wake.fileno():
            self._wake_up()
        elif fd == SERVER_IN:
            self._hear_server()
        elif fd == SERVER_OUT:
            self._write_server()
        elif fd == self._child.wire:
            if events & select.POLLOUT:
                self._write_worker()
            if events & ~select.POLLOUT and fd in self._readable:
                self._hear_worker()
        elif fd in self._readable:
            self._take_output(fd, READ_BYTES)

    def _wake_up(self) -> None:
        numbers = self._wake.recv(READ_BYTES)
        if any(number in numbers for number in STOP_SIGNALS):
            self._stop()
        self._look_for_end()

    def _hear_server(self) -> None:
        try:
            data = os.read(SERVER_IN, READ_BYTES)
        except BlockingIOError:
            return
        if not data:
            self._stop()
        for payload in self._from_server.feed(data):
            if len(payload) < CLOSE_BYTES and frames.decode(payload)["t"] == "close":
                self._stop()
            if self._child.wire in self._readable:
                self._to_worker.add(frames.pack(payload, frames.MAX_IN))
        self._write_worker()

    def _write_server(self) -> None:
        try:
            self._to_server.pump()
        except OSError:
            self._stop()

    def _write_worker(self) -> None:
        try:
            self._to_worker.pump()
        except OSError:
            # The script has closed its end, or it is gone; then its status says so.
            self._to_worker.drop()

    def _hear_worker(self) -> bool:
        """Pass on what the worker says; whether there was anything."""
        data = self._read(self._child.wire)
        if not data:
            return False
        # What was printed before these frames were sent is in the pipes by now.
        for pipe in (self._child.out, self._child.err):
            if pipe in self._readable:
                self._take_output(pipe, PIPE_LIMIT_BYTES)
        try:
            for payload in self._from_worker.feed(data):
                self._to_server.add(frames.pack(payload))
        except frames.BadFrame as error:
            os.write(LOG, f"{error}\n".encode())
            self._readable.discard(self._child.wire)
            self._kill()
        self._write_server()
        return True

    def _take_output(self, pipe: int, limit_bytes: int) -> None:
        """Pass on what there is, up to the limit, in frames of at most ``READ_BYTES`` of it."""
        kind = "out" if pipe == self._child.out else "err"
        taken = 0
        while taken < limit_bytes and pipe in self._readable:
            data = self._read(pipe)
            if data is None:
                break
            taken += len(data)
            if data:
                text = b2a_base64(data, newline=False).decode()
                self._to_server.add(frames.encode({"t": kind, "data": text}))
        self._write_server()

    def _read(self, fd: int) -> bytes | None:
        """Some bytes, none at the end, ``None`` when there are none yet."""
        try:
            data = os.read(fd, READ_BYTES)
        except BlockingIOError:
            return None
        except OSError:
            data = b""
        if not data:
            self._readable.discard(fd)
        return data

    def _look_for_end(self) -> None:
        """Reap; when the worker has ended, end its processes, and tell the server the rest."""
        while not self._is_gone:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return
            if pid == self._child.pid:
                self._is_gone = True
                self._kill()
                self._tell_end(status)

    def _tell_end(self, status: int) -> None:
        _reap_all()
        while self._child.wire in self._readable and self._hear_worker():
            pass
        for pipe in (self._child.out, self._child.err):
            self._take_output(pipe, PIPE_LIMIT_BYTES)
        group = resource.getrusage(resource.RUSAGE_CHILDREN)
        ended = os.waitstatus_to_exitcode(status)
        gone = {
            "t": "gone",
            "code": ended if ended >= 0 else None,
            "signal": -ended if ended < 0 else None,
            "cpu_ms": round(1000 * (group.ru_utime + group.ru_stime)),
            "peak_kb": group.ru_maxrss,
        }
        self._to_server.add(frames.encode(gone))
        self._write_server()

    def _kill(self) -> None:
        """Kill all processes of the worker; a first process can reach no others."""
        with suppress(ProcessLookupError):
            if os.getpid() == INIT:
                os.kill(-1, signal.SIGKILL)
            else:
                os.killpg(self._child.pid, signal.SIGKILL)

    def _stop(self) -> NoReturn:
        self._kill()
        os._exit(0)


def _reap_all() -> None:
    with suppress(ChildProcessError):
        while True:
            os.waitpid(-1, 0)
