"""A server that speaks OpenAI's wire format: bodies go through as they are."""

import msgspec

from app.kernel.errors import BadUpstream
from app.modules.routing.domain.envelope import Surface
from app.modules.routing.ports import (
    Answer,
    AnswerStream,
    Ask,
    Deadlines,
    Headers,
    HttpClient,
    HttpRequest,
)

LIST_DEADLINES = Deadlines(connect_s=5.0, first_byte_s=10.0, idle_s=10.0)
MAX_HEADERS = 1000


class _ModelCard(msgspec.Struct):
    id: str


class _ModelList(msgspec.Struct):
    data: list[_ModelCard]


class OpenAIUpstream:
    """``key`` is for listing the models; a call brings its own."""

    def __init__(
        self, name: str, client: HttpClient, surfaces: frozenset[Surface], key: str = ""
    ) -> None:
        self.surfaces = surfaces
        self._name = name
        self._client = client
        self._key = key
        self._headers: dict[tuple[str, str], Headers] = {}

    async def post(self, ask: Ask) -> Answer:
        return await self._client.fetch(self._request(ask))

    async def stream(self, ask: Ask) -> Answer | AnswerStream:
        return await self._client.open(self._request(ask))

    async def models(self) -> list[str]:
        headers = self._headers_for(self._key, "")
        answer = await self._client.fetch(HttpRequest("models", b"", headers, LIST_DEADLINES))
        if answer.status != 200:
            raise BadUpstream(f"{self._name} answered {answer.status} for its models.")
        try:
            return [card.id for card in msgspec.json.decode(answer.body, type=_ModelList).data]
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise BadUpstream(f"{self._name} lists its models in no known form.") from error

    async def close(self) -> None:
        await self._client.close()

    def _request(self, ask: Ask) -> HttpRequest:
        if ask.is_own_key:
            headers = _headers(ask.key, ask.affinity)
        else:
            headers = self._headers_for(ask.key, ask.affinity)
        private = ask.is_own_key or bool(ask.trace)
        headers = (*headers, *ask.trace) if ask.trace else headers
        return HttpRequest(ask.surface, ask.body, headers, ask.deadlines, is_private=private)

    def _headers_for(self, key: str, affinity: str) -> Headers:
        """Make the headers of a key once: the client finds its own work by their identity."""
        found = self._headers.get((key, affinity))
        if found is None:
            if len(self._headers) >= MAX_HEADERS:
                self._headers.clear()
            self._headers[key, affinity] = found = _headers(key, affinity)
        return found


def _headers(key: str, affinity: str) -> Headers:
    authorization = (("authorization", f"Bearer {key}"),) if key else ()
    hint = (("x-session-id", affinity),) if affinity else ()
    return (*authorization, *hint)
