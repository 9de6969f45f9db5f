"""Storage without its door: the services on a database and a blob store, and counting them."""

import hashlib
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from typing import Any
from uuid import UUID

import msgspec
from sqlalchemy import func, select

from app.kernel.db import Database
from app.kernel.ports import BlobStore, utc_now
from app.modules.auth.api import Principal
from app.modules.auth.models import UserRow
from app.modules.billing.api import Tier
from app.modules.storage.domain.bodies import Draft
from app.modules.storage.domain.digests import Expected
from app.modules.storage.domain.inventory import Findings
from app.modules.storage.models import AccountRow, BodyRow, PartRow
from app.modules.storage.repository.accounts import AccountRepository
from app.modules.storage.service.allowances import Allowances
from app.modules.storage.service.backups import Backups
from app.modules.storage.service.bodies import Bodies, Intake
from app.modules.storage.service.inventory import Inventory
from app.modules.storage.service.records import Records
from app.modules.storage.service.sweep import LEASE_S, Patience, Sweep
from app.modules.storage.service.uploads import Sessions, Targets, Uploads
from tests.fakes.clock import FakeClock

ANNA = UUID(int=1)
BERT = UUID(int=2)
INLINE_BYTES = 16
MOST_BYTES = 1_000_000
PART_BYTES = 65_536
SMALL = b"small"
LARGE = b"0123456789" * 4
DAY_S = 24 * 3600.0
GRACE_S = 900.0
TOMBSTONE_S = 90 * DAY_S


class NoTier:
    """Everybody is an owner, whom no tier limits."""

    async def tier_of(self, principal: Principal) -> Tier | None:
        return None


class Stock(msgspec.Struct, frozen=True):
    """What there is: bytes by the rows, in the store, and by the accounts; rows by state."""

    part_bytes: int
    blob_bytes: int
    kept_bytes: int
    reserved_bytes: int
    states: Counter[str]


class Stockroom:
    """One process' storage."""

    def __init__(self, db: Any, blobs: BlobStore, *, grace_s: float = 0.0) -> None:
        self.db: Database = db
        self.blobs = blobs
        self.clock = FakeClock(utc_now())
        self.told: list[Findings] = []
        self.bodies = Bodies(
            db, blobs, self.clock, inline_bytes=INLINE_BYTES, most_bytes=MOST_BYTES
        )
        allowances = Allowances(NoTier())
        self.records = Records(db, self.bodies, allowances, self.clock)
        self.backups = Backups(db, self.bodies, allowances, self.clock)
        self.uploads = Uploads(
            db,
            self.bodies,
            Targets(self.records, self.backups),
            allowances,
            self.clock,
            Sessions(PART_BYTES, DAY_S, None),
        )
        patience = Patience(grace_s, TOMBSTONE_S)
        self.sweep = Sweep(db, blobs, self.clock, patience, self.uploads.expire)
        self.inventory = Inventory(db, blobs, self.told.append)

    async def take_in(
        self, data: bytes = LARGE, *sha256: str, quota_bytes: int | None = None
    ) -> Draft:
        intake = Intake(ANNA, "record", Expected(len(data), sha256), quota_bytes)
        return await self.bodies.take_in(intake, sent(data))

    async def keep(self, draft: Draft, quota_bytes: int | None = None) -> None:
        async with self.db.begin() as session:
            account = await AccountRepository(session).lock(draft.user_id)
            await self.bodies.keep(session, account, draft, quota_bytes)

    async def kept(self, data: bytes = LARGE) -> Draft:
        draft = await self.take_in(data)
        await self.keep(draft)
        return draft

    async def drop(self, body_id: UUID) -> None:
        async with self.db.begin() as session:
            account = await AccountRepository(session).lock(ANNA)
            await self.bodies.drop(session, account, body_id)

    async def read(self, body_id: UUID, start: int = 0, end: int | None = None) -> bytes:
        return b"".join([chunk async for chunk in self.bodies.read(body_id, start, end)])

    async def sweep_late(self) -> None:
        """When everybody who was in the middle of something must be gone."""
        self.clock.advance(2 * DAY_S + LEASE_S)
        await self.sweep.run()

    async def blob_keys(self) -> list[str]:
        return sorted([key async for key in self.blobs.keys("storage/")])

    async def stock(self) -> Stock:
        blob_bytes = 0
        for key in await self.blob_keys():
            info = await self.blobs.info(key)
            blob_bytes += 0 if info is None else info.size_bytes
        async with self.db.read() as session:
            parts = await session.scalar(select(func.sum(PartRow.size_bytes)))
            accounts = (await session.scalars(select(AccountRow))).all()
            states = Counter(
                [f"body {state}" for state in await session.scalars(select(BodyRow.state))]
                + [f"part {state}" for state in await session.scalars(select(PartRow.state))]
            )
        kept = sum(one.record_bytes + one.backup_bytes for one in accounts)
        reserved = sum(one.record_reserved_bytes + one.backup_reserved_bytes for one in accounts)
        return Stock(int(parts or 0), blob_bytes, kept, reserved, states)


def owner(user_id: UUID = ANNA) -> Principal:
    return Principal(user_id, "key", user_id, "owner", frozenset({"full"}))


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


async def sent(data: bytes, chunk_bytes: int = 15) -> AsyncIterator[bytes]:
    for start in range(0, len(data), chunk_bytes):
        yield data[start : start + chunk_bytes]


async def broken_off(*chunks: bytes) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield chunk
    raise ConnectionResetError("the sender is gone")


async def people(db: Database, user_ids: Sequence[UUID] = (ANNA, BERT)) -> None:
    """The users that everything belongs to."""
    async with db.begin() as session:
        for user_id in user_ids:
            user = UserRow(
                id=user_id,
                email=f"{user_id}@example.org",
                role="member",
                credential_kind="password",
                credential_hash=None,
                kdf_salt="salt",
            )
            session.add(user)
