"""Takes bytes in, keeps them, gives them out and lets them go; never one whole body in memory."""

import asyncio
import hashlib
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager, suppress
from typing import Final
from uuid import UUID

import msgspec
from sqlalchemy.ext.asyncio import AsyncSession

from app.kernel.db import Database, uuid7
from app.kernel.errors import AppError, Unavailable
from app.kernel.ports import BlobInfo, BlobStore, Clock
from app.modules.storage.domain.allowances import Purpose, require_room, require_size
from app.modules.storage.domain.bodies import DOOMED, KEPT, OPEN, Draft, Part, blob_key, slices
from app.modules.storage.domain.digests import BodyTruncated, Expected
from app.modules.storage.models import AccountRow, BodyRow, PartRow
from app.modules.storage.repository.accounts import AccountRepository, add, sums_of
from app.modules.storage.repository.bodies import BodyRepository
from app.modules.storage.service.pulse import Pulse

# A sender that says nothing for so long is gone.
IDLE_S: Final = 60.0
# A sender that is not done after so long never will be: it holds room that it does not fill.
LONGEST_S: Final = 24 * 3600.0


class BytesGone(Unavailable):
    """What was being sent, or read, has been given up meanwhile."""

    title = "Bytes gone"


class Intake(msgspec.Struct, frozen=True):
    """Who sends what, and how much its owner may keep; ``None`` for as much as there is."""

    user_id: UUID
    purpose: Purpose
    expected: Expected
    quota_bytes: int | None


