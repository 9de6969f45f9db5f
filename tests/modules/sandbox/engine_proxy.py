"""A way to a Docker engine that a test can hold up, cut into bytes, bend and break."""

import asyncio
from collections import deque
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

PIECE_BYTES = 65_536


class EngineProxy:
    """Listens on a socket of its own and passes on what comes, unless told otherwise.

    ``refusals``: by method, the statuses that the next requests are answered with instead.
    ``attached``: where bytes can be slipped in after those of an attached container.
    """

    def __init__(self, folder: Path, engine_host: str) -> None:
        self.path = folder / "proxy.sock"
        self.host = f"unix://{self.path}"
        self.refusals: dict[bytes, deque[int]] = {}
        self.attached: list[asyncio.StreamWriter] = []
        self.piece_bytes = PIECE_BYTES
        self._engine_path = engine_host.removeprefix("unix://")
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._server: asyncio.Server | None = None
        self._passing: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        await self.mend()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.cut()

    async def mend(self) -> None:
        """Listen."""
        self._server = await asyncio.start_unix_server(self._serve, self.path)

    async def cut(self) -> None:
        """End every connection and take no more."""
        if self._server is not None:
            self._server.close()
        self.path.unlink(missing_ok=True)
        passing = list(self._passing)
        for task in passing:
            task.cancel()
        await asyncio.gather(*passing, return_exceptions=True)

    def hold(self) -> None:
        """Pass nothing on, in either direction, until released."""
        self._flowing.clear()

    def release(self) -> None:
        self._flowing.set()

    def straighten(self) -> None:
        """Pass on everything as it is."""
        self.piece_bytes = PIECE_BYTES
        self.refusals.clear()
        self.release()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._passing.add(task)
        try:
            with suppress(OSError, asyncio.CancelledError):
                await self._join(reader, writer)
        finally:
            self._passing.discard(task)
            writer.transport.abort()

    async def _join(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        engine_reader, engine_writer = await asyncio.open_unix_connection(self._engine_path)
        back = asyncio.create_task(self._pass_back(engine_reader, writer))
        try:
            while data := await reader.read(PIECE_BYTES):
                await self._flowing.wait()
                if b"/attach?" in data:
                    self.attached.append(writer)
                statuses = self.refusals.get(data.split(b" ", 1)[0])
                if statuses:
                    writer.write(_refusal(statuses.popleft()))
                else:
                    engine_writer.write(data)
        finally:
            engine_writer.transport.abort()
            back.cancel()
            await asyncio.gather(back, return_exceptions=True)

    async def _pass_back(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(self.piece_bytes):
            await self._flowing.wait()
            writer.write(data)
            await writer.drain()
            # Whoever reads gets each piece by itself.
            await asyncio.sleep(0)
        writer.close()


def _refusal(status: int) -> bytes:
    body = b'{"message":"refused by the test"}'
    head = f"HTTP/1.1 {status} No\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
    return f"{head}\r\n\r\n".encode() + body
