"""A house with callers of its storage, or storage alone on a database of the test's choice."""

import asyncio
import base64
import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import httpx
from sqlalchemy import select

from app.adapters.blobs.local import LocalBlobStore
from app.adapters.cache.memory import MemoryCache
from app.asgi import Insula
from app.kernel.db import Database
from app.kernel.keys import Keyring
from app.kernel.module import House, Kit
from app.kernel.ports import BlobStore, Clock, utc_now
from app.modules.auth.api import Principal
from app.modules.auth.models import UserRow
from app.modules.billing.api import Tier, Tiers
from app.modules.storage.domain.bodies import KEPT
from app.modules.storage.domain.conditions import Condition
from app.modules.storage.domain.digests import Expected
from app.modules.storage.domain.records import Pick, Written
from app.modules.storage.models import AccountRow, BodyRow, RecordRow, RevisionRow
from app.modules.storage.module import StorageModule
from app.modules.storage.repository.accounts import AccountRepository
from app.modules.storage.service.records import Incoming, RecordDeletion, RecordWrite
from app.modules.storage.settings import StorageSettings
from tests.house import AUTHORIZED, open_house, prepare
from tests.modules.auth.people import SECRET

ANNA = UUID(int=1)
BERT = UUID(int=2)
PASSWORD = "long enough for a test"
RECORDS = "/api/v1/storage/records"
CREATE = {"if-none-match": "*"}
# A tombstone's in place of a digest.
NO_SHA256 = "0" * 64


