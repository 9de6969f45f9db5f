"""An upstream in memory."""

from app.kernel.errors import BadUpstream
from app.modules.routing.domain import Surface
from app.modules.routing.ports import Answer, AnswerStream, Source, Upstream


class FakeUpstream:
    """Lists what it is given; is down when it is told to be."""

    def __init__(self, *models: str) -> None:
        self.offered = list(models)
        self.is_down = False
        self.is_closed = False
        self.listed = 0

    async def post(self, surface: Surface, body: bytes) -> Answer:
        return Answer(200, "application/json", b'{"usage":{"prompt_tokens":1}}')

    async def stream(self, surface: Surface, body: bytes) -> Answer | AnswerStream:
        return await self.post(surface, body)

    async def models(self) -> list[str]:
        self.listed += 1
        if self.is_down:
            raise BadUpstream("down")
        return self.offered

    async def close(self) -> None:
        self.is_closed = True


def source(name: str, upstream: Upstream, **more) -> Source:
    """Make a source that connects to ``upstream``."""

    async def connect() -> Upstream:
        return upstream

    return Source(name, connect, **more)
