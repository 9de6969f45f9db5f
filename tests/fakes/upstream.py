"""An upstream in memory."""

import asyncio
from collections.abc import AsyncIterator

from app.kernel.errors import BadUpstream
from app.modules.routing.domain.prices import Price
from app.modules.routing.ports import Answer, AnswerStream, Ask, Source, Target, Upstream

GOOD = Answer(200, "application/json", b'{"usage":{"prompt_tokens":1}}')
WORD = b'data: {"choices":[{"delta":{"content":"hi"}}]}\n\n'
DONE = b"data: [DONE]\n\n"


class FakeUpstream:
    """Lists what it is given; is down when it is told to be.

    ``script`` is what it answers, in turn, the last one for ever: an answer, an error to raise, or
    the chunks of a stream, in which an error may stand.
    """

    def __init__(self, *models: str, script: list | None = None, surfaces: tuple = ()) -> None:
        self.offered = list(models)
        self.script = script or [GOOD]
        self.surfaces = frozenset(surfaces or ("chat/completions", "completions", "embeddings"))
        self.asks: list[Ask] = []
        self.is_down = False
        self.is_closed = False
        self.listed = 0
        self.cut = 0
        self.hold: asyncio.Event | None = None

    async def post(self, ask: Ask) -> Answer:
        found = await self._next(ask)
        assert isinstance(found, Answer)
        return found

    async def stream(self, ask: Ask) -> Answer | AnswerStream:
        found = await self._next(ask)
        if isinstance(found, Answer):
            return found
        return AnswerStream(200, "text/event-stream", self._chunks(found), self._cut)

    async def models(self) -> list[str]:
        self.listed += 1
        if self.is_down:
            raise BadUpstream("down")
        return self.offered

    async def close(self) -> None:
        self.is_closed = True

    async def _next(self, ask: Ask):
        self.asks.append(ask)
        found = self.script[0] if len(self.script) == 1 else self.script.pop(0)
        if self.hold is not None:
            await self.hold.wait()
        if isinstance(found, Exception):
            raise found
        return found

    async def _chunks(self, chunks: list) -> AsyncIterator[bytes]:
        for chunk in chunks:
            if isinstance(chunk, Exception):
                raise chunk
            if isinstance(chunk, asyncio.Event):
                await chunk.wait()
            else:
                yield chunk

    async def _cut(self) -> None:
        self.cut += 1


def source(name: str, upstream: Upstream, **more) -> Source:
    """Make a source that connects to ``upstream``."""

    async def connect() -> Upstream:
        return upstream

    return Source(name=name, connect=connect, **more)


def target(name: str, upstream: Upstream, price: Price | None = None, **more) -> Target:
    """Make a target of one model ``m`` at ``upstream``."""
    made = source(name, upstream, **more)
    return Target(source=made, upstream=upstream, model="m", price=price)
