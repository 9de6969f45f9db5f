"""Conversations: responses that are kept, so that the next request need not repeat them.

What was said is its speaker's: every row is asked for by its owner's id, sealed at rest, and gone
thirty days after the conversation was last gone on with.
"""

import asyncio
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

import msgspec

from app.kernel import log
from app.kernel.db import Database
from app.kernel.errors import Invalid, NotFound, Unavailable
from app.kernel.ports import Clock
from app.modules.routing.domain.responses.ids import call_of, named, response_id
from app.modules.routing.domain.responses.items import Item
from app.modules.routing.domain.responses.reading import read_items
from app.modules.routing.domain.responses.request import ResponsesRequest, with_items
from app.modules.routing.models import ResponseRow
from app.modules.routing.ports import Seal
from app.modules.routing.repository import Link, ResponseRepository

KEEP: Final = timedelta(days=30)
CONVERSATION_LIMIT: Final = 512
CONVERSATION_LIMIT_BYTES: Final = 33_554_432
SWEEP_ROWS: Final = 500
SWEEP_BATCHES: Final = 1000
PREVIOUS: Final = "previous_response_id"

_log = log.get("routing")


class ResponseNotFound(NotFound):
    """No response with this id, or somebody else's, or one that is not kept any more."""

    title = "Response not found"


class ItemNotFound(NotFound):
    """No item with this id in any response that is kept for this caller."""

    title = "Item not found"


class ConversationTooLong(Invalid):
    """More was said than one request may carry."""

    title = "Conversation too long"


class Recalled(msgspec.Struct, frozen=True):
    """A request with nothing left to look up, and what was said before it, oldest first."""

    request: ResponsesRequest
    history: tuple[Item, ...] = ()


class _Answer(msgspec.Struct, frozen=True):
    id: str
    status: str
    output: msgspec.Raw


_answer = msgspec.json.Decoder(_Answer)
_encode = msgspec.json.Encoder().encode


