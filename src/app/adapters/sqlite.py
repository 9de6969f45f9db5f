"""SQLite for SQLAlchemy's async engine: short statements where they are called, long ones aside.

A usual async driver hands each call to a thread of the connection; a statement of 20 us costs four
hand-overs of 100 us and more. Here a statement runs on the event loop's own thread, and leaves it
only when it turns out to be long: a SELECT is stopped after ``BUDGET_OPS`` steps of SQLite's
virtual machine and asked anew in a thread, a write that took longer than ``LONG_S`` goes to a
thread from then on, and ``executemany`` of many rows goes there at once. What waits for another
process's lock sleeps on the loop. Registered as ``sqlite+insula`` (entry point
``sqlalchemy.dialects``).
"""

import asyncio
import os
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any, Final, TypeVar

from sqlalchemy import AdaptedConnection, AsyncAdaptedQueuePool, Pool
from sqlalchemy.dialects.sqlite.pysqlite import SQLiteDialect_pysqlite
from sqlalchemy.util import await_only

# About 1 ms: 50 to 100 million steps a second.
BUDGET_OPS: Final = 50_000
LONG_S: Final = 0.002
MANY_ROWS: Final = 50
THREADS: Final = 4
KNOWN_LONG: Final = 256
# A WAL longer than this is copied into the database, by a thread: it waits for the disk.
CHECKPOINT_BYTES: Final = 4 * 1024 * 1024
COMMITS_A_LOOK: Final = 64
RESTART_WITHIN_S: Final = 0.1
# As the standard library's.
TIMEOUT_S: Final = 5.0
# The first and the longest pause before another process's lock is tried again.
PAUSES_S: Final = (0.001, 0.05)

T = TypeVar("T")
_threads = ThreadPoolExecutor(THREADS, thread_name_prefix="sqlite")


class Link:
    """One connection. Its statements come one after another, from whichever thread."""

    def __init__(self, path: str, timeout: float = TIMEOUT_S, **options: Any) -> None:
        # The wait for a lock is ours: SQLite's own would hold the event loop.
        self.raw = sqlite3.connect(path, timeout=0, **options | {"check_same_thread": False})
        self._may_stop = False
        self.raw.set_progress_handler(lambda: self._may_stop, BUDGET_OPS)
        # SQLite's own check-point would wait for the disk inside a commit.
        self.raw.execute("PRAGMA wal_autocheckpoint=0")
        self._path = path
        self._patience_s = timeout
        self._long: dict[str, None] = {}
        self._commits = 0
        self._copying: Future[None] | None = None
        self._running: asyncio.Future[Any] | None = None

    def ask(self, text: str, work: Callable[[], T]) -> T:
        """Run a statement here while it is short, else in a thread."""
        # SQLAlchemy insists on an await, even where there is nothing to wait for.
        return await_only(self._ask(text, work))

    async def rows(self, text: str, parameters: Sequence[Any]) -> list[Any]:
        """Run a statement the same way for a coroutine, and fetch what it answers."""
        return await self._ask(text, lambda: self.raw.execute(text, parameters).fetchall())

    async def write(self, text: str, rows: Sequence[Sequence[Any]]) -> None:
        """Run a statement for each of these rows: here while they are few, else in a thread."""

        def work() -> None:
            self.raw.executemany(text, rows)

        if len(rows) > MANY_ROWS:
            await self._patiently(work)
        else:
            await self._ask(text, work)

    def ask_aside(self, work: Callable[[], T]) -> T:
        """Run it in a thread."""
        return await_only(self._patiently(work))

    def commit(self) -> None:
        if not self.raw.in_transaction:
            return
        self.ask("COMMIT", self.raw.commit)
        self._commits += 1
        if self._commits % COMMITS_A_LOOK == 0:
            self._look_at_the_log()

    def close(self) -> None:
        """Close now, or as soon as the thread that works with it is done."""
        if self._running is None or self._running.done():
            self._let_go()
        else:
            self.raw.interrupt()
            self._running.add_done_callback(lambda _: self._let_go())

    def _let_go(self) -> None:
        """Roll back, then close: a connection that is closed lives on, and keeps its locks, while
        anybody holds a statement of its own, be it a traceback.
        """
        with suppress(sqlite3.Error):
            self.raw.rollback()
        self.raw.close()

    async def _ask(self, text: str, work: Callable[[], T]) -> T:
        if text not in self._long:
            try:
                return self._here(text, work)
            except sqlite3.OperationalError as error:
                if _code(error) == sqlite3.SQLITE_INTERRUPT:
                    self._remember(text)
                elif _code(error) != sqlite3.SQLITE_BUSY:
                    raise
        return await self._aside(text, work)

    def _here(self, text: str, work: Callable[[], T]) -> T:
        # A write that is interrupted would take its whole transaction with it.
        self._may_stop = text[:6].upper() == "SELECT"
        begun = time.perf_counter()
        try:
            return work()
        finally:
            self._may_stop = False
            if time.perf_counter() - begun > LONG_S:
                self._remember(text)

    def _remember(self, text: str) -> None:
        self._long[text] = None
        if len(self._long) > KNOWN_LONG:
            del self._long[next(iter(self._long))]

    async def _aside(self, text: str, work: Callable[[], T]) -> T:
        begun = time.perf_counter()
        try:
            return await self._patiently(work)
        finally:
            if time.perf_counter() - begun < LONG_S / 2:
                self._long.pop(text, None)

    async def _patiently(self, work: Callable[[], T]) -> T:
        """Ask again while another process holds the lock, up to the connection's time-out."""
        deadline = time.monotonic() + self._patience_s
        pause_s, longest_s = PAUSES_S
        while True:
            try:
                return await self._away(work)
            except sqlite3.OperationalError as error:
                if _code(error) != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                    raise
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 2, longest_s)

    async def _away(self, work: Callable[[], T]) -> T:
        """Run it in a thread; who is cancelled stops it, and leaves when it has stopped.

        However often that is: a connection that is closed while it works takes the process along.
        """
        running = asyncio.get_running_loop().run_in_executor(_threads, work)
        self._running = running
        try:
            return await asyncio.shield(running)
        except asyncio.CancelledError:
            while not running.done():
                self.raw.interrupt()
                with suppress(asyncio.CancelledError):
                    await asyncio.wait([running], timeout=PAUSES_S[1])
            if not running.cancelled():
                running.exception()  # What it was stopped with is nobody's.
            raise

    def _look_at_the_log(self) -> None:
        """Have the log copied into the database once it is long; readers and writers go on."""
        try:
            size = Path(_log_of(self._path)).stat().st_size
        except FileNotFoundError:
            return
        if size > CHECKPOINT_BYTES and (self._copying is None or self._copying.done()):
            self._copying = _threads.submit(_checkpoint, self._path)


