"""One verb, one transaction; and statements that are asked often."""

import asyncio
import secrets
import sqlite3
import struct
import time
from collections.abc import (
    AsyncIterator,
    Callable,
    Coroutine,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from multiprocessing.util import register_after_fork
from typing import Any, Generic, TypeAlias, TypeVar
from uuid import UUID

import msgspec
from sqlalchemy import DateTime, Delete, Dialect, Insert, MetaData, Select, Update, event, text
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
Values: TypeAlias = Mapping[str, Any]


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
    """48 bits of milliseconds, 12 of their fraction, 62 random ones: RFC 9562, 5.7 and 6.2."""
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
    with session:
        session.commit()


def _roll_back(session: Session) -> None:
    with session:
        session.rollback()


class Prepared:
    """A statement that is put together once, and for SQLite compiled once.

    From a session to the driver costs several times what SQLite does with a short statement. So
    there it is given to the driver directly, in the session's transaction; a session of
    PostgreSQL executes it like any other. Its values have the same names each time, those of all
    columns that it writes: no default is filled in, and nothing is flushed before it.
    """

    def __init__(self, statement: Select[Any] | Insert | Update | Delete) -> None:
        self._statement = statement
        self._form: _Form | None = None

    async def rows(self, session: AsyncSession, values: Values) -> Sequence[Sequence[Any]]:
        """What it answers, each row in the order of its columns."""
        link = await _link(session)
        if link is None:
            found: Any = await session.execute(self._statement, values)
            return found.all() if found.returns_rows else ()
        return await self._formed(session, values).ask(link, values)

    async def write(self, session: AsyncSession, rows: Sequence[Values]) -> None:
        """Execute it with each of these values. It answers nothing."""
        link = await _link(session) if rows else None
        if link is not None:
            await self._formed(session, rows[0]).write(link, rows)
        elif rows:
            await session.execute(self._statement, rows)

    def _formed(self, session: AsyncSession, values: Values) -> "_Form":
        if self._form is None:
            self._form = _Form(self._statement, values, session.get_bind().dialect)
        return self._form


class _Form:
    """A statement in SQLite's words, and how its values get there and back."""

    def __init__(self, statement: Any, names: Iterable[str], dialect: Dialect) -> None:
        compiled = statement.compile(dialect=dialect, column_keys=[*names])
        self._text = str(compiled)
        self._outward = [
            (name, compiled.binds[name].type.dialect_impl(dialect).bind_processor(dialect))
            for name in compiled.positiontup
        ]
        self._own = compiled.params  # The values that the statement itself says.
        inward = [
            column.type.dialect_impl(dialect).result_processor(dialect, None)
            for column in statement.exported_columns
        ]
        self._inward = [(at, change) for at, change in enumerate(inward) if change]

    async def ask(self, link: Any, values: Values) -> list[list[Any]]:
        try:
            rows = await link.rows(self._text, self._given(values))
        except sqlite3.Error as error:
            raise self._raised(error) from error
        return [self._read(row) for row in rows]

    async def write(self, link: Any, rows: Sequence[Values]) -> None:
        try:
            await link.write(self._text, [self._given(values) for values in rows])
        except sqlite3.Error as error:
            raise self._raised(error) from error

    def _given(self, values: Values) -> list[Any]:
        told = {**self._own, **values}
        return [change(told[name]) if change else told[name] for name, change in self._outward]

    def _raised(self, error: sqlite3.Error) -> BaseException:
        """As a session raises it, but for the values: they may be somebody's bytes."""
        return DBAPIError.instance(self._text, None, error, sqlite3.Error)

    def _read(self, row: Sequence[Any]) -> list[Any]:
        read = list(row)
        for at, change in self._inward:
            read[at] = change(read[at])
        return read


async def _link(session: AsyncSession) -> Any:
    """SQLite's connection, in the session's transaction; ``None`` where it is another database."""
    if "link" not in session.info:
        session.info["link"] = await session.run_sync(_connected)
    return session.info["link"]


def _connected(session: Session) -> Any:
    connection = session.connection()
    is_sqlite = connection.dialect.name == "sqlite"
    return connection.connection.driver_connection if is_sqlite else None


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