def sha256(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()


def content_digest(body: bytes) -> str:
    return f"sha-256=:{base64.b64encode(hashlib.sha256(body).digest()).decode()}:"


def sealed(body: bytes, **more: Any) -> dict[str, Any]:
    """The members of a JSON form that carry a body."""
    return {"blob": base64.b64encode(body).decode(), "checksum": sha256(body), **more}


def problem(answer: httpx.Response) -> tuple[int, str]:
    assert answer.headers["content-type"] == "application/problem+json", answer.text
    return answer.status_code, answer.json()["type"].removeprefix("urn:problem:")


class Desk:
    """One caller of a house's storage."""

    def __init__(self, house: Insula, client: httpx.AsyncClient, headers: dict[str, str]) -> None:
        self.house = house
        self.client = client
        self.headers = headers

    @property
    def storage(self) -> StorageModule:
        return next(m for m in self.house.block.modules if isinstance(m, StorageModule))

    async def ask(
        self, method: str, path: str, headers: dict[str, str] | None = None, **more: Any
    ) -> httpx.Response:
        """Any route of storage; ``path`` goes behind ``/api/v1/storage``, or is whole."""
        url = path if path.startswith("/api/") else f"/api/v1/storage{path}"
        return await self.client.request(
            method, url, headers=self.headers | (headers or {}), **more
        )

    async def put(
        self, record_id: Any, body: bytes, headers: dict[str, str] = CREATE, table: str = "notes"
    ) -> httpx.Response:
        """A raw body, which is created where the headers say nothing else."""
        given = {"content-type": "application/octet-stream", "x-table": table} | headers
        return await self.ask("PUT", f"/records/{record_id}", given, content=body)

    async def made(self, body: bytes = b"sealed", table: str = "notes") -> tuple[str, str]:
        """The id and the ETag of a new record."""
        record_id = str(uuid4())
        answer = await self.put(record_id, body, table=table)
        assert answer.status_code == 201, answer.text
        return record_id, answer.headers["etag"]

    async def get(self, record_id: Any, query: str = "", **headers: str) -> httpx.Response:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return await self.ask("GET", f"/records/{record_id}{query}", named)

    async def delete(self, record_id: Any, etag: str, query: str = "") -> httpx.Response:
        return await self.ask("DELETE", f"/records/{record_id}{query}", {"if-match": etag})

    async def changes(self, cursor: str | None = None, **query: Any) -> dict[str, Any]:
        given = query if cursor is None else {"cursor": cursor, **query}
        answer = await self.ask("GET", "/changes", params=given)
        assert answer.status_code == 200, answer.text
        return answer.json()

    async def usage(self) -> dict[str, Any]:
        answer = await self.ask("GET", "/usage")
        assert answer.status_code == 200, answer.text
        return answer.json()

    async def user_id(self) -> UUID:
        return UUID((await self.ask("GET", "/api/v1/auth/me")).json()["id"])

    async def member(self, name: str, tier: Tier | None = "pro") -> "Desk":
        """Somebody else, in a tier; ``None`` leaves the one that everybody begins in."""
        # A house that a file's tests share has many of one name.
        body = {"email": f"{name}-{uuid4().hex}@example.org", "password": PASSWORD}
        made = await self.client.post("/api/v1/auth/register", json=body)
        headers = {"authorization": f"Bearer {made.json()['access_token']}"}
        member = Desk(self.house, self.client, headers)
        if tier is not None:
            await member.move(tier)
        return member

    async def move(self, tier: Tier) -> None:
        """Have the owner of the house put this caller into a tier."""
        url = f"/api/v1/billing/accounts/{await self.user_id()}"
        answer = await self.client.put(url, json={"tier": tier}, headers=AUTHORIZED)
        assert answer.status_code == 200, answer.text

    async def fill(self, used_bytes: int) -> None:
        """Pretend that so much is stored already."""
        await fill(self.house.db, await self.user_id(), used_bytes)


@asynccontextmanager
async def open_desk(data: Path, **changes: str) -> AsyncIterator[Desk]:
    """The whole house on SQLite, and its owner, whom no tier limits."""
    async with open_house(prepare(data), **changes) as (house, client):
        yield Desk(house, client, AUTHORIZED)


class FixedTiers:
    """Says who is in which tier, and changes its mind when a test says so."""

    def __init__(self, tier: Tier | None) -> None:
        self.tier = tier

    async def tier_of(self, principal: Principal) -> Tier | None:
        return self.tier


class Shelf:
    """Storage without HTTP, with two users, on a database of the test's choice."""

    def __init__(self, db: Database, storage: StorageModule, tiers: FixedTiers) -> None:
        self.db = db
        self.storage = storage
        self.tiers = tiers

    async def put(
        self,
        record_id: UUID,
        body: bytes,
        condition: Condition = Condition(is_new=True),  # noqa: B008 - it is frozen
        *,
        user_id: UUID = ANNA,
        table: str | None = "notes",
        key_id: str | None = None,
    ) -> Written:
        write = RecordWrite(record_id, condition, table, key_id)
        incoming = Incoming(Expected(len(body)), once(body))
        return await self.storage.records.put(principal(user_id), write, incoming)

    async def delete(
        self, record_id: UUID, etag: str, *, is_final: bool = False, user_id: UUID = ANNA
    ) -> Written:
        deletion = RecordDeletion(record_id, Condition(etag=etag), is_final=is_final)
        return await self.storage.records.delete(principal(user_id), deletion)

    async def restore(
        self, record_id: UUID, rev: int, etag: str, *, user_id: UUID = ANNA
    ) -> Written:
        write = RecordWrite(record_id, Condition(etag=etag))
        return await self.storage.records.restore(principal(user_id), write, rev)

    async def body(self, record_id: UUID, rev: int | None = None, *, user_id: UUID = ANNA) -> bytes:
        """All bytes of a record, or of an earlier revision."""
        records = self.storage.records
        found = await records.get(user_id, record_id, None if rev is None else Pick(rev))
        if found.inline is not None:
            return found.inline
        chunks = records.read(found, 0, found.revision.size_bytes)
        return b"".join([chunk async for chunk in chunks])

    async def account(self, user_id: UUID = ANNA) -> AccountRow:
        async with self.db.read() as session:
            found = await AccountRepository(session).find(user_id)
        assert found is not None
        return found


async def audit(db: Database, user_id: UUID = ANNA) -> None:
    """What must hold whenever nothing is on its way: sums, numbers and bodies are exact."""
    async with db.read() as session:
        account = await AccountRepository(session).find(user_id)
        bodies = await session.execute(
            select(BodyRow.id, BodyRow.size_bytes).where(
                BodyRow.user_id == user_id, BodyRow.purpose == "record", BodyRow.state == KEPT
            )
        )
        kept = dict(bodies.tuples().all())
        shown: list[tuple[int, UUID | None]] = []
        for table in (RecordRow, RevisionRow):
            rows = await session.execute(
                select(table.seq, table.body_id).where(table.user_id == user_id)
            )
            shown += rows.tuples().all()
    assert account is not None
    assert account.record_bytes == sum(kept.values())
    assert account.record_reserved_bytes == 0
    assert {body_id for _, body_id in shown if body_id} == kept.keys()
    numbers = [seq for seq, _ in shown]
    assert len(set(numbers)) == len(numbers)
    assert max(numbers, default=0) <= account.seq


@asynccontextmanager
async def open_shelf(
    db: Database,
    folder: Path,
    *,
    tier: Tier | None = None,
    clock: Clock = utc_now,
    blobs: BlobStore | None = None,
    **settings: int,
) -> AsyncIterator[Shelf]:
    """The storage of a database that has its tables, with blobs in a folder."""
    house = House(version="0", data_dir=str(folder), is_loopback=True)
    store = blobs or LocalBlobStore(folder / "blobs")
    kit = Kit(db, MemoryCache(), store, Keyring([SECRET]), house, clock)  # type: ignore[arg-type]
    tiers = FixedTiers(tier)
    kit.share({Tiers: tiers})
    storage = StorageModule(StorageSettings(**settings), kit)
    await people(db)
    await storage.open()
    try:
        yield Shelf(db, storage, tiers)
    finally:
        await storage.close()


def principal(user_id: UUID = ANNA) -> Principal:
    return Principal(user_id, "session", user_id, "member", frozenset({"full"}))


async def people(db: Database) -> None:
    """The users that records belong to."""
    async with db.begin() as session:
        for number, user_id in enumerate((ANNA, BERT)):
            user = UserRow(
                id=user_id,
                email=f"{number}@example.org",
                role="member",
                credential_kind="password",
                credential_hash=None,
                kdf_salt="salt",
            )
            session.add(user)


async def fill(db: Database, user_id: UUID, used_bytes: int) -> None:
    """Pretend that so many bytes of records are stored already."""
    async with db.begin() as session:
        account = await AccountRepository(session).lock(user_id)
        account.record_bytes = used_bytes


async def once(*pieces: bytes) -> AsyncIterator[bytes]:
    """A body as it comes over a connection."""
    for piece in pieces:
        await asyncio.sleep(0)
        yield piece
