"""The keeper: what the server starts. It leaves the host and has a zygote started behind walls.

It ends the zygote as soon as the server is gone, whatever the zygote is doing then.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from insula_jail import machine, probe, root, walls
from insula_jail.walls import Limits, WallMissing

DATAGRAM_BYTES = 65_536
FRAME_FD = 3
# Each reserves address space that counts as memory.
ARENAS = 2

ENVIRONMENT = {
    "HOME": "/tmp",  # noqa: S108 - the worker's own
    "TMPDIR": "/tmp",  # noqa: S108 - the worker's own
    "MPLCONFIGDIR": "/tmp",  # noqa: S108 - the worker's own
    "PATH": "/usr/local/bin:/usr/bin:/bin",
    "LANG": "C.UTF-8",
    "USER": "sandbox",
    "OPENBLAS_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    "MALLOC_ARENA_MAX": str(ARENAS),
}


class Order:
    """The first message of the server: what the zygote is to be."""

    def __init__(self, text: str) -> None:
        said: dict[str, Any] = json.loads(text)
        self.tier: str = said["tier"]
        self.binds = [root.Bind(source, target) for source, target in said["binds"]]
        self.paths: list[str] = said["paths"]
        self.preload: list[str] = said["preload"]
        self.limits = Limits(*[int(said["limits"][name]) for name in Limits._fields])
        self.uid_base: int | None = said["uid_base"]
        self.scratch: str | None = said["scratch"]
        # Added by the keeper for the zygote inside.
        self.host: dict[str, int] = said.get("host", {})

    @property
    def readable(self) -> tuple[str, ...]:
        return tuple(bind.target for bind in self.binds)


def take_control(number: int) -> socket.socket:
    """Have the control socket where a worker has its frames: no worker can keep it."""
    if number != FRAME_FD:
        os.dup2(number, FRAME_FD, inheritable=False)
        os.close(number)
    return socket.socket(fileno=FRAME_FD)


def say(control: socket.socket, said: dict[str, Any]) -> None:
    try:
        control.send(json.dumps(said).encode())
    except (BrokenPipeError, ConnectionResetError):
        # Nobody is left to hear anything.
        os._exit(0)


def keep(control: socket.socket, live: Callable[[socket.socket, Order], NoReturn]) -> NoReturn:
    """Do what the server's first message says, until the zygote or the server is gone.

    ``live``: what a zygote does that needs no root of its own. ``WallMissing`` when it may not.
    """
    text = control.recv(DATAGRAM_BYTES).decode()
    if not text:
        os._exit(0)
    with walls.raising("architecture"):
        machine.this_machine()
    order = Order(text)
    if (os.geteuid() == 0) != (order.uid_base is not None):
        raise WallMissing("identity", "uid_base is for a server that is root, and needed there")
    own = root.Bind(str(Path(__file__).parent), f"{root.PACKAGE_ROOT}/{__package__}")
    place = ""
    if order.tier == "A":
        with walls.raising("namespaces"):
            text = json.dumps({**json.loads(text), "host": probe.namespaces()})
        place = walls.enter_namespaces([*order.binds, own], order.uid_base)
    pid = os.fork()
    if pid == 0:
        machine.prctl(machine.PR_SET_PDEATHSIG, signal.SIGKILL)
        if order.tier == "A":
            walls.enter_root(place)
            _start_inside(control, text)
        live(control, order)
    os._exit(_await_either(control, pid))


def _start_inside(control: socket.socket, text: str) -> NoReturn:
    """Start Python anew: nothing of the host is left in the memory of what imports packages."""
    told = os.memfd_create("order")
    os.write(told, text.encode())
    os.lseek(told, 0, os.SEEK_SET)
    for descriptor in (told, control.fileno()):
        os.set_inheritable(descriptor, True)  # noqa: FBT003 - that is how it is called
    start = (
        f"import sys; sys.path.insert(0, {root.PACKAGE_ROOT!r}); "
        "from insula_jail.zygote import main; main()"
    )
    program = os.path.realpath(sys.executable)
    flags = ["-I", "-S", "-X", "utf8", "-B", "-c", start]
    arguments = [program, *flags, str(control.fileno()), str(told)]
    with walls.raising("root"):
        os.execve(program, arguments, ENVIRONMENT)  # noqa: S606 - no shell is wanted


def read_order(descriptor: int) -> str:
    """What the keeper left there for the zygote inside."""
    with open(descriptor, encoding="utf-8") as told:
        return told.read()


def _await_either(control: socket.socket, pid: int) -> int:
    """Return 0 when the zygote has ended well, or was ended because the server is gone."""
    child = os.pidfd_open(pid)
    poll = select.poll()
    # The server's end is noticed even while the zygote imports without end.
    poll.register(control, 0)
    poll.register(child, select.POLLIN)
    is_orphaned = any(descriptor != child for descriptor, _ in poll.poll())
    if is_orphaned:
        os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    return 0 if is_orphaned or status == 0 else 1