def _code(error: sqlite3.OperationalError) -> int:
    """The primary result code; an error of the driver itself has none."""
    return getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF


def _log_of(path: str) -> str:
    return f"{path}-wal"


def _checkpoint(path: str) -> None:
    """Copy the log into the database beside everybody, then begin it anew while nobody writes.

    The second step has next to nothing left to copy. Without it a log under constant load would
    never be all copied, and would grow for ever.
    """
    connection = sqlite3.connect(path, timeout=RESTART_WITHIN_S, isolation_level=None)
    try:
        connection.execute("PRAGMA wal_checkpoint(PASSIVE)")
        connection.execute("PRAGMA wal_checkpoint(RESTART)")
    finally:
        connection.close()


class Flush:
    """Brings a file to the disk, once for all who wait."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._waiting: list[asyncio.Future[None]] = []
        self._task: asyncio.Task[None] | None = None

    async def join(self) -> None:
        """Wait for a flush that begins from now on: one that runs may have begun too early."""
        done = asyncio.get_running_loop().create_future()
        self._waiting.append(done)
        if self._task is None:
            self._task = asyncio.create_task(self._run())
        await done

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            while self._waiting:
                served, self._waiting = self._waiting, []
                flushed = loop.run_in_executor(_threads, _to_disk, self._path)
                await asyncio.wait([flushed])
                for done in served:
                    _pass_on(flushed, done)
        finally:
            self._task = None


def _pass_on(flushed: "asyncio.Future[None]", done: "asyncio.Future[None]") -> None:
    error = flushed.exception()
    if done.done():
        return
    if error is None:
        done.set_result(None)
    else:
        done.set_exception(error)


def _to_disk(path: str) -> None:
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        # The last connection to close has brought it into the database, and that to the disk.
        return
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class Cursor:
    """PEP 249's cursor, as far as SQLAlchemy asks for it. Rows are fetched with the statement."""

    arraysize = 1

    def __init__(self, link: Link) -> None:
        self._link = link
        self._rows: Iterator[Any] = iter(())
        self.description: Any = None
        self.rowcount = -1
        self.lastrowid: int | None = None

    def execute(self, operation: str, parameters: Any = ()) -> None:
        raw = self._link.raw

        def work() -> tuple[sqlite3.Cursor, list[Any]]:
            cursor = raw.execute(operation, parameters)
            return cursor, cursor.fetchall()

        self._keep(*self._link.ask(operation, work))

    def executemany(self, operation: str, rows: Sequence[Any]) -> None:
        raw: sqlite3.Connection = self._link.raw

        def work() -> sqlite3.Cursor:
            return raw.executemany(operation, rows)

        is_long = len(rows) > MANY_ROWS
        self._keep(self._link.ask_aside(work) if is_long else self._link.ask(operation, work), [])

    def _keep(self, cursor: sqlite3.Cursor, rows: list[Any]) -> None:
        self.description = cursor.description
        self.rowcount = -1 if cursor.description else cursor.rowcount
        self.lastrowid = cursor.lastrowid
        self._rows = iter(rows)

    def __iter__(self) -> Iterator[Any]:
        return self._rows

    def fetchone(self) -> Any:
        return next(self._rows, None)

    def fetchmany(self, size: int = 1) -> list[Any]:
        return list(islice(self._rows, size))

    def fetchall(self) -> list[Any]:
        return list(self._rows)

    def setinputsizes(self, *_: Any) -> None:
        """SQLite's values carry their types."""

    def close(self) -> None:
        self._rows = iter(())

    async def _async_soft_close(self) -> None:
        """SQLAlchemy calls it where a result is given up; its rows are here already."""


