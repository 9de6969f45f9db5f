"""A child process that is asked over a socket of datagrams, and the end of whose log is kept."""

import asyncio
import os
import socket
import subprocess
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Final

from app.modules.sandbox.adapters.jail.control import DATAGRAM_LIMIT_BYTES

LOG_LIMIT_BYTES: Final = 65_536
# What is read at once of the log, and so many messages, before others have their turn.
LOG_CHUNK_BYTES: Final = 65_536
MESSAGES_A_ROUND: Final = 64
# A process that leaves so many orders unread does not work any more.
UNSENT_LIMIT: Final = 4096


class Child:
    """Runs from its creation to ``ended``, which is called once, after the last ``heard``.

    It is started from the event loop's thread: the kernel's signal at the death of a parent means
    the thread that has forked.
    """

    def __init__(
        self,
        command: Callable[[int], list[str]],
        heard: Callable[[bytes], None],
        ended: Callable[[], None],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._heard = heard
        self._ended = ended
        self._log = bytearray()
        self._unsent: deque[tuple[bytes, tuple[int, ...]]] = deque()
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._control.settimeout(0)
        try:
            with theirs:
                self._process = _start(command, theirs)
        except OSError:
            self._control.close()
            raise
        assert self._process.stdout is not None  # noqa: S101 - it was asked for
        self._output = self._process.stdout
        os.set_blocking(self._output.fileno(), False)
        self._exit = os.pidfd_open(self._process.pid)
        self._loop.add_reader(self._control.fileno(), self._read_control)
        self._loop.add_reader(self._output.fileno(), self._read_log)
        self._loop.add_reader(self._exit, self._reap)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def log(self) -> str:
        """The end of what it wrote."""
        return self._log.decode(errors="replace").strip()

    def tell(self, message: bytes, files: tuple[int, ...] = ()) -> None:
        """Send in the order of telling, without waiting. ``files`` are taken over and closed."""
        if self._exit < 0 or self._unsent or not self._try_sending(message, files):
            self._put_off(message, files)

    def kill(self) -> None:
        """End it at once; killing what has ended is fine."""
        if self._exit >= 0:
            self._process.kill()

    def _put_off(self, message: bytes, files: tuple[int, ...]) -> None:
        if self._exit < 0:
            _close(files)
            return
        if not self._unsent:
            self._loop.add_writer(self._control.fileno(), self._send_rest)
        self._unsent.append((message, files))
        if len(self._unsent) > UNSENT_LIMIT:
            self.kill()

    def _send_rest(self) -> None:
        while self._unsent and self._try_sending(*self._unsent[0]):
            self._unsent.popleft()
        if not self._unsent:
            self._loop.remove_writer(self._control.fileno())

    def _try_sending(self, message: bytes, files: tuple[int, ...]) -> bool:
        """Whether it needs no further try: it is sent, or cannot be."""
        try:
            socket.send_fds(self._control, [message], files)
        except BlockingIOError:
            return False
        except OSError:
            # It is dead or dying, or cannot be sent what it needs: nothing good will come of it.
            self.kill()
        _close(files)
        return True

    def _read_control(self) -> None:
        for _ in range(MESSAGES_A_ROUND):
            try:
                message = self._control.recv(DATAGRAM_LIMIT_BYTES)
            except BlockingIOError:
                return
            except OSError:
                message = b""
            if not message:
                # Nobody can ask it anything any more.
                self._loop.remove_reader(self._control.fileno())
                self.kill()
                return
            self._heard(message)

    def _read_log(self) -> None:
        with suppress(BlockingIOError):
            data = os.read(self._output.fileno(), LOG_CHUNK_BYTES)
            if not data:
                self._loop.remove_reader(self._output.fileno())
            self._log += data
            del self._log[:-LOG_LIMIT_BYTES]

    def _reap(self) -> None:
        self._read_control()
        self._read_log()
        self._process.wait()
        for file in (self._control.fileno(), self._output.fileno(), self._exit):
            self._loop.remove_reader(file)
        self._loop.remove_writer(self._control.fileno())
        os.close(self._exit)
        self._exit = -1
        self._control.close()
        self._output.close()
        for _, files in self._unsent:
            _close(files)
        self._unsent.clear()
        self._ended()


def _start(command: Callable[[int], list[str]], control: socket.socket) -> subprocess.Popen[bytes]:
    return subprocess.Popen(  # noqa: S603 - our own interpreter and our own code
        command(control.fileno()),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        bufsize=0,
        pass_fds=(control.fileno(),),
        close_fds=True,
        start_new_session=True,
        cwd="/",
        env={},
        # What the server writes is its own; the folders of a jail's root are for others to enter.
        umask=0o022,
    )


def _close(files: Sequence[int]) -> None:
    for file in files:
        os.close(file)
