"""Sequences of what a caller does to a store, and what the caller may count on afterwards."""

from collections.abc import Sequence
from uuid import UUID

import msgspec

from app.kernel.errors import AppError
from app.modules.storage.domain.conditions import Condition
from app.modules.storage.domain.digests import Expected
from app.modules.storage.domain.uploads import Completion, RecordTarget, UploadOrder
from app.modules.storage.service.records import Incoming, RecordDeletion, RecordWrite
from tests.modules.storage.stockrooms import (
    ANNA,
    LARGE,
    PART_BYTES,
    Stockroom,
    broken_off,
    owner,
    sent,
)

# A record that is there has bytes, a deleted one none.
DELETED = b""
RECORDS = 3


class Deed(msgspec.Struct, frozen=True):
    """One thing a caller does to one record. ``size`` is that of what is written."""

    verb: str
    record: int = 0
    size: int = 8


class Script(msgspec.Struct, frozen=True):
    """What is done in peace, and what a process dies of."""

    deeds: tuple[Deed, ...]
    given: tuple[Deed, ...] = ()


# Every verb, with bodies in the database and in the store. Short ones: there is a death at each
# step of each. What one script dies of, another one may take as given.
STORED = (Deed("put", 0, 40),)
SCRIPTS = {
    "writes": Script(
        (Deed("put", 0, 8), Deed("put", 0, 40), Deed("put", 1, 50), Deed("put", 0, 9))
    ),
    "refused": Script((Deed("break", 0, 50), Deed("mismatch", 1, 50)), STORED),
    "deleted": Script((Deed("delete", 0), Deed("put", 0, 50), Deed("sweep")), STORED),
    "purged": Script((Deed("put", 0, 50), Deed("purge", 0), Deed("sweep")), STORED),
    "uploaded": Script((Deed("upload", 0, PART_BYTES + 30), Deed("put", 0, 40))),
    "given-up": Script(
        (Deed("give_up"),),
        (Deed("abandon", 0, PART_BYTES + 1), Deed("abandon", 1, PART_BYTES + 1)),
    ),
}


class Caller:
    """Does deeds one after another, and remembers what was promised.

    ``promised`` is what each record held when the last deed to it was answered, ``maybe`` what it
    holds if the deed on which the process died was done.
    """

    def __init__(self, room: Stockroom) -> None:
        self.room = room
        self.promised: dict[int, bytes] = {}
        self.maybe: dict[int, bytes] = {}
        self._etags: dict[int, str] = {}
        self._abandoned: list[UUID] = []
        self._count = 0

    async def do(self, deeds: Sequence[Deed]) -> None:
        for deed in deeds:
            self._count += 1
            await getattr(self, f"_{deed.verb}")(deed)

    async def _put(self, deed: Deed) -> None:
        data = self._data(deed)
        self.maybe = {deed.record: data}
        incoming = Incoming(Expected(len(data)), sent(data, 1 + len(data) // 2))
        written = await self.room.records.put(owner(), self._write(deed), incoming)
        self._keep(deed, data, written.etag)

    async def _break(self, deed: Deed) -> None:
        data = self._data(deed)
        incoming = Incoming(Expected(len(data)), broken_off(data[:20]))
        await self._refused(deed, incoming, ConnectionResetError)

    async def _mismatch(self, deed: Deed) -> None:
        data = self._data(deed)
        incoming = Incoming(Expected(len(data), ("0" * 64,)), sent(data))
        await self._refused(deed, incoming, AppError)

    async def _refused(self, deed: Deed, incoming: Incoming, error: type[Exception]) -> None:
        try:
            await self.room.records.put(owner(), self._write(deed), incoming)
        except error:
            return
        raise AssertionError("This cannot have been stored.")

    async def _delete(self, deed: Deed) -> None:
        await self._bury(deed, is_final=False)

    async def _purge(self, deed: Deed) -> None:
        await self._bury(deed, is_final=True)

    async def _bury(self, deed: Deed, *, is_final: bool) -> None:
        if self.promised.get(deed.record, DELETED) == DELETED:
            return
        self.maybe = {deed.record: DELETED}
        condition = Condition(etag=self._etags[deed.record])
        deletion = RecordDeletion(record_id(deed), condition, is_final)
        written = await self.room.records.delete(owner(), deletion)
        self._keep(deed, DELETED, written.etag)

    async def _upload(self, deed: Deed) -> None:
        data = self._data(deed)
        upload_id = await self._sent(deed, data)
        self.maybe = {deed.record: data}
        result = await self.room.uploads.complete(owner(), upload_id, Completion())
        self._keep(deed, data, result.etag)

    async def _abandon(self, deed: Deed) -> None:
        self._abandoned.append(await self._sent(deed, self._data(deed)))

    async def _give_up(self, _: Deed) -> None:
        if self._abandoned:
            await self.room.uploads.abort(ANNA, self._abandoned.pop())

    async def _sweep(self, _: Deed) -> None:
        await self.room.sweep.run()

    async def _sent(self, deed: Deed, data: bytes) -> UUID:
        write = self._write(deed)
        target = RecordTarget(write.record_id, "notes", "", write.condition)
        order = UploadOrder(target, len(data), PART_BYTES)
        upload = await self.room.uploads.create(owner(), order)
        for start in (PART_BYTES, 0, PART_BYTES):
            part = data[start : start + PART_BYTES]
            number = start // PART_BYTES + 1
            await self.room.uploads.put_part(
                ANNA, upload.id, number, Expected(len(part)), sent(part, PART_BYTES)
            )
        return upload.id

    def _write(self, deed: Deed) -> RecordWrite:
        is_there = self.promised.get(deed.record, DELETED) != DELETED
        condition = Condition(etag="*") if is_there else Condition(is_new=True)
        return RecordWrite(record_id(deed), condition, "notes")

    def _data(self, deed: Deed) -> bytes:
        """Other bytes for each deed."""
        text = b"%d %s" % (self._count, LARGE)
        return (text * (deed.size // len(text) + 1))[: deed.size]

    def _keep(self, deed: Deed, data: bytes, etag: str) -> None:
        self.promised[deed.record] = data
        self._etags[deed.record] = etag
        self.maybe = {}


def record_id(deed: Deed) -> UUID:
    return UUID(int=100 + deed.record)


async def held(room: Stockroom) -> dict[int, bytes]:
    """What the records hold; a record that is deleted, or never was, does not count."""
    found: dict[int, bytes] = {}
    for number in range(RECORDS):
        try:
            record = await room.records.get(ANNA, record_id(Deed("put", number)))
        except AppError:
            continue
        size = record.revision.size_bytes
        found[number] = b"".join([c async for c in room.records.read(record, 0, size)])
    return found
