"""``/infer``: the door of a local agent. Raw ASGI, since its answers are streams as often as not.

It takes a prompt and answers with text, or takes chat completions and answers with them.
"""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractContextManager
from typing import Any, Final

from litestar.exceptions import MethodNotAllowedException
from litestar.types import Receive, Scope, Send

from app.kernel.errors import Invalid
from app.modules.auth.api import Authenticator, Principal, bearer_token
from app.modules.routing.domain.infer.form import DoorAsk, door_ask
from app.modules.routing.domain.infer.text import TextFromChat, text_answer
from app.modules.routing.ports import Answer, AnswerStream

PATH: Final = "/infer"
JSON_TYPE: Final = b"application/json"
STREAM_HEADERS: Final = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
]

Complete = Callable[[Principal, bytes], Awaitable[Answer | AnswerStream]]
Watch = Callable[[Receive], AbstractContextManager[object]]


class InferDoor:
    """``complete`` answers a chat completion, metered and limited as any other. ``own_model`` names
    the model of whoever names none. ``watch`` cancels its block when the client hangs up.
    """

    def __init__(
        self,
        authenticator: Authenticator,
        complete: Complete,
        own_model: Callable[[], str],
        watch: Watch,
    ) -> None:
        self._authenticator = authenticator
        self._complete = complete
        self._own_model = own_model
        self._watch = watch

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] != "POST":  # type: ignore[typeddict-item]  # this is an HTTP scope
            raise MethodNotAllowedException(headers={"allow": "POST"})
        token = bearer_token(list(scope["headers"]))
        principal = self._authenticator.recall(token)
        if principal is None:
            principal = await self._authenticator.authenticate(token)
        principal.require("inference")
        asked = door_ask(await _read_body(receive), self._own_model)
        with self._watch(receive):
            found = await self._complete(principal, asked.chat_body)
            if isinstance(found, Answer):
                await _whole(asked, found, send)
            else:
                await _stream(asked, found, send)


def infer_path() -> dict[str, Any]:
    """The path item of the door, for the OpenAPI document."""
    form = {
        "type": "object",
        "required": ["prompt"],
        "properties": {
            "prompt": {"type": "string"},
            "max_tokens": {"type": "integer", "default": 512},
            "temperature": {"type": "number", "default": 0.7},
            "stream": {"type": "boolean", "default": False},
            "model": {"type": "string"},
        },
        "additionalProperties": False,
    }
    chat = {"type": "object", "required": ["messages"], "additionalProperties": True}
    error = {"description": "A problem document, or OpenAI's error envelope"}
    operation = {
        "tags": ["agent"],
        "operationId": "infer",
        "summary": "A prompt to text, or a chat completion",
        "security": [{"bearer": []}],
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": {"oneOf": [form, chat]}}},
        },
        "responses": {
            "200": {
                "description": "Text with its usage, a chat completion, or an event stream",
                "content": {"application/json": {}, "text/event-stream": {}},
            },
            **dict.fromkeys(("400", "401", "403", "404", "413", "429", "502", "504"), error),
        },
    }
    return {PATH: {"post": operation}}


async def _whole(asked: DoorAsk, answer: Answer, send: Send) -> None:
    body = answer.body
    if asked.is_text and answer.status == 200:
        body = text_answer(body)
    headers = [
        (b"content-type", answer.content_type.encode("latin-1") or JSON_TYPE),
        (b"content-length", str(len(body)).encode()),
    ]
    if answer.retry_after:
        headers.append((b"retry-after", answer.retry_after.encode("latin-1")))
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": False})


async def _stream(asked: DoorAsk, stream: AnswerStream, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": STREAM_HEADERS})
    try:
        async for piece in _pieces(asked, stream):
            await send({"type": "http.response.body", "body": piece, "more_body": True})
    finally:
        await stream.close()
    await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _pieces(asked: DoorAsk, stream: AnswerStream) -> AsyncIterator[bytes]:
    text = TextFromChat() if asked.is_text else None
    async for chunk in stream.chunks:
        if piece := chunk if text is None else text.feed(chunk):
            yield piece


async def _read_body(receive: Receive) -> bytes:
    """Read the whole body; the door of the house has put the limit on it."""
    parts = []
    while True:
        message: Any = await receive()
        if message["type"] == "http.disconnect":
            raise Invalid("The body ended before it was complete.")
        parts.append(message.get("body", b""))
        if not message.get("more_body"):
            return b"".join(parts)
