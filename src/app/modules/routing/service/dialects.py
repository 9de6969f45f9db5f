"""Surfaces that an upstream may not have itself: spoken to it as chat, and back."""

import time
from collections.abc import Awaitable, Callable
from typing import Protocol
from uuid import UUID

from app.modules.routing.domain.messages.from_chat import message_answer, message_error
from app.modules.routing.domain.messages.message_stream import MessagesFromChat
from app.modules.routing.domain.messages.to_chat import chat_request as chat_of_messages
from app.modules.routing.domain.responses.from_chat import response_answer
from app.modules.routing.domain.responses.ids import response_id
from app.modules.routing.domain.responses.request import read_responses
from app.modules.routing.domain.responses.streams import ResponsesFromChat
from app.modules.routing.domain.responses.to_chat import chat_request as chat_of_responses
from app.modules.routing.service.conversations import Conversations, Recalled
from app.modules.routing.service.orders import Order


class Dialect(Protocol):
    """One call in a surface of its own, translated to chat completions and back.

    ``chat_body`` is the request. What has no counterpart has raised ``Unmappable`` before.
    """

    chat_body: bytes

    def answer(self, chat_answer: bytes) -> bytes:
        """A whole answer, from a chat completion."""
        ...

    def error(self, status: int, chat_error: bytes) -> bytes:
        """An upstream's error, from OpenAI's envelope."""
        ...

    def feed(self, chunk: bytes) -> bytes:
        """The events that the next chat events amount to; an error event is one of them."""
        ...

    async def keep(self) -> None:
        """The call has ended well: keep what a later call may refer to."""
        ...


Translate = Callable[[Order, UUID], Awaitable[Dialect]]


class MessagesDialect:
    """Anthropic's Messages."""

    def __init__(self, order: Order) -> None:
        self.chat_body = chat_of_messages(order.body)
        self._model = order.envelope.model
        self._stream = MessagesFromChat(self._model)

    def answer(self, chat_answer: bytes) -> bytes:
        return message_answer(chat_answer, self._model)

    def error(self, status: int, chat_error: bytes) -> bytes:
        return message_error(status, chat_error)

    def feed(self, chunk: bytes) -> bytes:
        return self._stream.feed(chunk)

    async def keep(self) -> None:
        """Messages have no memory."""


class ResponsesDialect:
    """OpenAI's Responses. The response is named after its call."""

    def __init__(
        self, order: Order, call_id: UUID, recalled: Recalled, conversations: Conversations
    ) -> None:
        self.chat_body = chat_of_responses(recalled.request, recalled.history)
        self._user_id = order.principal.user_id
        self._request = recalled.request
        self._conversations = conversations
        self._id = response_id(call_id)
        self._created_s = int(time.time())
        self._stream = ResponsesFromChat(self._request, self._id, self._created_s)
        self._answer = b""

    def answer(self, chat_answer: bytes) -> bytes:
        self._answer = response_answer(chat_answer, self._request, self._id, self._created_s)
        return self._answer

    def error(self, status: int, chat_error: bytes) -> bytes:  # noqa: ARG002 - others need it
        return chat_error

    def feed(self, chunk: bytes) -> bytes:
        return self._stream.feed(chunk)

    async def keep(self) -> None:
        answer = self._answer or self._stream.answer
        if answer:
            await self._conversations.keep(self._user_id, self._request, answer)


async def as_messages(order: Order, _: UUID) -> Dialect:
    """Translate a request of ``/v1/messages``."""
    return MessagesDialect(order)


def as_responses(conversations: Conversations) -> Translate:
    """Translate requests of ``/v1/responses``, looking up what they refer to."""

    async def translate(order: Order, call_id: UUID) -> Dialect:
        request = read_responses(order.body)
        recalled = await conversations.recall(order.principal.user_id, request)
        return ResponsesDialect(order, call_id, recalled, conversations)

    return translate