class Connection(AdaptedConnection):
    """PEP 249's connection around a link."""

    def __init__(self, link: Link) -> None:
        self._connection: Any = link

    def cursor(self) -> Cursor:
        return Cursor(self._connection)

    def begin(self, text: str) -> None:
        self._connection.ask(text, lambda: self._connection.raw.execute(text))

    def commit(self) -> None:
        self._connection.commit()

    def rollback(self) -> None:
        self._connection.raw.rollback()

    def close(self) -> None:
        self._connection.close()

    def create_function(self, *args: Any, **options: Any) -> None:
        self._connection.raw.create_function(*args, **options)


class Driver:
    """What PEP 249 calls the module."""

    paramstyle = "qmark"
    Error = sqlite3.Error
    Warning = sqlite3.Warning
    InterfaceError = sqlite3.InterfaceError
    DatabaseError = sqlite3.DatabaseError
    IntegrityError = sqlite3.IntegrityError
    NotSupportedError = sqlite3.NotSupportedError
    OperationalError = sqlite3.OperationalError
    ProgrammingError = sqlite3.ProgrammingError
    sqlite_version = sqlite3.sqlite_version
    sqlite_version_info = sqlite3.sqlite_version_info
    PARSE_COLNAMES = sqlite3.PARSE_COLNAMES
    PARSE_DECLTYPES = sqlite3.PARSE_DECLTYPES
    Binary = sqlite3.Binary

    def connect(self, path: str, **options: Any) -> Connection:
        return Connection(Link(path, **options))


class Dialect(SQLiteDialect_pysqlite):
    """``sqlite+insula``."""

    driver = "insula"
    is_async = True
    supports_statement_cache = True

    def __init__(self, begin: str = "", **options: Any) -> None:
        """``begin`` is what opens a transaction; by itself SQLite's driver opens it late."""
        super().__init__(**options)
        self._begin = begin
        self._flushes: dict[str, Flush] = {}

    @classmethod
    def import_dbapi(cls) -> Any:
        return Driver()

    @classmethod
    def get_pool_class(cls, _: Any) -> type[Pool]:
        return AsyncAdaptedQueuePool

    def get_driver_connection(self, connection: Any) -> Any:
        return connection.driver_connection

    def do_begin(self, dbapi_connection: Any) -> None:
        if self._begin:
            dbapi_connection.begin(self._begin)

    async def until_on_disk(self, path: str) -> None:
        """Return when all that is committed now would survive a power cut.

        A commit itself waits for no disk (``synchronous=NORMAL``). Who asks while the disk is busy
        shares the next flush with all others who do.
        """
        await self._flushes.setdefault(path, Flush(_log_of(path))).join()
