"""A worker of the jail, heard over one socket of frames and two pipes of output.

Nothing is read while nobody asks, so that unread output waits in the kernel, and its writer there.
"""

import asyncio
import os
import select
import socket
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack, suppress
from typing import Any, Final, Literal

import msgspec

from app.kernel.errors import TooLarge
from app.modules.sandbox.adapters.jail.control import Answer, Freeze, Kill, Order, Thaw, Watch
from app.modules.sandbox.ports import Gone, Printed, Reason, Said, WorkerEvent, WorkerFailed
from insula_jail.frames import MAX_IN, MAX_OUT, BadFrame, Splitter, encode

# What is read at once of one descriptor, before others have their turn.
CHUNK_BYTES: Final = 65_536
# Before a frame is given on, so much is read of each pipe: as much as a script can make one hold.
PIPE_LIMIT_BYTES: Final = 1_048_576
# How often a dead worker's socket is read, until what its kernel buffer can hold is out.
REMAINS_ROUNDS: Final = 128
# Of what a worker prints that ends before it is ready.
PRINTED_TAIL_BYTES: Final = 2000
# A worker that has closed its socket is about to end; one that lives on is of no use.
HANG_UP_S: Final = 1.0
ANSWER_S: Final = 5.0
KILL_S: Final = 10.0


class NotReady(WorkerFailed):
    """The worker did not say that its walls stand."""


class _Ready(msgspec.Struct, frozen=True, tag_field="t", tag="ready"):
    walls: dict[str, bool]


class Ends:
    """The server's ends of a worker's three descriptors, and for a moment the worker's own."""

    def __init__(self) -> None:
        with ExitStack() as undo:
            self.frames, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
            undo.callback(self.frames.close)
            undo.callback(theirs.close)
            self.frames.settimeout(0)
            self.stdout, stdout = _pipe(undo)
            self.stderr, stderr = _pipe(undo)
            # One descriptor for the event loop to look at, and off, in place of three.
            self.any = select.epoll()
            undo.callback(self.any.close)
            for descriptor in (self.frames.fileno(), self.stdout, self.stderr):
                self.any.register(descriptor, select.EPOLLIN)
            undo.pop_all()
        self.theirs = (theirs.detach(), stdout, stderr)

    def close_theirs(self) -> None:
        for descriptor in self.theirs:
            os.close(descriptor)


