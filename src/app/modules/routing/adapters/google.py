"""Google's Gemini API: callers speak OpenAI's format to it, and it is translated both ways."""

import re
import time
from collections.abc import AsyncIterator
from typing import Final
from urllib.parse import quote

import msgspec

from app.kernel.errors import BadUpstream
from app.modules.routing.domain.envelope import Surface
from app.modules.routing.domain.google.answers import Told, chat_answer, chat_error
from app.modules.routing.domain.google.embeddings import embed_answer, embed_request
from app.modules.routing.domain.google.request import generate_request
from app.modules.routing.domain.google.streams import ChatFromGoogle
from app.modules.routing.domain.names import ModelNotFound
from app.modules.routing.ports import (
    Answer,
    AnswerStream,
    Ask,
    Deadlines,
    Headers,
    HttpClient,
    HttpRequest,
)

SURFACES: Final[frozenset[Surface]] = frozenset({"chat/completions", "embeddings"})
LIST_DEADLINES: Final = Deadlines(connect_s=5.0, first_byte_s=10.0, idle_s=10.0)
PAGE_SIZE: Final = 1000
PAGES_LIMIT: Final = 10
MAX_HEADERS: Final = 1000
JSON: Final = "application/json"
METHODS: Final = frozenset({"generateContent", "embedContent", "batchEmbedContents"})
# A name with a slash, a colon or dots alone would lead to another place of Google's API.
MODEL: Final = re.compile(r"(?:(models|tunedModels)/)?([A-Za-z0-9][A-Za-z0-9._-]{0,199})")


class _Model(msgspec.Struct, rename="camel"):
    name: str
    supported_generation_methods: list[str] = []


class _ModelList(msgspec.Struct, rename="camel"):
    models: list[_Model] = []
    next_page_token: str = ""


class GoogleUpstream:
    """The client's base URL ends in ``/v1beta``. ``key`` is for listing the models; a call brings
    its own, in a header: a key in a URL ends up in logs.
    """

    surfaces = SURFACES

    def __init__(self, name: str, client: HttpClient, key: str = "") -> None:
        self._name = name
        self._client = client
        self._key = key
        self._headers: dict[str, Headers] = {}

    async def post(self, ask: Ask) -> Answer:
        path = model_path(ask.model)
        if ask.surface == "embeddings":
            body = embed_request(ask.body, path)
            answer = await self._client.fetch(
                self._request(f"{path}:batchEmbedContents", body, ask)
            )
            if answer.status == 200:
                return _told(answer, embed_answer(answer.body, ask.body, ask.model))
        else:
            body = generate_request(ask.body)
            answer = await self._client.fetch(self._request(f"{path}:generateContent", body, ask))
        return _translated(answer, ask)

    async def stream(self, ask: Ask) -> Answer | AnswerStream:
        if ask.surface == "embeddings":
            return await self.post(ask)
        path = f"{model_path(ask.model)}:streamGenerateContent?alt=sse"
        found = await self._client.open(self._request(path, generate_request(ask.body), ask))
        if isinstance(found, Answer):
            return _translated(found, ask)
        chunks = _chunks(found.chunks, ChatFromGoogle(ask.model, _now_s()))
        return AnswerStream(found.status, found.content_type, chunks, found.close)

    async def models(self) -> list[str]:
        names: list[str] = []
        token = ""
        for _ in range(PAGES_LIMIT):
            page = await self._page(token)
            names += [
                model.name.removeprefix("models/")
                for model in page.models
                if METHODS.intersection(model.supported_generation_methods)
            ]
            token = page.next_page_token
            if not token:
                break
        return names

    async def close(self) -> None:
        await self._client.close()

    async def _page(self, token: str) -> _ModelList:
        further = f"&pageToken={quote(token, safe='')}" if token else ""
        path = f"models?pageSize={PAGE_SIZE}{further}"
        headers = self._headers_for(self._key)
        answer = await self._client.fetch(HttpRequest(path, b"", headers, LIST_DEADLINES))
        if answer.status != 200:
            raise BadUpstream(f"{self._name} answered {answer.status} for its models.")
        try:
            return msgspec.json.decode(answer.body, type=_ModelList)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise BadUpstream(f"{self._name} lists its models in no known form.") from error

    def _request(self, path: str, body: bytes, ask: Ask) -> HttpRequest:
        own = ask.is_own_key
        headers = _headers(ask.key) if own else self._headers_for(ask.key)
        if ask.trace:
            headers = (*headers, *ask.trace)
        private = own or bool(ask.trace)
        return HttpRequest(path, body, headers, ask.deadlines, is_private=private)

    def _headers_for(self, key: str) -> Headers:
        """Make the headers of a key once: the client finds its own work by their identity."""
        found = self._headers.get(key)
        if found is None:
            if len(self._headers) >= MAX_HEADERS:
                self._headers.clear()
            self._headers[key] = found = _headers(key)
        return found


def _headers(key: str) -> Headers:
    return (("x-goog-api-key", key),) if key else ()


def model_path(model: str) -> str:
    """Where a model is: ``models/gemini-2.5-flash``."""
    found = MODEL.fullmatch(model)
    if found is None:
        raise ModelNotFound(f"{model[:200]!r} is no name of a model at Google.", param="model")
    return f"{found[1] or 'models'}/{found[2]}"


async def _chunks(chunks: AsyncIterator[bytes], translator: ChatFromGoogle) -> AsyncIterator[bytes]:
    async for chunk in chunks:
        if events := translator.feed(chunk):
            yield events
    if events := translator.finish():
        yield events


def _translated(answer: Answer, ask: Ask) -> Answer:
    if answer.status == 200:
        return _told(answer, chat_answer(answer.body, ask.model, _now_s()))
    return _told(answer, chat_error(answer.status, answer.body))


def _told(answer: Answer, told: Told) -> Answer:
    return Answer(told.status, JSON, told.body, answer.retry_after or told.retry_after)


def _now_s() -> int:
    return int(time.time())