class Bodies:
    """Room is reserved before the first byte, and the row of a blob is there before the blob.

    So a crash at any moment leaves a row that the sweep finds, never bytes that nobody knows of.
    """

    def __init__(
        self, db: Database, blobs: BlobStore, clock: Clock, *, inline_bytes: int, most_bytes: int
    ) -> None:
        self._db = db
        self._blobs = blobs
        self._clock = clock
        self._inline_bytes = inline_bytes
        self.most_bytes = most_bytes

    async def take_in(self, intake: Intake, chunks: AsyncIterator[bytes]) -> Draft:
        """Receive and verify everything that is sent; when that fails, nothing is left of it.

        Whoever has the draft keeps or discards it, whatever happens.
        """
        size = intake.expected.size_bytes
        require_size(size, self.most_bytes)
        if size <= self._inline_bytes:
            return await self._take_in_small(intake, chunks)
        return await self._take_in_large(intake, chunks)

    def is_small(self, size_bytes: int) -> bool:
        """Whether such a body lies in the database: it costs little to receive it in vain."""
        return size_bytes <= self._inline_bytes

    @staticmethod
    async def measure(expected: Expected, chunks: AsyncIterator[bytes]) -> str:
        """Receive and verify, keep nothing, and return the SHA-256."""
        digest, size = hashlib.sha256(), 0
        async with aclosing(_patiently(chunks)) as arriving:
            async for chunk in arriving:
                digest.update(chunk)
                size += len(chunk)
                _not_more(size, expected)
        expected.verify(size, digest.hexdigest())
        return digest.hexdigest()

    async def keep(
        self, session: AsyncSession, account: AccountRow, draft: Draft, quota_bytes: int | None
    ) -> None:
        """Make it part of the store, in the transaction that shows it; the account is locked."""
        if draft.inline is None:
            await self.keep_open(session, account, draft.id)
            return
        require_room(sums_of(account, draft.purpose), draft.size_bytes, quota_bytes)
        add(account, draft.purpose, used_bytes=draft.size_bytes)
        await BodyRepository(session).add_kept(draft)

    async def keep_open(self, session: AsyncSession, account: AccountRow, body_id: UUID) -> None:
        """Keep a body whose parts are all there, and whose room is reserved.

        From here to the commit nobody replaces a part of it. ``BytesGone``: it is not open.
        """
        body = await BodyRepository(session).move(body_id, OPEN, KEPT)
        if body is None:
            raise _gone()
        size = body.size_bytes
        add(account, purpose_of(body), used_bytes=size, reserved_bytes=-size)

    async def open_body(
        self, session: AsyncSession, account: AccountRow, intake: Intake
    ) -> BodyRow:
        """Reserve the room of a body that is to come in parts."""
        body = _new(intake)
        await self._reserve(session, account, body, intake.quota_bytes)
        return body

    @staticmethod
    async def drop_open(session: AsyncSession, account: AccountRow, body_id: UUID) -> None:
        """Give up an open body, and its room. One that is no longer open stays as it is."""
        body = await BodyRepository(session).move(body_id, OPEN, DOOMED)
        if body is not None:
            add(account, purpose_of(body), reserved_bytes=-body.size_bytes)

    @staticmethod
    async def drop(session: AsyncSession, account: AccountRow, body_id: UUID) -> None:
        """Let go of a kept body; its bytes are removed later."""
        body = await BodyRepository(session).move(body_id, KEPT, DOOMED)
        if body is not None:
            add(account, purpose_of(body), used_bytes=-body.size_bytes)

    async def discard(self, draft: Draft) -> None:
        """Give up what came in and is not wanted, with its room; harmless once it is kept."""
        if draft.inline is None:
            await asyncio.shield(self._give_up(draft.user_id, draft.id))

    async def take_part(
        self, body: BodyRow, number: int, expected: Expected, chunks: AsyncIterator[bytes]
    ) -> str:
        """Receive one part of an open body and return its SHA-256. Its room is reserved.

        When this returns, the part survives a power cut. ``BytesGone``: the body is not open.
        """
        part = _part(body.user_id, body.id, number, expected)
        return await self._receive(part, expected, chunks, is_durable=True)

    async def digest(self, body_id: UUID) -> str:
        """The SHA-256 of all parts together, which is read for it."""
        digest = hashlib.sha256()
        async with aclosing(self.read(body_id)) as chunks:
            async for chunk in chunks:
                await asyncio.to_thread(digest.update, chunk)
        return digest.hexdigest()

    async def is_there(self, user_id: UUID, part: Part) -> bool:
        """Whether these very bytes are in the store, put there by somebody else."""
        info = await self._blobs.info(blob_key(user_id, part.id))
        return info == BlobInfo(part.size_bytes, part.sha256)

    async def read(
        self, body_id: UUID, start: int = 0, end: int | None = None
    ) -> AsyncGenerator[bytes, None]:
        """Bytes ``start`` up to, not including, ``end``: all of them, or an error."""
        body, parts = await self._find(body_id)
        stop = body.size_bytes if end is None else min(end, body.size_bytes)
        if body.inline is not None:
            yield body.inline[start:stop]
            return
        left = stop - start
        for piece in slices(parts, start, stop):
            key = blob_key(body.user_id, piece.part.id)
            async with _closing(self._blobs.get(key, start=piece.start, end=piece.end)) as chunks:
                async for chunk in chunks:
                    left -= len(chunk)
                    yield chunk
        if left > 0:
            raise _gone()

    async def _find(self, body_id: UUID) -> tuple[BodyRow, list[Part]]:
        async with self._db.read() as session:
            repository = BodyRepository(session)
            body = await repository.with_bytes(body_id)
            if body is None:
                raise _gone()
            return body, [] if body.inline is not None else await repository.parts(body_id)

    async def _take_in_small(self, intake: Intake, chunks: AsyncIterator[bytes]) -> Draft:
        received = bytearray()
        async with aclosing(_patiently(chunks)) as arriving:
            async for chunk in arriving:
                received += chunk
                _not_more(len(received), intake.expected)
        sha256 = hashlib.sha256(received).hexdigest()
        intake.expected.verify(len(received), sha256)
        return Draft(
            uuid7(), intake.user_id, intake.purpose, len(received), sha256, bytes(received)
        )

    async def _take_in_large(self, intake: Intake, chunks: AsyncIterator[bytes]) -> Draft:
        body, size = _new(intake), intake.expected.size_bytes
        body_id = body.id
        part = _part(intake.user_id, body_id, 1, intake.expected)
        try:
            async with self._db.begin() as session:
                account = await AccountRepository(session).lock(intake.user_id)
                await self._reserve(session, account, body, intake.quota_bytes)
            sha256 = await self._receive(part, intake.expected, chunks, is_durable=False)
        except BaseException:
            await asyncio.shield(self._give_up(intake.user_id, body_id))
            raise
        return Draft(body_id, intake.user_id, intake.purpose, size, sha256)

    async def _reserve(
        self, session: AsyncSession, account: AccountRow, body: BodyRow, quota_bytes: int | None
    ) -> None:
        purpose = purpose_of(body)
        require_size(body.size_bytes, self.most_bytes)
        require_room(sums_of(account, purpose), body.size_bytes, quota_bytes)
        add(account, purpose, reserved_bytes=body.size_bytes)
        await BodyRepository(session).add(body)

    async def _receive(
        self, part: PartRow, expected: Expected, chunks: AsyncIterator[bytes], *, is_durable: bool
    ) -> str:
        part_id, key = part.id, ""
        try:
            async with self._db.begin() as session:
                await BodyRepository(session).add_part(part)
            info = await self._store(part, expected, chunks)
            key = blob_key(part.user_id, part_id)
            expected.verify(info.size_bytes, info.sha256)
            async with self._db.begin(is_durable=is_durable) as session:
                if not await BodyRepository(session).keep_part(part_id, info.sha256):
                    raise _gone()
        except BaseException:
            await asyncio.shield(self._spoil(part_id, key))
            raise
        return info.sha256

    async def _store(
        self, part: PartRow, expected: Expected, chunks: AsyncIterator[bytes]
    ) -> BlobInfo:
        async with (
            Pulse(self._db, self._clock, part.body_id, part.id) as pulse,
            aclosing(_watched(pulse, expected, chunks)) as watched,
        ):
            return await self._blobs.put(blob_key(part.user_id, part.id), watched)

    async def _give_up(self, user_id: UUID, body_id: UUID) -> None:
        # Where the database is away, or the user is gone, the sweep finds the row.
        with suppress(Unavailable):
            async with self._db.begin() as session:
                account = await AccountRepository(session).lock_if_there(user_id)
                if account is not None:
                    await self.drop_open(session, account, body_id)

    async def _spoil(self, part_id: UUID, key: str) -> None:
        """Give up a part. ``key`` is that of its blob, if that is there.

        The sweep may have removed the row while its process was asleep, and will not come again.
        """
        with suppress(AppError):
            async with self._db.begin() as session:
                is_given_up = await BodyRepository(session).doom_part(part_id)
            if is_given_up and key:
                await self._blobs.delete(key)


