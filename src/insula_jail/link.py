"""The worker's end of the wire, which the threads of a script share."""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # no stubs
import builtins
from collections import deque
from collections.abc import Iterable
from os import _exit
from os import close as _close
from signal import SIG_BLOCK, SIG_SETMASK, valid_signals
from threading import Lock
from typing import Any

from insula_jail import frames

# A script may replace what it finds in ``builtins``; this file keeps what was there before.
globals()["__builtins__"] = dict(vars(builtins))

# The exit code of a worker whose server is gone.
LOST = 70
ALL_SIGNALS = valid_signals()
# The one of ``signal`` is Python code around it, which fails when a script has replaced builtins.
mask_signals: Any = _signal.pthread_sigmask


class Link:
    """The worker's end of the wire. Any thread may send; one at a time may wait."""

    __slots__ = ("_fd", "_reader", "_writing")

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._reader = frames.Reader(fd, frames.MAX_IN)
        self._writing = Lock()

    @property
    def is_cut(self) -> bool:
        """Whether this process is a copy that the script made of its own."""
        return self._fd < 0

    def cut(self) -> None:
        """Let go of the wire, which belongs to the process that this one is a copy of."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            _close(fd)

    def send(self, messages: Iterable[bytes]) -> None:
        """Send frames with nothing between them."""
        with self._writing:
            # A signal handler of the script that raises would leave half a frame.
            before = mask_signals(SIG_BLOCK, ALL_SIGNALS)
            try:
                for message in messages:
                    frames.write(self._fd, message)
            finally:
                mask_signals(SIG_SETMASK, before)

    def receive(self) -> dict[str, Any]:
        """Wait for a frame. The process ends when the server says so, or is there no more."""
        payload = self._reader.next()
        if payload is None:
            _exit(LOST)
        frame = frames.decode(payload)
        if frame["t"] == "close":
            _exit(0)
        return frame


class Turn:
    """A lock that threads get in the order in which they came."""

    __slots__ = ("_guard", "_queue")

    def __init__(self) -> None:
        self._guard = Lock()
        self._queue: deque[Lock] = deque()

    def __enter__(self) -> None:
        mine = Lock()
        with self._guard:
            if self._queue:
                mine.acquire()
            self._queue.append(mine)
        try:
            mine.acquire()
        except BaseException:
            self._leave(mine)
            raise

    def __exit__(self, *exc_info: object) -> None:
        with self._guard:
            mine = self._queue[0]
        self._leave(mine)

    def _leave(self, mine: Lock) -> None:
        with self._guard:
            was_first = self._queue[0] is mine
            self._queue.remove(mine)
            if was_first and self._queue:
                self._queue[0].release()
