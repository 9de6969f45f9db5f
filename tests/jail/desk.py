"""A worker without walls, as a process of its own, and the server's end of its wire."""

import base64
import os
import select
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import insula_jail
from insula_jail import frames

FOLDER = str(Path(insula_jail.__file__).parent.parent)
WITHIN_S = 20.0
LAUNCH = (
    "import sys; sys.path.insert(0, {folder!r}); from insula_jail.worker import serve; {before}; "
    "serve({fd}, {{'landlock': False}})"
)


class Desk:
    """Talks to one worker: sends it frames, gathers what it says and prints."""

    def __init__(self, folder: Path, before: str = "pass") -> None:
        ours, theirs = socket.socketpair()
        code = LAUNCH.format(folder=FOLDER, before=before, fd=theirs.fileno())
        self.process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-X", "utf8", "-B", "-c", code],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            pass_fds=[theirs.fileno()],
            cwd=folder,
            env={},
        )
        theirs.close()
        self.socket = ours
        self.ended: dict[str, Any] = {}
        self._splitter = frames.Splitter(frames.MAX_OUT)
        self._said: list[dict[str, Any]] = []
        self._printed = {self.process.stdout.fileno(): b"", self.process.stderr.fileno(): b""}

    def __enter__(self) -> "Desk":
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()
        self.process.stderr.close()
        self.socket.close()

    @property
    def out(self) -> str:
        return self._printed[self.process.stdout.fileno()].decode()

    @property
    def err(self) -> str:
        return self._printed[self.process.stderr.fileno()].decode()

    def send(self, **frame: Any) -> None:
        self.socket.sendall(frames.encode(frame, frames.MAX_IN))

    def file(self, name: str, data: bytes, *, more: bool = False) -> None:
        self.send(t="file", name=name, data=base64.b64encode(data).decode(), more=more)

    def job(self, code: str, **rest: Any) -> None:
        job = {"t": "job", "code": code, "settings": {}, "memory": {}, "limits": {}}
        self.send(**{**job, **rest})

    def hear(self, kind: str) -> dict[str, Any]:
        """The next frame, which must be of this kind."""
        found = self.listen()
        assert found is not None, f"gone without {kind}: {self.err}"
        assert found["t"] == kind, found
        return found

    def listen(self) -> dict[str, Any] | None:
        """The next frame, or ``None`` when the worker is gone."""
        deadline = time.monotonic() + WITHIN_S
        while not self._said:
            assert time.monotonic() < deadline, "the worker says nothing"
            if not self._take():
                return None
        self._drain()
        return self._said.pop(0)

    def done(self) -> dict[str, Any]:
        """The end of the job, and of the process."""
        found = self.hear("done")
        assert self.listen() is None
        self.process.wait(WITHIN_S)
        return found

    def gone(self) -> int:
        """Wait for an end without a frame; the exit code, negative for a signal."""
        assert self.listen() is None
        self._drain()
        return self.process.wait(WITHIN_S)

    def run(self, code: str, **rest: Any) -> "Desk":
        """Have it run a script that ends with ``done``, and keep that."""
        self.hear("ready")
        self.job(code, **rest)
        self.ended = self.done()
        return self

    def await_output(self, text: str) -> None:
        """Wait until the script has printed this and nothing else."""
        deadline = time.monotonic() + WITHIN_S
        while self.out != text:
            assert time.monotonic() < deadline, self.out
            select.select([*self._printed], [], [], 0.2)
            self._drain()

    def _take(self) -> bool:
        ready, _, _ = select.select([self.socket, *self._printed], [], [], 0.2)
        self._drain()
        if self.socket not in ready:
            return True
        try:
            data = self.socket.recv(1 << 16)
        except ConnectionResetError:
            data = b""
        self._drain()
        self._said += [frames.decode(payload) for payload in self._splitter.feed(data)]
        return bool(data)

    def _drain(self) -> None:
        for fd in self._printed:
            while select.select([fd], [], [], 0)[0]:
                data = os.read(fd, 1 << 16)
                if not data:
                    break
                self._printed[fd] += data


def attempt(expression: str) -> str:
    """A script that prints which error an expression raises."""
    return (
        f"try:\n    {expression}\nexcept Exception as error:\n"
        "    print(type(error).__name__, error, sep='|', end='')\n"
    )
