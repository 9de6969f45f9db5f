"""Real zygotes, spoken to over the real protocol, as root and as a plain user, in every tier."""

import array
import contextlib
import functools
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeAlias

import pytest

import insula_jail
from app.modules.sandbox.adapters.jail.scratch import remove_tree
from insula_jail import probe
from insula_jail.frames import MAX_OUT, Splitter, encode

Binds: TypeAlias = tuple[tuple[str, str], ...]

KINDS = ("A-root", "A-user", "B-root", "B-user")
UID_BASE = 500_000
PLAIN_UID = 65_534
ANSWER_S = 20.0
LIMITS = {
    "wall_s": 60,
    "cpu_s": 30,
    "memory_mb": 256,
    "processes": 16,
    "files": 64,
    "file_mb": 8,
    "disk_mb": 16,
    "inodes": 256,
}
JOB_LIMITS = {
    "result_kb": 64,
    "memory_state_kb": 64,
    "prompt_kb": 64,
    "llm_calls": 1,
    "artifacts": 1,
    "artifact_mb": 1,
}


class Jailed:
    """A worker: its socket for frames, and the ends of what it prints."""

    def __init__(self, number: int, scratch: str | None) -> None:
        self.number = number
        self.scratch = scratch
        self._frames, theirs = socket.socketpair()
        self._frames.settimeout(ANSWER_S)
        self._out, out = os.pipe()
        self._err, err = os.pipe()
        self.theirs = (theirs.detach(), out, err)
        self._splitter = Splitter(MAX_OUT)
        self._found: list[bytes] = []

    def hear(self) -> dict[str, Any]:
        while not self._found:
            data = self._frames.recv(65_536)
            if not data:
                raise EOFError(os.read(self._err, 65_536).decode())
            self._found = self._splitter.feed(data)
        frame: dict[str, Any] = json.loads(self._found.pop(0))
        return frame

    def start(self, code: str) -> None:
        job = {"t": "job", "code": code, "settings": {}, "memory": {}, "limits": JOB_LIMITS}
        self._frames.sendall(encode(job))

    def run(self, code: str) -> dict[str, Any]:
        self.start(code)
        return self.hear()

    def printed(self) -> str:
        return os.read(self._out, 65_536).decode()

    def close(self) -> None:
        self._frames.close()
        os.close(self._out)
        os.close(self._err)


class Zygote:
    """A zygote's process and the server's end of its control socket."""

    def __init__(
        self, process: subprocess.Popen[bytes], control: socket.socket, room: Path
    ) -> None:
        self.process = process
        self._control = control
        self._room = room
        self._workers: dict[int, Jailed] = {}
        self._gone: set[int] = set()
        self._uid: int | None = None
        self._is_b = False
        self.first: dict[str, Any] = {}

    def open(self, kind: str, python: str, binds: Binds, **said: Any) -> None:
        self._is_b = kind.startswith("B")
        self._uid = UID_BASE if is_root(kind) else None
        prefix = _prefix(python)
        self.tell(
            t="open",
            tier=kind[0],
            binds=[*binds] if prefix == "/usr" else [*binds, (prefix, prefix)],
            paths=[],
            **said,
            uid_base=self._uid,
            scratch=str(self._room) if self._is_b else None,
        )
        self.first = self.hear()

    def tell(self, *descriptors: int, **said: Any) -> None:
        passed = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))]
        self._control.sendmsg([json.dumps(said).encode()], passed if descriptors else [])

    def hear(self) -> dict[str, Any]:
        datagram = self._control.recv(65_536)
        if not datagram:
            raise EOFError("the zygote is gone")
        said: dict[str, Any] = json.loads(datagram)
        if said["t"] == "gone":
            self._gone.add(said["id"])
        return said

    def settle(self) -> None:
        """End every worker, and leave nothing of them."""
        for number in self._workers.keys() - self._gone:
            self.tell(t="kill", id=number)
        while self._workers.keys() - self._gone:
            self.hear()
        for worker in self._workers.values():
            worker.close()
            if worker.scratch is not None:
                remove_tree(Path(worker.scratch))
        self._workers.clear()
        self._gone.clear()

    def fork(self, number: int = 1) -> Jailed:
        """A worker that was told to begin; its first frame is ``ready``."""
        worker = Jailed(number, self._scratch_of(number))
        self._workers[number] = worker
        self.tell(*worker.theirs, t="fork", id=number, scratch=worker.scratch)
        for descriptor in worker.theirs:
            os.close(descriptor)
        return worker

    def ready(self, number: int = 1) -> Jailed:
        """A worker that is ready and watched."""
        worker = self.fork(number)
        assert worker.hear()["t"] == "ready"
        self.tell(t="watch", id=number)
        return worker

    def close_control(self) -> None:
        self._control.close()

    def close(self) -> None:
        self.close_control()
        self.process.wait(ANSWER_S)
        for worker in self._workers.values():
            worker.close()

    def _scratch_of(self, number: int) -> str | None:
        if not self._is_b:
            return None
        folder = self._room / str(number)
        folder.mkdir(mode=0o700)
        if os.geteuid() == 0:
            owner = (PLAIN_UID, PLAIN_UID)
            if self._uid is not None:
                owner = (self._uid + number, self._uid)
            os.chown(folder, *owner)
        return str(folder)


