"""One verb, one transaction; and one look-up for all who miss the same thing at once."""

import asyncio
import secrets
import sqlite3
import struct
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Hashable, Iterator
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from multiprocessing.util import register_after_fork
from typing import Any, Generic, TypeVar
from uuid import UUID

import msgspec
from sqlalchemy import DateTime, MetaData, event, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import (
    AsyncEngine,
    AsyncSession,
    async_sessionmaker,
    create_async_engine,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column
from sqlalchemy.types import TypeDecorator

from app.kernel.errors import Unavailable
from app.kernel.ports import utc_now

BUSY_TIMEOUT_S = 15
POOL_SIZE = 8
ENTROPY_BYTES = 2048
MASK_62 = (1 << 62) - 1
# SQLite's codes for a mistake in our statement, not a trouble of the database.
SQLITE_BUGS = {sqlite3.SQLITE_ERROR, sqlite3.SQLITE_READONLY}
# Classes of SQLSTATE: connection, rolled back by a rival, no resources, operator, system.
POSTGRES_TROUBLES = {"08", "40", "53", "57", "58"}

T = TypeVar("T")


class UtcDateTime(TypeDecorator[datetime]):
    """An aware moment, stored and answered in UTC. A naive one is refused."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, _: Any) -> datetime | None:
        if value is None:
            return None
        if value.tzinfo is None:
            raise TypeError("a moment without a time zone is no moment")
        return value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, _: Any) -> datetime | None:
        # SQLite keeps no zone.
        return value if value is None or value.tzinfo else value.replace(tzinfo=UTC)


Timestamp = UtcDateTime()


class _Entropy:
    """Random bytes of the operating system, taken in pages.

    Each system call gives the interpreter's lock away, and getting it back costs more than the
    bytes. A forked child must not go on with its parent's page.
    """

    def __init__(self) -> None:
        self._bits: Iterator[int] = iter(())
        register_after_fork(self, _Entropy._forget)

    def bits62(self) -> int:
        for bits in self._bits:
            return bits
        page = secrets.token_bytes(ENTROPY_BYTES)
        self._bits = iter([word & MASK_62 for (word,) in struct.iter_unpack("<Q", page)])
        return next(self._bits)

    def _forget(self) -> None:
        self._bits = iter(())


_entropy = _Entropy()


def uuid7() -> UUID:
    """Make a UUIDv7 that sorts by its making, to a quarter of a microsecond."""
    return UUID(int=_uuid7_bits())


def uuid7_hex() -> str:
    """Make the 32 hexadecimal digits of a UUIDv7, in half of the time."""
    return f"{_uuid7_bits():032x}"


def _uuid7_bits() -> int:
    """48 bits of Unix milliseconds, 12 of the fraction of a millisecond, 62 random ones, after
    RFC 9562 sections 5.7 and 6.2, method 3.
    """
    milliseconds, rest_ns = divmod(time.time_ns(), 1_000_000)
    fraction = rest_ns * 4096 // 1_000_000
    return milliseconds << 80 | 0x7 << 76 | fraction << 64 | 0x2 << 62 | _entropy.bits62()


class Table(DeclarativeBase):
    """Base of every table: ``id`` (UUIDv7), ``created_at``, ``updated_at``."""

    __abstract__ = True
    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s",
            "pk": "pk_%(table_name)s",
        }
    )

    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid7, sort_order=-100)
    created_at: Mapped[datetime] = mapped_column(Timestamp, default=utc_now, sort_order=1000)
    updated_at: Mapped[datetime] = mapped_column(
        Timestamp, default=utc_now, onupdate=utc_now, sort_order=1001
    )


class Page(msgspec.Struct, Generic[T], frozen=True):
    """One page of a list. ``next`` asks for the page after it; ``null`` on the last one."""

    items: list[T]
    next: str | None = None


class DatabaseDown(Unavailable):
    """The database does not answer."""

    title = "Database unavailable"


class Database:
    """Opens transactions. None is ever held open while waiting on anything but the database.

    SQLite has one writer: ``begin`` takes it by a pool of one connection, in the order of asking,
    so that no verb ever meets ``SQLITE_BUSY`` half way; ``read`` sees a snapshot beside it.
    """

    def __init__(self, url: str, jobs: Any) -> None:
        self.is_embedded = url.startswith("sqlite")
        self._jobs = jobs
        self.writer = _sqlite(url, "IMMEDIATE", 1) if self.is_embedded else _postgres(url)
        self.reader = (
            _sqlite(url, "DEFERRED", POOL_SIZE) if self.is_embedded else _snapshots(self.writer)
        )
        self._writes = async_sessionmaker(self.writer, expire_on_commit=False)
        self._reads = async_sessionmaker(self.reader, expire_on_commit=False)

    @asynccontextmanager
    async def begin(self, *, is_durable: bool = False) -> AsyncIterator[AsyncSession]:
        """Commit when the block ends, roll back when it raises; then wake the job runner.

        What is committed survives the end of the process. ``is_durable`` waits until it survives
        a power cut too, which PostgreSQL's commit always does.
        """
        with _Translated():
            session = self._writes()
            session.info["jobs"] = self._jobs
            try:
                yield session
                for write in session.info.get("before_commit", ()):
                    await write()
            except BaseException:
                await _to_its_end(session.run_sync(_roll_back))
                raise
            await _to_its_end(session.run_sync(_commit))
            if is_durable and self.is_embedded:
                await self._until_on_disk()
        if session.info.get("deferred"):
            self._jobs.wake()
        for call in session.info.get("after_commit", ()):
            call()

    @asynccontextmanager
    async def read(self) -> AsyncIterator[AsyncSession]:
        """See one snapshot. Writing here is an error."""
        with _Translated():
            async with self._reads() as session:
                yield session

    async def _until_on_disk(self) -> None:
        dialect: Any = self.writer.dialect
        await dialect.until_on_disk(self.writer.url.database)

    async def ping(self) -> None:
        async with self.read() as session:
            await session.execute(text("select 1"))

    async def close(self) -> None:
        await self.reader.dispose()
        await self.writer.dispose()


def before_commit(session: AsyncSession, write: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Have something written at the end of the transaction, when all else is."""
    session.info.setdefault("before_commit", []).append(write)


def after_commit(session: AsyncSession, call: Callable[[], None]) -> None:
    """Call this when, and only if, the transaction has committed. It must not fail, nor wait."""
    session.info.setdefault("after_commit", []).append(call)


class SingleFlight(Generic[T]):
    """Asks once for each key, however many wait for the answer.

    A memory whose entry has grown old is missed by every caller at once. Who leaves does not end
    the question for the others; a failure is everybody's.
    """

    def __init__(self) -> None:
        self._flights: dict[Hashable, asyncio.Task[T]] = {}

    async def join(self, key: Hashable, ask: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Wait for the answer that is on its way for this key, else ask."""
        flight = self._flights.get(key)
        if flight is None:
            flight = self._flights[key] = asyncio.create_task(ask())
            flight.add_done_callback(lambda ended: self._land(key, ended))
        return await asyncio.shield(flight)

    def _land(self, key: Hashable, ended: "asyncio.Task[T]") -> None:
        del self._flights[key]
        if not ended.cancelled():
            # Whoever waited has it raised; if all have left, it is nobody's.
            ended.exception()


async def _to_its_end(work: Coroutine[Any, Any, None]) -> None:
    """Wait until it is done, also when the caller is cancelled, however often that is."""
    running = asyncio.create_task(work)
    try:
        await asyncio.shield(running)
    except asyncio.CancelledError:
        while not running.done():
            with suppress(asyncio.CancelledError):
                await asyncio.wait([running])
        raise


# Each by one greenlet: SQLAlchemy's own way takes three, and two tasks.
def _commit(session: Session) -> None:
    try:
        session.commit()
    except BaseException:
        session.rollback()
        raise
    finally:
        session.close()


def _roll_back(session: Session) -> None:
    try:
        session.rollback()
    finally:
        session.close()


class _Translated:
    """Turn "the database is gone or busy" into ``DatabaseDown``; leave every other error alone."""

    def __enter__(self) -> None: ...

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if _is_down(error):
            raise DatabaseDown("The database does not answer; try again in a moment.") from error


def _is_down(error: BaseException | None) -> bool:
    if isinstance(error, DBAPIError):
        cause = error.orig
        if isinstance(cause, sqlite3.OperationalError):
            code = getattr(cause, "sqlite_errorcode", sqlite3.SQLITE_ERROR)
            return code & 0xFF not in SQLITE_BUGS
        state: str | None = getattr(cause, "sqlstate", None)
        return error.connection_invalidated or (state or "")[:2] in POSTGRES_TROUBLES
    # A connection that asyncpg cannot make fails with asyncpg's own error, which has a SQLSTATE.
    refused = isinstance(getattr(error, "sqlstate", None), str)
    return refused or isinstance(error, (PoolTimeout, OSError))


def _sqlite(url: str, mode: str, size: int) -> AsyncEngine:
    engine = create_async_engine(
        url,
        pool_size=size,
        max_overflow=0,
        pool_timeout=BUSY_TIMEOUT_S,
        connect_args={"timeout": BUSY_TIMEOUT_S, "isolation_level": None},
        begin=f"BEGIN {mode}",
    )

    query_only = f"query_only={int(mode == 'DEFERRED')}"

    def on_connect(connection: Any, _: Any) -> None:
        try:
            cursor = connection.cursor()
            for pragma in ("journal_mode=WAL", "synchronous=NORMAL", "foreign_keys=ON", query_only):
                cursor.execute(f"PRAGMA {pragma}")
            cursor.close()
        except Exception:
            # The pool does not know this connection yet, so nobody else would end its thread.
            connection.close()
            raise

    event.listen(engine.sync_engine, "connect", on_connect)
    return engine


def _postgres(url: str) -> AsyncEngine:
    return create_async_engine(
        url,
        pool_size=POOL_SIZE,
        max_overflow=POOL_SIZE,
        pool_timeout=BUSY_TIMEOUT_S,
        pool_pre_ping=True,
        connect_args={"timeout": 10, "command_timeout": 60},
    )


def _snapshots(engine: AsyncEngine) -> AsyncEngine:
    """Give the same connections out for reading: one snapshot for the whole transaction."""
    return engine.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
