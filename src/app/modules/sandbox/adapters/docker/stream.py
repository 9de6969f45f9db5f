"""The connection to an attached container: an HTTP request that turns into its stdin and stdout."""

import asyncio
from collections import deque
from typing import Final, cast

from app.modules.sandbox.adapters.docker.multiplex import STDOUT, Demultiplexer, StreamBroken

HEAD_LIMIT_BYTES: Final = 65_536
# So much waits here for a reader; the rest waits in the engine, and then in the container.
UNREAD_LIMIT_BYTES: Final = 262_144
STDERR_TAIL_BYTES: Final = 4096
END_OF_HEAD: Final = b"\r\n\r\n"


class AttachRefused(Exception):
    """The engine did not turn the connection over; the text is the head of its answer."""


class AttachedStream(asyncio.Protocol):
    """Reads no further while nobody takes what it has, and so holds up whoever prints."""

    def __init__(self, request: bytes) -> None:
        self.is_ended = False
        self.is_broken = False
        self.upgraded: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._request = request
        self._transport: asyncio.Transport | None = None
        self._head = bytearray()
        self._packets = Demultiplexer()
        self._chunks: deque[bytes] = deque()
        self._unread = 0
        self._stderr = bytearray()
        self._arrived = asyncio.Event()
        self._writable = asyncio.Event()
        self._writable.set()

    @property
    def stderr(self) -> str:
        """The end of what the container's first process wrote to stderr."""
        return self._stderr.decode(errors="replace").strip()

    async def read(self) -> bytes:
        """Some bytes of stdout; none when it has ended."""
        while not self._chunks:
            if self.is_ended:
                return b""
            self._arrived.clear()
            await self._arrived.wait()
        chunk = self._chunks.popleft()
        self._unread -= len(chunk)
        if self._transport is not None and not self.is_ended and self._unread == 0:
            self._transport.resume_reading()
        return chunk

    async def write(self, data: bytes) -> None:
        """Return when the connection has room for more, or is gone."""
        if self._transport is None or self.is_ended:
            return
        self._transport.write(data)
        await self._writable.wait()

    def abort(self) -> None:
        """Let go of it at once; what was not read is lost."""
        self._chunks.clear()
        if self._transport is not None:
            self._transport.abort()
        self._end()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # Not by isinstance: uvloop's transports are no subclasses of asyncio's.
        self._transport = cast(asyncio.Transport, transport)
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        if self.upgraded.done():
            self._take(data)
            return
        self._head += data
        head, end, rest = bytes(self._head).partition(END_OF_HEAD)
        if end and head.split(b" ", 2)[1:2] in ([b"101"], [b"200"]):
            self.upgraded.set_result(None)
            self._take(rest)
        elif end or len(self._head) > HEAD_LIMIT_BYTES:
            self._refuse(head)

    def eof_received(self) -> None:
        self._end()

    def connection_lost(self, _error: Exception | None) -> None:
        self._end()

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def _take(self, data: bytes) -> None:
        try:
            for stream, part in self._packets.feed(data):
                self._keep(stream, part)
        except StreamBroken:
            self.is_broken = True
            self.abort()
            return
        if self._unread > UNREAD_LIMIT_BYTES and self._transport is not None:
            self._transport.pause_reading()

    def _keep(self, stream: int, part: bytes) -> None:
        if stream == STDOUT:
            self._chunks.append(part)
            self._unread += len(part)
            self._arrived.set()
        else:
            self._stderr += part
            del self._stderr[:-STDERR_TAIL_BYTES]

    def _refuse(self, head: bytes) -> None:
        self.upgraded.set_exception(AttachRefused(head[:STDERR_TAIL_BYTES].decode("latin-1")))
        self.abort()

    def _end(self) -> None:
        self.is_ended = True
        if not self.upgraded.done():
            self.upgraded.set_exception(AttachRefused("the connection ended"))
        self._arrived.set()
        self._writable.set()