class Zygotes(contextlib.ExitStack):
    """One zygote of each kind, started when it is first asked for."""

    def __init__(self) -> None:
        super().__init__()
        self._started: dict[str, Zygote] = {}

    def of(self, kind: str) -> Zygote:
        if kind not in self._started:
            self._started[kind] = self.enter_context(zygote(kind))
        return self._started[kind]


def is_root(kind: str) -> bool:
    return kind.endswith("root")


@contextlib.contextmanager
def zygote(
    kind: str,
    *,
    binds: Binds = (),
    preload: tuple[str, ...] = (),
    before: str = "",
    **limits: int,
) -> Iterator[Zygote]:
    """A zygote of ``kind``, or a skip that says why this machine has none.

    ``before``: what its interpreter runs before it becomes the keeper.
    """
    if sys.platform != "linux":
        pytest.skip("a jail is made of Linux")
    if is_root(kind) and os.geteuid() != 0:
        pytest.skip("these tests do not run as root")
    as_other = PLAIN_UID if not is_root(kind) and os.geteuid() == 0 else None
    python = _python_for(kind, as_other)
    with _public_folder() as folder:
        room = folder / "room"
        room.mkdir(mode=0o755)
        if as_other is not None:
            os.chown(room, as_other, as_other)
        started = _start(python, folder, as_other, before, room)
        try:
            started.open(kind, python, binds, preload=preload, limits=LIMITS | limits)
            is_expected = before or binds
            if started.first["t"] == "refused" and not is_expected and not _offers(kind):
                pytest.skip(f"this machine refuses tier {kind[0]}: {started.first['why']}")
            yield started
        finally:
            started.close()


def _start(python: str, folder: Path, uid: int | None, before: str, room: Path) -> Zygote:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.settimeout(ANSWER_S)
    code = (
        f"import sys; sys.path.insert(0, {str(folder)!r})\n{before}\n"
        "from insula_jail.zygote import main; main()"
    )
    process = subprocess.Popen(
        [python, "-I", "-S", "-X", "utf8", "-B", "-c", code, str(theirs.fileno())],
        env={},
        pass_fds=[theirs.fileno()],
        stdin=subprocess.DEVNULL,
        cwd="/",
        start_new_session=True,
        user=uid,
        group=uid,
        extra_groups=None if uid is None else [],
    )
    theirs.close()
    return Zygote(process, ours, room)


@contextlib.contextmanager
def _public_folder() -> Iterator[Path]:
    """A folder that any user can read, with the jail's own files in it."""
    folder = Path(tempfile.mkdtemp(prefix="insula-jail-"))
    try:
        folder.chmod(0o755)
        package = Path(insula_jail.__file__).parent
        shutil.copytree(
            package, folder / package.name, ignore=shutil.ignore_patterns("__pycache__")
        )
        yield folder
    finally:
        remove_tree(folder)


@functools.cache
def _offers(kind: str) -> bool:
    needed = {"A": {"namespaces", "landlock", "seccomp"}, "B": {"landlock", "seccomp"}}
    found = {finding["name"] for finding in probe.host_report() if finding["is_up"]}
    return needed[kind[0]] <= found


def _python_for(kind: str, uid: int | None) -> str:
    """An interpreter that the workers' users may read, or a skip."""
    own = os.path.realpath(sys.executable)
    if kind == "A-root":
        return own
    reader = PLAIN_UID if os.geteuid() == 0 else uid
    for python in (own, "/usr/bin/python3"):
        if _runs_as(python, reader):
            return python
    pytest.skip("no Python here can be read by another user")


@functools.cache
def _runs_as(python: str, uid: int | None) -> bool:
    command = [python, "-I", "-S", "-c", "import sys; assert sys.version_info >= (3, 9)"]
    groups: Any = None if uid is None else []
    try:
        ended = subprocess.run(
            command, user=uid, group=uid, extra_groups=groups, cwd="/", check=False
        )
    except OSError:
        return False
    return ended.returncode == 0


@functools.cache
def _prefix(python: str) -> str:
    command = [python, "-I", "-S", "-c", "import sys; print(sys.base_prefix)"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def descendants(first: int) -> set[int]:
    """Every process below ``first``, as the host sees it."""
    found: set[int] = set()
    left = [first]
    while left:
        below = [pid for pid in _children(left.pop()) if pid not in found]
        found.update(below)
        left.extend(below)
    return found


def _children(pid: int) -> list[int]:
    children: list[int] = []
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            with contextlib.suppress(OSError):
                children += [int(child) for child in (task / "children").read_text().split()]
    return children


def workers_of(jail: Zygote) -> set[int]:
    """The workers' processes: all below the keeper but the zygote itself, its only child."""
    return descendants(jail.process.pid) - {*_children(jail.process.pid)}


def is_alive(pid: int) -> bool:
    """Whether it runs; what has ended may wait long for somebody to take note of it."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
