"""Upload sessions: a large body in parts, over any number of connections and restarts."""

from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Final, TypeAlias
from uuid import UUID

import msgspec
from sqlalchemy.ext.asyncio import AsyncSession

from app.kernel.db import Database
from app.kernel.ports import BlobLink, BlobLinks, Clock
from app.modules.auth.api import Principal
from app.modules.storage.domain.allowances import (
    Allowance,
    Sums,
    quota_of,
    require_room,
    require_size,
    require_tier,
)
from app.modules.storage.domain.backups import Backup
from app.modules.storage.domain.bodies import Draft
from app.modules.storage.domain.conditions import Condition, PreconditionRequired, decide
from app.modules.storage.domain.digests import DigestMismatch, Expected, same
from app.modules.storage.domain.records import Written, refuse_retired, state_of
from app.modules.storage.domain.uploads import (
    ABORTED,
    COMMITTED,
    EXPIRED,
    OPEN,
    SESSIONS_LIMIT,
    Completion,
    Layout,
    NoSuchUpload,
    PartsChanged,
    RecordTarget,
    Target,
    Upload,
    UploadOrder,
    UploadsTooMany,
    gone,
    layout_of,
    purpose_of,
    require_open,
)
from app.modules.storage.models import AccountRow, UploadRow
from app.modules.storage.repository.accounts import AccountRepository, sums_of
from app.modules.storage.repository.bodies import BodyRepository
from app.modules.storage.repository.records import RecordRepository
from app.modules.storage.repository.uploads import UploadRepository
from app.modules.storage.service.allowances import Allowances
from app.modules.storage.service.backups import Backups
from app.modules.storage.service.bodies import Bodies, Intake
from app.modules.storage.service.digests import Digests
from app.modules.storage.service.parts import Parts
from app.modules.storage.service.records import Records, RecordWrite

# Sessions that one round of the sweep ends, in batches.
EXPIRED_A_BATCH: Final = 100
BATCHES_A_ROUND: Final = 100
# Whoever asks for an ended session learns for so long what became of it.
REMEMBERED_S: Final = 7 * 24 * 3600.0

Result: TypeAlias = Written | Backup
_TARGET: Final = msgspec.json.Decoder(Target)


class Targets(msgspec.Struct, frozen=True):
    """What an upload may become."""

    records: Records
    backups: Backups


class Sessions(msgspec.Struct, frozen=True):
    """How large a part is where nobody says, how long a session lasts, and who makes links."""

    part_bytes: int
    lasts_s: float
    links: BlobLinks | None


