"""Workers: servers that register themselves, and leave the choice when they fall silent.

The owner's workers serve everybody on the installation, under their models' own names; another
user's serve that user alone, as ``worker/<name>/<model>``.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

import msgspec

from app.kernel import log
from app.kernel.db import Database
from app.kernel.errors import Unavailable
from app.kernel.ports import Clock
from app.modules.auth.api import Principal
from app.modules.routing.domain.workers import (
    HEARTBEAT_S,
    MISSES_LIMIT,
    PREFIX,
    Lease,
    NameTaken,
    Registration,
    TooManyWorkers,
    WorkerRead,
    WorkerTarget,
    WorkerUnknown,
)
from app.modules.routing.models import WorkerRow
from app.modules.routing.ports import Guest, Seal, Source, Upstream
from app.modules.routing.repository import WorkerRepository
from app.outbound.addresses import checked_url

LOOK_EVERY_S: Final = 2.0
# Calls may still be running at a worker that has left the choice.
RETIRED_FOR: Final = timedelta(minutes=15)
RETIRED_LIMIT: Final = 256
KEPT_FOR: Final = timedelta(days=1)
USER_LIMIT: Final = 32
HOUSE_LIMIT: Final = 1000

Connect = Callable[[WorkerTarget], Upstream]
Changed = Callable[[], Awaitable[None]]

_log = log.get("routing")


class LiveWorker(msgspec.Struct, frozen=True):
    """A worker that may be asked now."""

    guest: Guest
    queue_length: int
    heartbeat_at: datetime


class _Terms(msgspec.Struct, frozen=True):
    """What a connection was made by. While it stays the same, so does the connection."""

    target: WorkerTarget
    key_sealed: bytes
    parallel: int


class _Held(msgspec.Struct, frozen=True):
    terms: _Terms
    source: Source
    upstream: Upstream


class Workers:
    """``connect`` makes the upstream of a worker, in a thread. ``on_change`` is awaited when other
    workers are live than before, or the same ones offer something else.
    """

    def __init__(
        self,
        db: Database,
        clock: Clock,
        connect: Connect,
        on_change: Changed,
        seal: Seal,
        *,
        heartbeat_s: float = HEARTBEAT_S,
    ) -> None:
        self._db = db
        self._clock = clock
        self._connect = connect
        self._on_change = on_change
        self._seal = seal
        self._heartbeat_s = heartbeat_s
        self._patience = timedelta(seconds=heartbeat_s * MISSES_LIMIT)
        self._held: dict[str, _Held] = {}
        self._known: list[LiveWorker] = []
        self._told: dict[str, Guest] = {}
        self._retired: list[tuple[datetime, Upstream]] = []
        self._refreshing = asyncio.Lock()
        self._task: asyncio.Task[None] | None = None

    async def open(self) -> None:
        await self.refresh()
        self._task = asyncio.create_task(self._loop(), name="routing-workers")

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
        held = [held.upstream for held in self._held.values()]
        for upstream in (*held, *(upstream for _, upstream in self._retired)):
            await upstream.close()

    def live(self) -> list[LiveWorker]:
        """Answer from memory: who has been heard of lately enough."""
        since = self._clock() - self._patience
        return [worker for worker in self._known if worker.heartbeat_at > since]

    def guests(self) -> list[Guest]:
        """The live workers, as the registry of models takes them."""
        return [worker.guest for worker in self.live()]

    async def register(self, principal: Principal, wanted: Registration) -> Lease:
        """Add a worker, or replace what it said before. It is in the choice at once.

        ``NameTaken`` when the name is another user's, ``TooManyWorkers``, and what
        ``checked_url`` raises for an endpoint that may not be called.
        """
        row = self._row(principal, wanted)
        async with self._db.begin() as session:
            workers = WorkerRepository(session)
            if await workers.count_others(row.user_id, row.name) >= USER_LIMIT:
                raise TooManyWorkers(f"A user may have {USER_LIMIT} workers. Remove one first.")
            if not await workers.put(row):
                raise NameTaken(f"There is a worker {row.name!r} already. Choose another name.")
        await self.refresh()
        return self._lease(row.heartbeat_at)

    async def beat(self, principal: Principal, name: str, queue_length: int | None) -> Lease:
        """Note that a worker lives; ``WorkerUnknown`` tells it to register again."""
        now = self._clock()
        async with self._db.begin() as session:
            workers = WorkerRepository(session)
            if not await workers.beat(name, principal.user_id, now, queue_length):
                raise WorkerUnknown(f"You have no worker {name[:64]!r}. Register it first.")
        await self.refresh()
        return self._lease(now)

    async def list(self, principal: Principal) -> list[WorkerRead]:
        """The caller's workers, or everybody's for the owner; the silent ones too."""
        user_id = None if principal.role == "owner" else principal.user_id
        async with self._db.read() as session:
            rows = await WorkerRepository(session).list(user_id, HOUSE_LIMIT)
        return [self._read(row) for row in rows]

    async def remove(self, principal: Principal, name: str) -> None:
        async with self._db.begin() as session:
            if not await WorkerRepository(session).remove(name, principal.user_id):
                raise WorkerUnknown(f"You have no worker {name[:64]!r}.")
        await self.refresh()

    async def sweep(self) -> None:
        """Forget workers that have been silent for a day."""
        async with self._db.begin() as session:
            await WorkerRepository(session).sweep(self._clock() - KEPT_FOR)

    async def refresh(self) -> None:
        """Read the table, connect whoever is new, and tell of a change."""
        async with self._refreshing:
            since = self._clock() - self._patience
            async with self._db.read() as session:
                rows = await WorkerRepository(session).live(since, HOUSE_LIMIT)
            held = {row.name: await self._hold(row) for row in rows}
            self._retire(held)
            self._held = held
            self._known = [_live(row, held[row.name]) for row in rows]
            await self._close_retired()
            now = {guest.source.name: guest for guest in self.guests()}
            if now != self._told:
                await self._on_change()
                self._told = now

    async def _loop(self) -> None:
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            try:
                await self.refresh()
            except Unavailable:
                _log.warning("routing.workers-wait-for-database")
            except Exception as error:  # noqa: BLE001 - those in memory stay good, the loop goes on
                _log.exception("routing.workers-failed", error)

    def _row(self, principal: Principal, wanted: Registration) -> WorkerRow:
        is_shared = principal.role == "owner"
        return WorkerRow(
            name=wanted.name,
            user_id=principal.user_id,
            is_shared=is_shared,
            endpoint=checked_url(wanted.endpoint, may_be_private=is_shared),
            dialect=wanted.wire,
            models=list(dict.fromkeys(wanted.models)),
            key_sealed=self._sealed(wanted),
            queue_length=wanted.queue_length,
            parallel=wanted.limit,
            heartbeat_at=self._clock(),
        )

    async def _hold(self, row: WorkerRow) -> _Held:
        """Keep the connection of a worker whose terms have not changed, or make a new one."""
        name = PREFIX + row.name
        target = WorkerTarget(
            name=name,
            endpoint=row.endpoint,
            dialect="infer" if row.dialect == "infer" else "openai",
            may_be_private=row.is_shared,
        )
        terms = _Terms(target, row.key_sealed, row.parallel)
        found = self._held.get(row.name)
        if found is not None and found.terms == terms:
            return found
        # In a thread: the first one loads a client library, which takes a while.
        upstream = await asyncio.to_thread(self._connect, target)

        async def connect() -> Upstream:
            return upstream

        source = Source(
            name=name,
            connect=connect,
            is_free=True,
            keys=self._keys(row),
            parallel=row.parallel,
        )
        return _Held(terms, source, upstream)

    def _sealed(self, wanted: Registration) -> bytes:
        if not wanted.key:
            return b""
        return self._seal.seal(wanted.key.encode(), _context(wanted.name))

    def _keys(self, row: WorkerRow) -> tuple[str, ...]:
        if not row.key_sealed:
            return ()
        key = self._seal.unseal(row.key_sealed, _context(row.name))
        if key is None:
            _log.warning("routing.worker-key-unreadable", worker=row.name)
            return ()
        return (key.decode(),)

    def _retire(self, held: dict[str, _Held]) -> None:
        """Set aside the connections of workers that are gone, or came back as others."""
        until = self._clock() + RETIRED_FOR
        for name, former in self._held.items():
            if held.get(name) is not former:
                self._retired.append((until, former.upstream))

    async def _close_retired(self) -> None:
        now = self._clock()
        while self._retired and (self._retired[0][0] <= now or len(self._retired) > RETIRED_LIMIT):
            _, upstream = self._retired.pop(0)
            await upstream.close()

    def _lease(self, heartbeat_at: datetime) -> Lease:
        expires_at = heartbeat_at + self._patience
        return Lease(heartbeat_s=self._heartbeat_s, expires_at=_milliseconds(expires_at))

    def _read(self, row: WorkerRow) -> WorkerRead:
        expires_at = row.heartbeat_at + self._patience
        return WorkerRead(
            name=row.name,
            user_id=row.user_id,
            endpoint=row.endpoint,
            dialect="infer" if row.dialect == "infer" else "openai",
            models=row.models,
            queue_length=row.queue_length,
            limit=row.parallel,
            is_shared=row.is_shared,
            is_live=expires_at > self._clock(),
            last_heartbeat_at=_milliseconds(row.heartbeat_at),
            expires_at=_milliseconds(expires_at),
        )


def _live(row: WorkerRow, held: _Held) -> LiveWorker:
    user_id: UUID | None = None if row.is_shared else row.user_id
    guest = Guest(
        source=held.source,
        upstream=held.upstream,
        models=tuple(row.models),
        created_s=int(row.created_at.timestamp()),
        user_id=user_id,
    )
    return LiveWorker(guest, row.queue_length, row.heartbeat_at)


def _context(name: str) -> bytes:
    """What a sealed key belongs to, so that it is of no use in another worker's row."""
    return b"worker-key:" + name.encode()


def _milliseconds(moment: datetime) -> int:
    return int(moment.timestamp() * 1000)