class JailWorker:
    """One reader at a time; what it leaves off, the next one goes on with.

    The descriptors are open until the worker is gone. What is then unread is kept here, which is
    not more than the kernel held.
    """

    def __init__(
        self,
        number: int,
        ends: Ends,
        tell: Callable[[Order], None],
        give_up: Callable[[], None],
    ) -> None:
        """``give_up`` is called when it cannot be killed: then the whole zygote has to go."""
        self.is_gone = False
        self.walls: dict[str, bool] = {}
        self._number = number
        self._loop = asyncio.get_running_loop()
        self._tell = tell
        self._give_up = give_up
        self._socket = ends.frames
        self._pipes = (_Pipe("stdout", ends.stdout), _Pipe("stderr", ends.stderr))
        self._splitter = Splitter(MAX_OUT)
        self._heard: deque[WorkerEvent] = deque()
        self._waiter: asyncio.Future[None] | None = None
        self._any = ends.any
        self._answers: dict[Answer, asyncio.Future[None]] = {}
        self._timers: list[asyncio.TimerHandle] = []
        self._fault: Reason = ""
        self._is_deaf = False
        self._is_killed = False
        self._is_sending = False

    async def send(self, frame: dict[str, Any]) -> None:
        """One at a time. ``TooLarge`` if it is no frame that a worker would take."""
        try:
            data = encode(frame, MAX_IN)
        except BadFrame as error:
            raise TooLarge(str(error)) from error
        if self.is_gone:
            return
        if frame["t"] == "job":
            self._tell(Watch(self._number))
        self._is_sending = True
        try:
            await self._loop.sock_sendall(self._socket, data)
        except OSError:
            # It is dying; its last event says so.
            return
        finally:
            self._is_sending = False
            if self.is_gone:
                self._socket.close()

    def events(self) -> AsyncIterator[WorkerEvent]:
        return self

    def __aiter__(self) -> AsyncIterator[WorkerEvent]:
        return self

    async def __anext__(self) -> WorkerEvent:
        while not self._heard:
            if self.is_gone:
                raise StopAsyncIteration
            if not self._read():
                await self._until_readable()
        return self._heard.popleft()

    async def until_ready(self, within_s: float) -> None:
        """Return when it has tested its walls, and all of them stand; else ``NotReady``."""
        try:
            async with asyncio.timeout(within_s):
                frame = await self._first_frame()
            self.walls = msgspec.json.decode(frame, type=_Ready).walls
        except TimeoutError:
            raise NotReady(f"The worker was not ready within {within_s:g} s.") from None
        except msgspec.DecodeError as error:
            raise NotReady(f"The worker did not say that it is ready: {error}.") from None
        if missing := [name for name, is_up in self.walls.items() if not is_up]:
            raise NotReady(f"The worker found walls missing: {', '.join(missing)}.")

    async def freeze(self) -> None:
        await self._ask(Freeze(self._number), "frozen")

    async def thaw(self) -> None:
        await self._ask(Thaw(self._number), "thawed")

    def kill(self) -> None:
        if self.is_gone or self._is_killed:
            return
        self._is_killed = True
        self._tell(Kill(self._number))
        self._timers.append(self._loop.call_later(KILL_S, self._give_up))

    def answered(self, answer: Answer) -> None:
        """The zygote has done what it was asked."""
        if (waiting := self._answers.get(answer)) and not waiting.done():
            waiting.set_result(None)

    def ended(self, gone: Gone) -> None:
        """All its processes have ended: nothing is added to what the kernel holds."""
        if self.is_gone:
            return
        self._unwatch()
        for _ in range(REMAINS_ROUNDS):
            if not self._read():
                break
        self.is_gone = True
        self._heard.append(msgspec.structs.replace(gone, reason=gone.reason or self._fault))
        for answer in tuple(self._answers):
            self.answered(answer)
        self._close()
        self._wake()

    async def _first_frame(self) -> bytes:
        printed = bytearray()
        async for event in self:
            if isinstance(event, Said):
                return event.frame
            if isinstance(event, Printed):
                printed += event.data
                del printed[:-PRINTED_TAIL_BYTES]
        text = printed.decode(errors="replace").strip()
        raise NotReady(f"The worker ended before it was ready. {text}".strip())

    async def _ask(self, order: Order, answer: Answer) -> None:
        """Return when it is done. Who does not obey in time is killed."""
        if self.is_gone:
            return
        self._answers[answer] = waiting = self._loop.create_future()
        self._tell(order)
        try:
            async with asyncio.timeout(ANSWER_S):
                await waiting
        except TimeoutError:
            self.kill()
        finally:
            self._answers.pop(answer, None)

    def _read(self) -> bool:
        """Take what is there, and say whether anything was.

        Output that was written before a frame is in its pipe when the frame is in the socket. So
        the socket is looked at first, and what it had is put behind what the pipes have.
        """
        data = self._receive()
        limit_bytes = PIPE_LIMIT_BYTES if data else CHUNK_BYTES
        before = len(self._heard)
        for pipe in self._pipes:
            self._heard.extend(pipe.take(limit_bytes))
        if data:
            self._heard.extend(self._frames(data))
        return bool(data) or len(self._heard) > before

    def _frames(self, data: bytes) -> list[Said]:
        try:
            return [Said(frame) for frame in self._splitter.feed(data)]
        except BadFrame:
            self._stop_listening()
            self._break_off()
            return []

    def _stop_listening(self) -> None:
        self._is_deaf = True
        self._any.unregister(self._socket)

    def _receive(self) -> bytes:
        if self._is_deaf:
            return b""
        try:
            data = self._socket.recv(CHUNK_BYTES)
        except BlockingIOError:
            return b""
        except OSError:
            data = b""
        if not data:
            self._stop_listening()
            self._timers.append(self._loop.call_later(HANG_UP_S, self._break_off))
        return data

    def _break_off(self) -> None:
        if not self._is_killed:
            self._fault = "protocol"
            self.kill()

    async def _until_readable(self) -> None:
        self._waiter = self._loop.create_future()
        self._loop.add_reader(self._any.fileno(), self._wake)
        try:
            await self._waiter
        finally:
            self._unwatch()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _unwatch(self) -> None:
        if not self._any.closed:
            self._loop.remove_reader(self._any.fileno())

    def _close(self) -> None:
        for timer in self._timers:
            timer.cancel()
        self._any.close()
        for pipe in self._pipes:
            pipe.close()
        with suppress(OSError):
            # Somebody may be in the middle of sending: that ends now, and closes the socket.
            self._socket.shutdown(socket.SHUT_RDWR)
        if not self._is_sending:
            self._socket.close()


class _Pipe:
    """The read end of what a script prints to."""

    def __init__(self, stream: Literal["stdout", "stderr"], descriptor: int) -> None:
        self.descriptor = descriptor
        self.is_open = True
        self._stream = stream

    def take(self, limit_bytes: int) -> list[Printed]:
        """What is in it, and not much more than ``limit_bytes``."""
        taken: list[Printed] = []
        data = b"-"
        while self.is_open and limit_bytes > 0:
            try:
                data = os.read(self.descriptor, CHUNK_BYTES)
            except BlockingIOError:
                break
            if not data:
                self.close()
                break
            taken.append(Printed(self._stream, data))
            limit_bytes -= len(data)
            # A short read has emptied it.
            if len(data) < CHUNK_BYTES:
                break
        return taken

    def close(self) -> None:
        if self.is_open:
            self.is_open = False
            os.close(self.descriptor)


def _pipe(undo: ExitStack) -> tuple[int, int]:
    """A pipe of which the end to read from does not block."""
    reading, writing = os.pipe()
    undo.callback(os.close, reading)
    undo.callback(os.close, writing)
    os.set_blocking(reading, False)
    return reading, writing