class Uploads:
    def __init__(
        self,
        db: Database,
        bodies: Bodies,
        targets: Targets,
        allowances: Allowances,
        clock: Clock,
        sessions: Sessions,
    ) -> None:
        self._db = db
        self._bodies = bodies
        self._targets = targets
        self._allowances = allowances
        self._clock = clock
        self._sessions = sessions
        self._parts = Parts(db, bodies, clock, sessions.links)
        self._digests = Digests(bodies, reads_all=sessions.links is not None)

    async def create(self, principal: Principal, order: UploadOrder) -> Upload:
        """Open a session, and reserve the room of its body."""
        user_id, purpose = principal.user_id, purpose_of(order.target)
        allowance = await self._allowances.of(principal)
        require_tier(allowance, purpose)
        require_size(order.size_bytes, self._bodies.most_bytes)
        layout = layout_of(order.size_bytes, order.part_bytes, self._sessions.part_bytes)
        expected, quota = Expected(order.size_bytes), quota_of(allowance, purpose)
        async with self._db.begin(is_durable=True) as session:
            account = await AccountRepository(session).lock(user_id)
            await self._require_wanted(session, user_id, order)
            intake = Intake(user_id, purpose, expected, quota)
            body = await self._bodies.open_body(session, account, intake)
            row = UploadRow(
                id=body.id,
                user_id=user_id,
                state=OPEN,
                target=msgspec.json.encode(order.target),
                size_bytes=order.size_bytes,
                part_bytes=layout.part_bytes,
                sha256=order.sha256,
                expires_at=self._clock() + timedelta(seconds=self._sessions.lasts_s),
            )
            await UploadRepository(session).add(row)
        return _upload(row)

    async def get(self, user_id: UUID, upload_id: UUID) -> Upload:
        """Which parts are there, those that were sent by link among them."""
        upload = await self._find(user_id, upload_id)
        return msgspec.structs.replace(upload, parts=await self._parts.arrived(upload))

    async def put_part(
        self,
        user_id: UUID,
        upload_id: UUID,
        number: int,
        expected: Expected,
        chunks: AsyncIterator[bytes],
    ) -> str:
        """Receive one part, which replaces what is there of this number; its SHA-256."""
        upload = await self._open(user_id, upload_id)
        return await self._parts.put(upload, number, expected, chunks)

    async def link(self, user_id: UUID, upload_id: UUID, number: int, sha256: str) -> BlobLink:
        """Let the sender put one part into the bucket: these bytes, and no others."""
        upload = await self._open(user_id, upload_id)
        return await self._parts.link(upload, number, sha256)

    async def complete(
        self, principal: Principal, upload_id: UUID, completion: Completion
    ) -> Result:
        """Show the body as what it was sent for, once; whoever asks again gets the same answer.

        Where this fails, the session stays open: send what is missing, or another condition.
        """
        upload = await self._find(principal.user_id, upload_id)
        if upload.state == COMMITTED:
            return await self._result(upload)
        parts = await self._parts.arrived(upload)
        upload.layout.require_all(part.number for part in parts)
        sha256 = await self._digests.of(upload_id, parts)
        for said in filter(None, (upload.sha256, completion.sha256)):
            if not same(sha256, said):
                raise DigestMismatch(
                    "The SHA-256 of all parts together is another one; send the wrong part again."
                )
        allowance = await self._allowances.of(principal)
        require_tier(allowance, purpose_of(upload.target))
        whole = msgspec.structs.replace(upload, parts=parts, sha256=sha256)
        return await self._commit(whole, completion.condition, allowance)

    async def abort(self, user_id: UUID, upload_id: UUID) -> None:
        """Give up a session and its room."""
        async with self._db.begin(is_durable=True) as session:
            account = await AccountRepository(session).lock(user_id)
            row = await UploadRepository(session).owned(upload_id, user_id)
            if row is None:
                raise _unknown()
            require_open(row.state, row.expires_at, self._clock())
            row.state = ABORTED
            await self._bodies.drop_open(session, account, upload_id)

    async def expire(self) -> None:
        """End sessions whose time is over; forget those that ended long ago."""
        for _ in range(BATCHES_A_ROUND):
            async with self._db.read() as session:
                due = await UploadRepository(session).due(self._clock(), EXPIRED_A_BATCH)
            for user_id, upload_id in due:
                await self._expire(user_id, upload_id)
            if len(due) < EXPIRED_A_BATCH:
                break
        async with self._db.begin() as session:
            before = self._clock() - timedelta(seconds=REMEMBERED_S)
            await UploadRepository(session).forget(before)

    async def _expire(self, user_id: UUID, upload_id: UUID) -> None:
        async with self._db.begin() as session:
            account = await AccountRepository(session).lock_if_there(user_id)
            row = await UploadRepository(session).owned(upload_id, user_id)
            if account is not None and row is not None and row.state == OPEN:
                row.state = EXPIRED
                await self._bodies.drop_open(session, account, upload_id)

    async def _require_wanted(
        self, session: AsyncSession, user_id: UUID, order: UploadOrder
    ) -> None:
        """Refuse at the beginning what would be refused in the end."""
        if await UploadRepository(session).open_count(user_id) >= SESSIONS_LIMIT:
            raise UploadsTooMany(f"Complete or abort one of your {SESSIONS_LIMIT} uploads first.")
        target = order.target
        if not isinstance(target, RecordTarget):
            await self._targets.backups.check(session, user_id, target.write, order.sha256)
            return
        there = await RecordRepository(session).find(user_id, target.id)
        key_id = target.key_id
        if key_id is None:
            key_id = "" if there is None else there.key_id
        if target.condition is not None:
            decide(target.condition, state_of(there), (order.sha256, target.table, key_id))
        refuse_retired(key_id, await AccountRepository(session).retired(user_id, [key_id]))

    async def _commit(
        self, upload: Upload, condition: Condition | None, allowance: Allowance
    ) -> Result:
        async with self._db.begin(is_durable=True) as session:
            account = await AccountRepository(session).lock(upload.user_id)
            row = await UploadRepository(session).owned(upload.id, upload.user_id)
            if row is None:
                raise _unknown()
            if row.state == COMMITTED:
                return _stored(row)
            require_open(row.state, row.expires_at, self._clock())
            await self._require_same(session, upload)
            self._require_room(account, upload, allowance)
            result = await self._show(session, account, upload, condition, allowance)
            if result.is_again:
                await self._bodies.drop_open(session, account, upload.id)
            row.state = COMMITTED
            row.result = msgspec.json.encode(result)
        return result

    async def _show(
        self,
        session: AsyncSession,
        account: AccountRow,
        upload: Upload,
        condition: Condition | None,
        allowance: Allowance,
    ) -> Result:
        target, purpose = upload.target, purpose_of(upload.target)
        size = upload.layout.size_bytes
        draft = Draft(upload.id, upload.user_id, purpose, size, upload.sha256)
        if not isinstance(target, RecordTarget):
            backups = self._targets.backups
            return await backups.commit(session, account, target.write, draft, allowance)
        condition = condition or target.condition
        if condition is None:
            raise PreconditionRequired("Say with if_match or if_none_match what this replaces.")
        write = RecordWrite(target.id, condition, target.table, target.key_id)
        return await self._targets.records.commit(session, account, write, draft, allowance)

    async def _require_same(self, session: AsyncSession, upload: Upload) -> None:
        """No part may come from now on, and none may have come since they were read."""
        repository = BodyRepository(session)
        if not await repository.touch(upload.id, self._clock()):
            raise gone()
        now = [part.id for part in await repository.parts(upload.id)]
        if now != [part.id for part in upload.parts]:
            raise PartsChanged("A part was sent again meanwhile; complete the upload again.")

    def _require_room(self, account: AccountRow, upload: Upload, allowance: Allowance) -> None:
        """Its room is reserved, but the tier may be a smaller one since."""
        purpose, size = purpose_of(upload.target), upload.layout.size_bytes
        sums = sums_of(account, purpose)
        others = Sums(sums.used_bytes, sums.reserved_bytes - size)
        require_room(others, size, quota_of(allowance, purpose))

    async def _result(self, upload: Upload) -> Result:
        async with self._db.read() as session:
            row = await UploadRepository(session).owned(upload.id, upload.user_id)
        if row is None:
            raise _unknown()
        return _stored(row)

    async def _open(self, user_id: UUID, upload_id: UUID) -> Upload:
        upload = await self._find(user_id, upload_id)
        require_open(upload.state, upload.expires_at, self._clock())
        return upload

    async def _find(self, user_id: UUID, upload_id: UUID) -> Upload:
        """``UploadGone`` for one that has ended without becoming anything."""
        async with self._db.read() as session:
            row = await UploadRepository(session).owned(upload_id, user_id)
        if row is None:
            raise _unknown()
        if row.state != COMMITTED:
            require_open(row.state, row.expires_at, self._clock())
        return _upload(row)


def _upload(row: UploadRow) -> Upload:
    return Upload(
        id=row.id,
        user_id=row.user_id,
        state=row.state,
        target=_TARGET.decode(row.target),
        layout=Layout(row.size_bytes, row.part_bytes),
        sha256=row.sha256,
        expires_at=row.expires_at,
    )


def _stored(row: UploadRow) -> Result:
    """What the commit answered."""
    result = row.result or b""
    if isinstance(_TARGET.decode(row.target), RecordTarget):
        written = msgspec.json.decode(result, type=Written)
        return msgspec.structs.replace(written, is_again=True)
    return msgspec.structs.replace(msgspec.json.decode(result, type=Backup), is_again=True)


def _unknown() -> NoSuchUpload:
    return NoSuchUpload("There is no such upload.")
