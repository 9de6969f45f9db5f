"""Somebody who sends large bodies and backups, to a house in this process or to a server."""

import hashlib
from typing import Any, NamedTuple
from uuid import UUID

import httpx
from sqlalchemy import func, select

from app.kernel.db import Database
from app.modules.billing.api import Tier
from app.modules.storage.domain.bodies import DOOMED, KEPT, OPEN
from app.modules.storage.models import AccountRow, BodyRow, PartRow
from tests.house import AUTHORIZED
from tests.modules.storage.desks import Desk, sha256

PART_BYTES = 65_536
# Three parts, the last one short.
BODY = b"".join(hashlib.sha512(number.to_bytes(4, "big")).digest() for number in range(2500))
UPLOADS = "/api/v1/storage/uploads"
BACKUP = "/api/v1/backup"


def cut(data: bytes, part_bytes: int = PART_BYTES) -> list[bytes]:
    return [data[start : start + part_bytes] for start in range(0, len(data), part_bytes)]


class Sums(NamedTuple):
    """Bytes of one user."""

    records: int = 0
    records_reserved: int = 0
    backups: int = 0
    backups_reserved: int = 0


class Sender:
    """One caller."""

    def __init__(self, client: httpx.AsyncClient, headers: dict[str, str] = AUTHORIZED) -> None:
        self.client = client
        self.headers = headers

    async def ask(self, method: str, path: str, **given: Any) -> httpx.Response:
        headers = self.headers | given.pop("headers", {})
        return await self.client.request(method, path, headers=headers, timeout=60, **given)

    async def begin(self, **order: Any) -> httpx.Response:
        """A session for a backup of ``BODY``, where the test says nothing else."""
        usual = {
            "target": "backup",
            "version": 1,
            "timestamp": 1000,
            "size_bytes": len(BODY),
            "part_bytes": PART_BYTES,
        }
        return await self.ask("POST", UPLOADS, json=usual | order)

    async def begun(self, **order: Any) -> str:
        answer = await self.begin(**order)
        assert answer.status_code == 201, answer.text
        return answer.json()["id"]

    async def send_part(
        self, upload_id: str, number: int, data: bytes, **headers: str
    ) -> httpx.Response:
        path = f"{UPLOADS}/{upload_id}/parts/{number}"
        return await self.ask("PUT", path, content=data, headers=headers)

    async def send(self, upload_id: str, data: bytes = BODY) -> None:
        """All parts."""
        for number, part in enumerate(cut(data), 1):
            answer = await self.send_part(upload_id, number, part)
            assert answer.status_code == 200, answer.text

    async def sent(self, **order: Any) -> str:
        """A session all of whose parts are there."""
        upload_id = await self.begun(**order)
        await self.send(upload_id)
        return upload_id

    async def complete(self, upload_id: str, **said: Any) -> httpx.Response:
        return await self.ask("POST", f"{UPLOADS}/{upload_id}/complete", json=said)

    async def look(self, upload_id: str) -> httpx.Response:
        return await self.ask("GET", f"{UPLOADS}/{upload_id}")

    async def abort(self, upload_id: str) -> httpx.Response:
        return await self.ask("DELETE", f"{UPLOADS}/{upload_id}")

    async def numbers(self, upload_id: str) -> list[int]:
        """Of the parts that are there."""
        return [part["number"] for part in (await self.look(upload_id)).json()["parts"]]

    async def back_up(
        self, version: int, data: bytes = BODY, timestamp: int = 1000, **headers: str
    ) -> httpx.Response:
        about = {
            "x-backup-version": str(version),
            "x-backup-timestamp": str(timestamp),
            "x-backup-checksum": sha256(data),
        }
        return await self.ask("PUT", BACKUP, content=data, headers=about | headers)

    async def latest(self, **headers: str) -> httpx.Response:
        return await self.ask("GET", BACKUP, headers=headers)


class Yard:
    """A house in this process, and the owner of what is sent there."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        self.owner = Sender(desk.client, desk.headers)

    async def member(self, name: str, tier: Tier = "pro") -> Sender:
        """Somebody in a tier."""
        desk = await self.desk.member(name, tier)
        return Sender(desk.client, desk.headers)

    async def move(self, sender: Sender, tier: Tier) -> None:
        """Put somebody into another tier."""
        await Desk(self.desk.house, sender.client, sender.headers).move(tier)

    async def sums(self, sender: Sender) -> Sums:
        me = await sender.ask("GET", "/api/v1/auth/me")
        return await sums_of(self.desk.house.db, UUID(me.json()["id"]))

    async def part_states(self) -> list[str]:
        """Of every part that the owner has sent, or was given a link for."""
        its = PartRow.user_id == await self.desk.user_id()
        async with self.desk.house.db.read() as session:
            return sorted(await session.scalars(select(PartRow.state).where(its)))


async def sums_of(db: Database, user_id: UUID) -> Sums:
    """What the account says, which must be what its bodies are, counted anew."""
    counted = (
        select(BodyRow.purpose, BodyRow.state, func.sum(BodyRow.size_bytes))
        .where(BodyRow.user_id == user_id, BodyRow.state != DOOMED)
        .group_by(BodyRow.purpose, BodyRow.state)
    )
    async with db.read() as session:
        row = await session.get(AccountRow, user_id)
        found = {(one, state): int(size) for one, state, size in await session.execute(counted)}
    kinds = [("record", KEPT), ("record", OPEN), ("backup", KEPT), ("backup", OPEN)]
    true = Sums(*(found.get(kind, 0) for kind in kinds))
    if row is not None:
        told = Sums(
            row.record_bytes, row.record_reserved_bytes, row.backup_bytes, row.backup_reserved_bytes
        )
        assert told == true
    return true
