"""The zygote: a process behind walls that has imported what a project needs, and forks workers.

Three images of it follow each other. The keeper is what the server starts: it leaves the host,
starts the zygote and ends it as soon as the server is gone. The zygote raises its walls, imports
and waits for orders. A worker is a fork of it that raises walls of its own and serves one script.

What an import can do: in tier A it runs in a user namespace without any right over the host, on
read-only files, with no network; it could mount, and signal the project's own workers. In tier B
it sees the project's files and can write in the folder of scratch folders. It comes before every
worker of the project, so that packages must be trusted as much as that project's scripts.
"""

from __future__ import annotations

import array
import builtins
import gc
import importlib
import json
import os
import select
import signal
import socket
import sys
import threading
import time
import traceback
from _sitebuiltins import Quitter
from pathlib import Path
from typing import Any, NoReturn

from insula_jail import keeper, machine, probe, walls, watch
from insula_jail.walls import Plan, WallMissing
from insula_jail.worker import serve

WHY_BYTES = 8192
DESCRIPTORS = 3
WATCH_EVERY_S = 0.05
# A scratch folder is counted every so many looks, because it is read file by file.
DISK_EVERY = 4
STACK_BYTES = 1 << 20
# So often a frozen worker may be seen to run, and is stopped again.
MOST_WAKINGS = 2
# Ends of a worker that could not be made one.
NO_WALL, NO_FORK = 70, 71
_SCORE = "1000"


class Worker:
    """A fork: its process, and what is known of it."""

    def __init__(self, number: int, pid: int, use: watch.Use) -> None:
        self.number = number
        self.pid = pid
        self.use = use
        self.handle = os.pidfd_open(pid)
        self.is_watched = False
        self.is_frozen = False
        self.wakings = 0
        self.reason = ""

    def kill(self, reason: str = "") -> None:
        """End it and, where it has them, all its processes."""
        self.reason = self.reason or reason
        self.is_frozen = False
        watch.send(self.pid, signal.SIGKILL)


def main() -> NoReturn:
    """Be the keeper, or the zygote that a keeper of tier A started inside the new root.

    Arguments: the control socket's number; inside also that of a file with the order.
    """
    control = keeper.take_control(int(sys.argv[1]))
    try:
        if len(sys.argv) > 2:
            _live(control, keeper.Order(keeper.read_order(int(sys.argv[2]))))
        keeper.keep(control, _live)
    except WallMissing as missing:
        keeper.say(control, {"t": "refused", "wall": missing.wall, "why": missing.why[:WHY_BYTES]})
    except BaseException:  # noqa: BLE001 - whatever it was, it is told, and nothing goes on
        keeper.say(control, {"t": "failed", "why": traceback.format_exc()[-WHY_BYTES:]})
    os._exit(1)


def _live(control: socket.socket, order: keeper.Order) -> NoReturn:
    machine.prctl(machine.PR_SET_PDEATHSIG, signal.SIGKILL)
    control.set_inheritable(False)
    _prepare(order)
    _volunteer()
    if order.tier == "B" and order.uid_base is not None:
        walls.become_nobody(order.uid_base)
        # The kernel forgot it with the change of the identity.
        machine.prctl(machine.PR_SET_PDEATHSIG, signal.SIGKILL)
    walls.guard_zygote(order.tier, order.readable, order.scratch)
    try:
        _import(order)
    except BaseException:  # noqa: BLE001 - a package may raise anything
        keeper.say(control, {"t": "failed", "why": traceback.format_exc()[-WHY_BYTES:]})
        os._exit(1)
    plan = walls.make_plan(order.tier, order.uid_base, order.limits, order.readable)
    zygote = Zygote(control, plan, order)
    gc.collect()
    gc.freeze()
    zygote.run()


def _prepare(order: keeper.Order) -> None:
    own = str(Path(__file__).parents[1])
    sys.path[:] = [path for path in sys.path if path != own]
    sys.path.extend(order.paths)
    sys.argv[:] = [""]
    os.environ.clear()  # noqa: TID251 - this is the environment that scripts are given
    os.environ.update(keeper.ENVIRONMENT)  # noqa: TID251 - the same
    _settle_in(order.scratch or keeper.ENVIRONMENT["HOME"])
    os.umask(0o022)
    threading.stack_size(STACK_BYTES)
    machine.limit_arenas(keeper.ARENAS)
    # The module ``site``, which is left out, would have defined them.
    vars(builtins)["exit"] = Quitter("exit", "Ctrl-D (i.e. EOF)")
    vars(builtins)["quit"] = Quitter("quit", "Ctrl-D (i.e. EOF)")


def _volunteer() -> None:
    """Be killed before the server, with all workers, when the host is short of memory."""
    descriptor = os.open("/proc/self/oom_score_adj", os.O_WRONLY)
    os.write(descriptor, _SCORE.encode("ascii"))
    os.close(descriptor)