def purpose_of(body: BodyRow) -> Purpose:
    return "record" if body.purpose == "record" else "backup"


def _new(intake: Intake) -> BodyRow:
    return BodyRow(
        id=uuid7(),
        user_id=intake.user_id,
        purpose=intake.purpose,
        state=OPEN,
        size_bytes=intake.expected.size_bytes,
    )


def _part(user_id: UUID, body_id: UUID, number: int, expected: Expected) -> PartRow:
    return PartRow(
        id=uuid7(),
        user_id=user_id,
        body_id=body_id,
        number=number,
        state=OPEN,
        size_bytes=expected.size_bytes,
    )


def _gone() -> BytesGone:
    return BytesGone("These bytes were given up meanwhile; try again.")


async def _watched(
    pulse: Pulse, expected: Expected, chunks: AsyncIterator[bytes]
) -> AsyncGenerator[bytes, None]:
    size = 0
    async with aclosing(_patiently(chunks)) as arriving:
        async for chunk in arriving:
            size += len(chunk)
            _not_more(size, expected)
            if pulse.is_gone:
                raise _gone()
            yield chunk
    expected.verify_size(size)


async def _patiently(chunks: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
    """Pass on what comes, and give up on a sender that has fallen silent or never ends."""
    loop = asyncio.get_running_loop()
    end = loop.time() + LONGEST_S
    while True:
        try:
            async with asyncio.timeout_at(min(loop.time() + IDLE_S, end)):
                chunk = await anext(chunks)
        except StopAsyncIteration:
            return
        except TimeoutError:
            raise BodyTruncated("The rest of the body did not come in time.") from None
        yield chunk


def _not_more(size_bytes: int, expected: Expected) -> None:
    if size_bytes > expected.size_bytes:
        expected.verify_size(size_bytes)


@asynccontextmanager
async def _closing(chunks: AsyncIterator[bytes]) -> AsyncGenerator[AsyncIterator[bytes], None]:
    """Let go of the blob when whoever reads it leaves half way."""
    try:
        yield chunks
    finally:
        if isinstance(chunks, AsyncGenerator):
            await chunks.aclose()
