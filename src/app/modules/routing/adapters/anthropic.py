"""A server that speaks Anthropic's Messages API.

Messages go through as they are. Chat completions are translated here, so that a caller sees no
difference; what cannot be translated is refused before anything is sent.
"""

import time
from collections.abc import AsyncIterator
from urllib.parse import quote

import msgspec

from app.kernel.errors import BadUpstream
from app.modules.routing.domain.envelope import Surface
from app.modules.routing.domain.messages.chat_stream import ChatFromMessages
from app.modules.routing.domain.messages.from_messages import chat_answer, chat_error
from app.modules.routing.domain.messages.to_messages import messages_request
from app.modules.routing.ports import (
    Answer,
    AnswerStream,
    Ask,
    Deadlines,
    Headers,
    HttpClient,
    HttpRequest,
)

JSON_TYPE = "application/json"
LIST_DEADLINES = Deadlines(connect_s=5.0, first_byte_s=10.0, idle_s=10.0)
# The most that the API gives at once; more pages than these are no list of models.
PAGE_MODELS = 1000
PAGES_LIMIT = 10
MAX_HEADERS = 1000
# Anthropic's own status for "overloaded", which nobody else knows.
OVERLOADED = 529
UNAVAILABLE = 503


class _ModelCard(msgspec.Struct):
    id: str


class _ModelPage(msgspec.Struct):
    data: list[_ModelCard]
    has_more: bool = False
    last_id: str | None = None


class AnthropicUpstream:
    """``client`` is at a base URL that ends in ``/v1``.

    ``key`` is for listing the models; a call brings its own.
    """

    surfaces: frozenset[Surface] = frozenset({"chat/completions", "messages"})

    def __init__(
        self, name: str, client: HttpClient, key: str = "", version: str = "2023-06-01"
    ) -> None:
        self._name = name
        self._client = client
        self._key = key
        self._version = version
        self._headers: dict[str, Headers] = {}

    async def post(self, ask: Ask) -> Answer:
        if ask.surface == "messages":
            return _with_known_status(await self._client.fetch(self._request(ask, ask.body)))
        body = messages_request(ask.body, ask.model)
        return _as_chat(await self._client.fetch(self._request(ask, body)))

    async def stream(self, ask: Ask) -> Answer | AnswerStream:
        is_native = ask.surface == "messages"
        body = ask.body if is_native else messages_request(ask.body, ask.model)
        found = await self._client.open(self._request(ask, body))
        if isinstance(found, Answer):
            return _with_known_status(found) if is_native else _as_chat(found)
        if is_native:
            return found
        return msgspec.structs.replace(found, chunks=_chat_chunks(found.chunks))

    async def models(self) -> list[str]:
        names: list[str] = []
        path = f"models?limit={PAGE_MODELS}"
        for _ in range(PAGES_LIMIT):
            page = await self._page(path)
            names += [card.id for card in page.data]
            if not page.has_more or not page.last_id:
                return names
            path = f"models?limit={PAGE_MODELS}&after_id={quote(page.last_id, safe='')}"
        raise BadUpstream(f"{self._name} lists its models without an end.")

    async def close(self) -> None:
        await self._client.close()

    async def _page(self, path: str) -> _ModelPage:
        headers = self._headers_for(self._key)
        answer = await self._client.fetch(HttpRequest(path, b"", headers, LIST_DEADLINES))
        if answer.status != 200:
            raise BadUpstream(f"{self._name} answered {answer.status} for its models.")
        try:
            return msgspec.json.decode(answer.body, type=_ModelPage)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise BadUpstream(f"{self._name} lists its models in no known form.") from error

    def _request(self, ask: Ask, body: bytes) -> HttpRequest:
        own = ask.is_own_key
        headers = self._made_for(ask.key) if own else self._headers_for(ask.key)
        if ask.beta:
            headers = (*headers, ("anthropic-beta", ask.beta))
        if ask.trace:
            headers = (*headers, *ask.trace)
        private = own or bool(ask.trace)
        return HttpRequest("messages", body, headers, ask.deadlines, is_private=private)

    def _headers_for(self, key: str) -> Headers:
        """Make the headers of a key once: the client finds its own work by their identity."""
        found = self._headers.get(key)
        if found is None:
            if len(self._headers) >= MAX_HEADERS:
                self._headers.clear()
            self._headers[key] = found = self._made_for(key)
        return found

    def _made_for(self, key: str) -> Headers:
        credential = (("x-api-key", key),) if key else ()
        return (*credential, ("anthropic-version", self._version))


def _with_known_status(answer: Answer) -> Answer:
    if answer.status != OVERLOADED:
        return answer
    return msgspec.structs.replace(answer, status=UNAVAILABLE)


def _as_chat(answer: Answer) -> Answer:
    answer = _with_known_status(answer)
    if answer.status == 200:
        body = chat_answer(answer.body, int(time.time()))
    else:
        body = chat_error(answer.status, answer.body)
    return msgspec.structs.replace(answer, content_type=JSON_TYPE, body=body)


async def _chat_chunks(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    translator = ChatFromMessages(int(time.time()))
    async for chunk in chunks:
        if piece := translator.feed(chunk):
            yield piece
