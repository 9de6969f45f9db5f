"""A local agent that takes a prompt at ``/infer``, spoken to as OpenAI's chat and completions."""

import time
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Final
from uuid import uuid4

import msgspec

from app.modules.routing.domain.envelope import Surface
from app.modules.routing.domain.infer.form import infer_ask, wants_usage
from app.modules.routing.domain.infer.reply import (
    Stamp,
    completion,
    has_form,
    read_reply,
    refusal_envelope,
    told_error,
)
from app.modules.routing.domain.infer.stream import EventsFromInfer
from app.modules.routing.ports import (
    Answer,
    AnswerStream,
    Ask,
    Headers,
    HttpClient,
    HttpRequest,
)

PATH: Final = "infer"
JSON_TYPE: Final = "application/json"
EVENT_STREAM: Final = "text/event-stream"
FAILED: Final = 502


class InferUpstream:
    """``client`` is for the agent's root, below which ``/infer`` is."""

    surfaces: frozenset[Surface] = frozenset({"chat/completions", "completions"})

    def __init__(self, name: str, client: HttpClient) -> None:
        self._name = name
        self._client = client

    async def post(self, ask: Ask) -> Answer:
        answer = await self._client.fetch(_request(ask))
        if (failed := _failure(answer)) is not None:
            return failed
        if has_form(ask.surface, answer.body):
            return msgspec.structs.replace(answer, content_type=JSON_TYPE)
        reply = read_reply(answer.body, answer.content_type)
        return Answer(200, JSON_TYPE, completion(ask.surface, reply, _stamp(ask)))

    async def stream(self, ask: Ask) -> Answer | AnswerStream:
        found = await self._client.open(_request(ask))
        events = EventsFromInfer(ask.surface, _stamp(ask), wants_usage=wants_usage(ask.body))
        if isinstance(found, AnswerStream):
            return AnswerStream(200, EVENT_STREAM, _translated(found, events), found.close)
        if (failed := _failure(found)) is not None:
            return failed
        read_reply(found.body, found.content_type)
        whole = events.whole(found.body, found.content_type)
        return AnswerStream(200, EVENT_STREAM, _once(whole), _nothing_to_cut)

    async def models(self) -> list[str]:
        """None: the form has no list of models. A worker names its own when it registers."""
        return []

    async def close(self) -> None:
        await self._client.close()


def _request(ask: Ask) -> HttpRequest:
    headers: Headers = (("authorization", f"Bearer {ask.key}"),) if ask.key else ()
    body = infer_ask(ask.surface, ask.body).body
    headers = (*headers, *ask.trace)
    return HttpRequest(PATH, body, headers, ask.deadlines, is_private=bool(ask.trace))


def _stamp(ask: Ask) -> Stamp:
    kind = "cmpl" if ask.surface == "completions" else "chatcmpl"
    return Stamp(f"{kind}-{uuid4().hex}", ask.model, int(time.time()))


def _failure(answer: Answer) -> Answer | None:
    """An error of the agent's, in OpenAI's envelope; also one that it sent with status 200."""
    if answer.status != 200:
        told = refusal_envelope(answer.body)
        if not told:
            return answer
        return msgspec.structs.replace(answer, content_type=JSON_TYPE, body=told)
    told = told_error(answer.body, answer.content_type)
    return Answer(FAILED, JSON_TYPE, told) if told else None


async def _translated(found: AnswerStream, events: EventsFromInfer) -> AsyncIterator[bytes]:
    async with aclosing(found.chunks) as chunks:  # type: ignore[type-var]  # generators can be closed
        async for chunk in chunks:
            if piece := events.feed(chunk):
                yield piece
    if piece := events.finish():
        yield piece


async def _once(whole: bytes) -> AsyncIterator[bytes]:
    yield whole


async def _nothing_to_cut() -> None:
    """The answer has come whole."""
