"""One worker in one container, spoken to over the stream that is attached to it."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from signal import SIGKILL, SIGXCPU
from typing import Any, Final

import msgspec

from app.modules.sandbox.adapters.docker.engine import Engine, EngineFailed
from app.modules.sandbox.adapters.docker.removals import Removals
from app.modules.sandbox.adapters.docker.stream import AttachedStream
from app.modules.sandbox.ports import Gone, Printed, Reason, Said, WorkerEvent, WorkerFailed
from insula_jail.frames import MAX_IN, MAX_OUT, BadFrame, Splitter, encode

SEND_S: Final = 30.0
GONE_S: Final = 5.0
# What a container ends with when its first process was killed by signal 9.
KILLED: Final = 128 + SIGKILL


class _Head(msgspec.Struct, frozen=True):
    t: str


class _Ready(msgspec.Struct, frozen=True):
    walls: dict[str, bool] = {}


class _Printed(msgspec.Struct, frozen=True):
    data: bytes


class _Gone(msgspec.Struct, frozen=True):
    code: int | None = None
    signal: int | None = None
    cpu_ms: int = 0
    peak_kb: int = 0


HEAD: Final = msgspec.json.Decoder(_Head)
READY: Final = msgspec.json.Decoder(_Ready)
PRINTED: Final = msgspec.json.Decoder(_Printed)
GONE: Final = msgspec.json.Decoder(_Gone)


class Broken(Exception):
    """The worker does not keep to the protocol."""


class DockerWorker:
    """A container that runs one script. Whatever ends it, it is removed."""

    def __init__(
        self,
        name: str,
        engine: Engine,
        stream: AttachedStream,
        removals: Removals,
        on_gone: Callable[[str], None],
    ) -> None:
        self.name = name
        self.walls: dict[str, bool] = {}
        self._engine = engine
        self._stream = stream
        self._removals = removals
        self._on_gone = on_gone
        self._splitter = Splitter(MAX_OUT)
        self._found: deque[bytes] = deque()
        self._removal: asyncio.Task[None] | None = None

    @property
    def is_gone(self) -> bool:
        return self._removal is not None or self._stream.is_ended

    async def start(self) -> None:
        """Start the container and wait until its worker has tested its walls."""
        await self._engine.call(lambda client: client.start(self.name))
        frame = await self._next()
        if frame is None or _kind(frame) != "ready":
            while await self._next() is not None:
                continue
            said = self._stream.stderr
            raise WorkerFailed(f"The worker ended before it was ready. {said}".strip())
        self.walls = READY.decode(frame).walls

    async def send(self, frame: dict[str, Any]) -> None:
        if self.is_gone:
            return
        try:
            async with asyncio.timeout(SEND_S):
                await self._stream.write(encode(frame, MAX_IN))
        except TimeoutError:
            self.kill()

    async def events(self) -> AsyncIterator[WorkerEvent]:
        told: _Gone | None = None
        try:
            while (frame := await self._next()) is not None:
                kind = _kind(frame)
                if kind == "gone":
                    told = GONE.decode(frame)
                    break
                yield _printed(kind, frame) or Said(frame)
        except (Broken, msgspec.DecodeError):
            yield await self._end(Gone(signal=SIGKILL, reason="protocol"))
            return
        yield await self._end(await self._outcome(told))

    async def freeze(self) -> None:
        await self._ask(lambda client: client.pause(self.name))

    async def thaw(self) -> None:
        await self._ask(lambda client: client.unpause(self.name))

    def kill(self) -> None:
        if self._removal is None:
            self._removal = self._removals.begin(self.name)
            self._removal.add_done_callback(lambda _: self._on_gone(self.name))
            self._stream.abort()

    async def _ask(self, verb: Callable[[Any], Any]) -> None:
        """Have the engine do it; a container that cannot is on its way out, or must be."""
        if self.is_gone:
            return
        try:
            await self._engine.call(verb)
        except EngineFailed:
            self.kill()

    async def _next(self) -> bytes | None:
        """The next frame, or None at the end; ``Broken`` when the stream makes no sense."""
        while not self._found:
            data = await self._stream.read()
            if data:
                self._found.extend(self._split(data))
            elif self._stream.is_broken:
                raise Broken
            else:
                return None
        return self._found.popleft()

    def _split(self, data: bytes) -> list[bytes]:
        try:
            return self._splitter.feed(data)
        except BadFrame:
            raise Broken from None

    async def _outcome(self, told: _Gone | None) -> Gone:
        """Why it ended: what the supervisor says, and what the engine has seen."""
        if self._removal is not None:
            return Gone(signal=SIGKILL)
        if told is None:
            return _unannounced(await self._state())
        reason: Reason = ""
        if told.signal == SIGKILL and (await self._state()).get("OOMKilled"):
            reason = "memory"
        elif told.signal == SIGXCPU:
            reason = "cpu"
        return Gone(told.code, told.signal, reason, told.cpu_ms, told.peak_kb)

    async def _state(self) -> dict[str, Any]:
        """What the engine knows of the container. It knows how it ended once it has."""
        with suppress(EngineFailed):
            await self._engine.call(lambda client: client.wait(self.name, timeout=GONE_S))
        with suppress(EngineFailed):
            facts = await self._engine.call(lambda client: client.inspect_container(self.name))
            return dict(facts["State"])
        return {}

    async def _end(self, gone: Gone) -> Gone:
        """Say so when nothing is left of it, or the engine will not be moved."""
        self.kill()
        if self._removal is not None:
            await asyncio.wait([self._removal], timeout=GONE_S)
        return gone


def _unannounced(state: dict[str, Any]) -> Gone:
    """The supervisor itself ended, or the engine did."""
    if state.get("OOMKilled") or state.get("ExitCode") == KILLED:
        return Gone(signal=SIGKILL, reason="memory")
    return Gone(exit_code=None if state.get("Running", True) else state.get("ExitCode"))


def _kind(frame: bytes) -> str:
    """What a frame says it is; nothing if it cannot be told. The script may have written it."""
    try:
        return HEAD.decode(frame).t
    except (msgspec.DecodeError, UnicodeDecodeError):
        return ""


def _printed(kind: str, frame: bytes) -> Printed | None:
    if kind not in ("out", "err"):
        return None
    return Printed("stdout" if kind == "out" else "stderr", PRINTED.decode(frame).data)