class Conversations:
    """Long texts are sealed and opened in a thread: it would hold everybody else up."""

    def __init__(self, db: Database, seal: Seal, clock: Clock) -> None:
        self._db = db
        self._seal = seal
        self._clock = clock

    async def recall(self, user_id: UUID, request: ResponsesRequest) -> Recalled:
        """Look up what the request refers to.

        ``ResponseNotFound``, ``ItemNotFound`` or ``ConversationTooLong``, naming the member.
        """
        previous = request.members.previous_response_id
        if not previous and not request.references:
            return Recalled(request)
        now = self._clock()
        async with self._db.read() as session:
            repository = ResponseRepository(session)
            chain = await _chain(repository, user_id, previous, now) if previous else []
            owners = {call_id for name in request.references if (call_id := call_of(name))}
            sizes = await repository.sizes(user_id, owners, now)
            _refuse_too_long(sizes | {link.id: link.size_bytes for link in chain})
            rows = await repository.find(user_id, {*sizes, *(link.id for link in chain)}, now)
        turns = await asyncio.to_thread(self._turns, rows.values())
        found = {item.id: item for turn in turns.values() for item in turn if item.id}
        request = with_items(request, found)
        for name in request.references:
            text = f"The item {name[:100]!r} is in no response that is kept for you."
            raise ItemNotFound(text, param="input")
        return Recalled(request, tuple(item for link in chain for item in turns[link.id]))

    async def keep(self, user_id: UUID, request: ResponsesRequest, answer: bytes) -> None:
        """Keep a response, if the caller has not said otherwise and it has not failed.

        ``request`` is one that was recalled. An answer is worth more than its copy: when the
        database is down it goes out all the same, and cannot be gone on with.
        """
        told = _answer.decode(answer)
        call_id = call_of(told.id)
        if not request.is_kept or told.status == "failed" or call_id is None:
            return
        row = await asyncio.to_thread(self._row, user_id, call_id, request, answer)
        now = self._clock()
        row.created_at, row.expires_at = now, now + KEEP
        try:
            async with self._db.begin() as session:
                repository = ResponseRepository(session)
                repository.add(row)
                if row.previous_id is not None:
                    previous, limit = row.previous_id, CONVERSATION_LIMIT
                    await repository.prolong(user_id, previous, now, row.expires_at, limit)
        except Unavailable:
            _log.warning("routing.response-not-kept", response=told.id)

    async def get(self, user_id: UUID, response_id: str) -> bytes:
        """The Response, as it was sent."""
        return (await self._open(user_id, response_id))[1]

    async def input_items(self, user_id: UUID, response_id: str) -> tuple[Item, ...]:
        """What the response was asked with, without what was said before."""
        return read_items((await self._open(user_id, response_id))[0])

    async def delete(self, user_id: UUID, response_id: str) -> None:
        """Forget a response. What was built upon it cannot be gone on with either."""
        async with self._db.begin() as session:
            call_id = _known(response_id, "response_id")
            if not await ResponseRepository(session).remove(user_id, call_id, self._clock()):
                raise _missing(response_id, "response_id")

    async def sweep(self) -> None:
        """Drop what has expired, in small transactions. What is left, the next run finds."""
        now = self._clock()
        for _ in range(SWEEP_BATCHES):
            async with self._db.begin() as session:
                if await ResponseRepository(session).sweep(now, SWEEP_ROWS) == 0:
                    return

    async def _open(self, user_id: UUID, response_id: str) -> tuple[bytes, bytes]:
        call_id = _known(response_id, "response_id")
        async with self._db.read() as session:
            rows = await ResponseRepository(session).find(user_id, {call_id}, self._clock())
        if call_id not in rows:
            raise _missing(response_id, "response_id")
        return await asyncio.to_thread(self._opened, rows[call_id])

    def _row(
        self, user_id: UUID, call_id: UUID, request: ResponsesRequest, answer: bytes
    ) -> ResponseRow:
        asked = _encode(named(request.items, response_id(call_id)))
        return ResponseRow(
            id=call_id,
            user_id=user_id,
            previous_id=call_of(request.members.previous_response_id or ""),
            size_bytes=len(asked) + len(answer),
            input_sealed=self._seal.seal(asked, _context(user_id, call_id, "input")),
            response_sealed=self._seal.seal(answer, _context(user_id, call_id, "response")),
        )

    def _opened(self, row: ResponseRow) -> tuple[bytes, bytes]:
        """What was asked, and the answer; ``ResponseNotFound`` when its secret is gone."""
        asked = self._seal.unseal(row.input_sealed, _context(row.user_id, row.id, "input"))
        answer = self._seal.unseal(row.response_sealed, _context(row.user_id, row.id, "response"))
        if asked is None or answer is None:
            raise ResponseNotFound("It was sealed with a secret that is no longer in APP_SECRET.")
        return asked, answer

    def _turns(self, rows: Iterable[ResponseRow]) -> dict[UUID, tuple[Item, ...]]:
        """The items of each response: what was asked, then what was answered."""
        turns = {}
        for row in rows:
            asked, answer = self._opened(row)
            output = _answer.decode(answer).output
            turns[row.id] = (*read_items(asked), *read_items(output, "output"))
        return turns


async def _chain(
    repository: ResponseRepository, user_id: UUID, previous: str, now: datetime
) -> list[Link]:
    """The responses of a conversation, oldest first."""
    last_id = _known(previous, PREVIOUS)
    chain = await repository.chain(user_id, last_id, now, CONVERSATION_LIMIT + 1)
    if not chain:
        raise _missing(previous, PREVIOUS)
    if len(chain) > CONVERSATION_LIMIT:
        text = f"A conversation has {CONVERSATION_LIMIT} responses at most: begin a new one."
        raise ConversationTooLong(text, param=PREVIOUS)
    if chain[-1].previous_id is not None:
        text = "An earlier response of this conversation was deleted: send its items in `input`."
        raise ResponseNotFound(text, param=PREVIOUS)
    return chain[::-1]


def _refuse_too_long(sizes: Mapping[UUID, int]) -> None:
    if sum(sizes.values()) > CONVERSATION_LIMIT_BYTES:
        text = f"A conversation has {CONVERSATION_LIMIT_BYTES} bytes at most: begin a new one."
        raise ConversationTooLong(text, param=PREVIOUS)


def _known(given: str, param: str) -> UUID:
    """The call of a response that could be ours."""
    call_id = call_of(given)
    if call_id is None or given != response_id(call_id):
        raise _missing(given, param)
    return call_id


def _missing(given: str, param: str) -> ResponseNotFound:
    text = f"No response {given[:100]!r} is kept for you: it expired, or was sent with store=false."
    return ResponseNotFound(text, param=param)


def _context(user_id: UUID, call_id: UUID, what: str) -> bytes:
    """What a sealed text belongs to: moved to another row, or column, it does not open."""
    return f"{user_id}:{call_id}:{what}".encode()