def _settle_in(home: str) -> None:
    os.chdir(home)
    for name in ("HOME", "TMPDIR", "MPLCONFIGDIR"):
        os.environ[name] = home  # noqa: TID251 - this is the environment that scripts are given


def _import(order: keeper.Order) -> None:
    for name in order.preload:
        importlib.import_module(name)


class Zygote:
    """Takes orders, forks, watches and buries, one thing at a time."""

    def __init__(self, control: socket.socket, plan: Plan, order: keeper.Order) -> None:
        self._control = control
        self._plan = plan
        self._scratch = order.scratch
        self._workers: dict[int, Worker] = {}
        self._handles: dict[int, Worker] = {}
        self._pid = os.getpid()
        self._questions = probe.Questions(plan, self._pid, order.host)
        self._poll = select.poll()
        self._pid_namespace = os.open("/proc/self/ns/pid", os.O_RDONLY) if self._is_a else -1
        self._base_kb = watch.memory_kb(self._pid)
        self._next_look = 0.0
        self._looks = 0

    @property
    def _is_a(self) -> bool:
        return self._plan.tier == "A"

    def run(self) -> NoReturn:
        """Test the walls with a first fork, then do as told until the server is gone."""
        self._say(t="ready", walls=self._rehearse(), base_kb=self._base_kb)
        self._poll.register(self._control, select.POLLIN)
        while True:
            for descriptor, _ in self._poll.poll(self._patience_ms()):
                if descriptor == self._control.fileno():
                    self._obey()
                elif worker := self._handles.get(descriptor):
                    self._bury(worker)
            self._look()

    def _say(self, **said: Any) -> None:
        keeper.say(self._control, said)

    def _rehearse(self) -> dict[str, bool]:
        """Raise a worker's walls once and ask from inside whether they hold."""
        ours, theirs = socket.socketpair()
        pid = self._fork()
        if pid == 0:
            self._rehearse_inside(theirs)
        theirs.close()
        with ours, ours.makefile("rb") as told:
            answer = told.read(keeper.DATAGRAM_BYTES)
        os.waitpid(pid, 0)
        if not answer:
            raise WallMissing("worker", "the first worker ended before it could test its walls")
        found: dict[str, Any] = json.loads(answer)
        if "missing" in found:
            raise WallMissing(found["missing"], found["why"])
        return dict(found["walls"])

    def _rehearse_inside(self, told: socket.socket) -> NoReturn:
        try:
            held = self._raise_walls(0, [told.fileno(), 1, 2], self._scratch)
            answer: dict[str, Any] = {"walls": held}
        except WallMissing as missing:
            answer = {"missing": missing.wall, "why": missing.why}
        except BaseException:  # noqa: BLE001 - whatever it was, no wall is known to hold
            why = traceback.format_exc()[-WHY_BYTES:]
            answer = {"missing": "worker", "why": why}
        os.write(keeper.FRAME_FD, json.dumps(answer).encode())
        os._exit(0)

    def _patience_ms(self) -> int | None:
        if not any(worker.is_watched for worker in self._workers.values()):
            return None
        return max(0, round((self._next_look - time.monotonic()) * 1000))

    def _obey(self) -> None:
        message, ancillary, _, _ = self._control.recvmsg(
            keeper.DATAGRAM_BYTES, socket.CMSG_SPACE(DESCRIPTORS * 4), socket.MSG_CMSG_CLOEXEC
        )
        if not message:
            os._exit(0)
        descriptors = _descriptors(ancillary)
        said = json.loads(message)
        if said["t"] == "close":
            os._exit(0)
        if said["t"] == "fork":
            self._start(said["id"], said["scratch"], descriptors)
        elif worker := self._workers.get(said["id"]):
            self._do(said["t"], worker)

    def _do(self, order: str, worker: Worker) -> None:
        if order == "watch":
            worker.is_watched = True
        elif order == "kill":
            worker.kill()
        elif order == "freeze":
            worker.is_frozen = watch.freeze(worker.pid)
            if not worker.is_frozen:
                worker.kill("cpu")
            self._say(t="frozen", id=worker.number)
        elif order == "thaw":
            worker.is_frozen = False
            watch.thaw(worker.pid)
            self._say(t="thawed", id=worker.number)

    def _start(self, number: int, scratch: str | None, descriptors: list[int]) -> None:
        try:
            pid = self._fork()
        except OSError as error:
            traceback.print_exception(type(error), error, None)
            self._report(number, (NO_FORK, None), "", 0, 0)
            return
        else:
            if pid == 0:
                self._become_worker(number, scratch, descriptors)
        finally:
            for descriptor in descriptors:
                os.close(descriptor)
        worker = Worker(number, pid, watch.Use(pid, self._base_kb, scratch))
        self._workers[number] = self._handles[worker.handle] = worker
        self._poll.register(worker.handle, select.POLLIN)

    def _fork(self) -> int:
        """Fork; in tier A the child is the first process of a pid namespace of its own."""
        if not self._is_a:
            return os.fork()
        machine.unshare(machine.CLONE_NEWPID)
        try:
            pid = os.fork()
        except OSError:
            self._take_back_pids()
            raise
        if pid:
            self._take_back_pids()
        return pid

    def _take_back_pids(self) -> None:
        machine.call("setns", self._pid_namespace, machine.CLONE_NEWPID)

    def _become_worker(self, number: int, scratch: str | None, descriptors: list[int]) -> NoReturn:
        try:
            held = self._raise_walls(number, descriptors, scratch)
            serve(keeper.FRAME_FD, held)
        except BaseException:  # noqa: BLE001 - whatever it was, no script runs here
            os.write(2, traceback.format_exc().encode(errors="replace"))
        os._exit(NO_WALL)

    def _raise_walls(
        self, number: int, descriptors: list[int], scratch: str | None
    ) -> dict[str, bool]:
        """Every wall, raised and found to hold; ``WallMissing`` otherwise."""
        machine.prctl(machine.PR_SET_PDEATHSIG, signal.SIGKILL)
        with walls.raising("parent"):
            if os.getppid() != (0 if self._is_a else self._pid):
                raise OSError("the zygote ended meanwhile")
        with walls.raising("descriptors"):
            _take_descriptors(descriptors)
            os.setsid()
        walls.raise_around_worker(self._plan, number, scratch)
        _settle_in(scratch or keeper.ENVIRONMENT["HOME"])
        _reseed()
        held = self._questions.ask()
        missing = [wall for wall, is_up in held.items() if not is_up]
        if missing:
            raise WallMissing(missing[0], f"does not hold: {', '.join(missing)}")
        return held

    def _look(self) -> None:
        """Kill every worker that passed a limit, when it is time to look."""
        now = time.monotonic()
        watched = [worker for worker in self._workers.values() if worker.is_watched]
        if not watched or now < self._next_look:
            return
        self._next_look = now + WATCH_EVERY_S
        self._looks += 1
        for worker in watched:
            reason = worker.use.excess(self._plan.limits)
            if worker.is_frozen and not self._stays_frozen(worker):
                reason = "cpu"
            if not reason and self._looks % DISK_EVERY == 0:
                reason = worker.use.excess_on_disk(self._plan.limits)
            if reason:
                worker.kill(reason)

    def _stays_frozen(self, worker: Worker) -> bool:
        """Whether it is, or was only on its way from a disk to where it stops."""
        if watch.is_frozen(worker.pid):
            return True
        worker.wakings += 1
        return worker.wakings <= MOST_WAKINGS and watch.freeze(worker.pid)

    def _bury(self, worker: Worker) -> None:
        """All its processes are gone: the first one of a pid namespace is the last to end."""
        _, status, used = os.wait4(worker.pid, 0)
        self._poll.unregister(worker.handle)
        os.close(worker.handle)
        del self._workers[worker.number], self._handles[worker.handle]
        code = os.WEXITSTATUS(status) if os.WIFEXITED(status) else None
        number = os.WTERMSIG(status) if os.WIFSIGNALED(status) else None
        # What was killed with the first process was waited for by nobody.
        cpu_ms = max(round((used.ru_utime + used.ru_stime) * 1000), worker.use.cpu_ms)
        if not worker.reason and number is not None and cpu_ms >= self._plan.limits.cpu_s * 1000:
            # The kernel's own limit came before the watchdog's look.
            worker.reason = "cpu"
        peak_kb = worker.use.peak_kb
        self._report(worker.number, (code, number), worker.reason, cpu_ms, peak_kb)

    def _report(
        self,
        number: int,
        end: tuple[int | None, int | None],
        reason: str,
        cpu_ms: int,
        peak_kb: int,
    ) -> None:
        code, by = end
        said = {"code": code, "signal": by, "reason": reason, "cpu_ms": cpu_ms, "peak_kb": peak_kb}
        self._say(t="gone", id=number, **said)


def _descriptors(ancillary: list[tuple[int, int, bytes]]) -> list[int]:
    received = array.array("i")
    for _, kind, data in ancillary:
        if kind == socket.SCM_RIGHTS:
            received.frombytes(data)
    return list(received)


def _take_descriptors(descriptors: list[int]) -> None:
    """Read nothing, write to two pipes, and have the socket for frames in its place."""
    frames, out, err = descriptors
    kept = os.dup(frames), os.dup(out), os.dup(err)
    nothing = os.open("/dev/null", os.O_RDONLY)
    os.dup2(nothing, 0)
    os.dup2(kept[1], 1)
    os.dup2(kept[2], 2)
    os.dup2(kept[0], keeper.FRAME_FD, inheritable=False)


def _reseed() -> None:
    """Give this fork random numbers of its own, where Python has not done so by itself."""
    if "numpy.random" in sys.modules:
        sys.modules["numpy.random"].seed()
