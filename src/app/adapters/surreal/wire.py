"""The only file that knows the package ``surrealdb``, and what to distrust about it.

A lost server shows itself as ``KeyError`` (the client forgets its queries before they end);
``close()`` leaves an embedded engine open until its object is gone; ``query()`` hides the failures
of all statements but the first, ``query_raw()`` does not.
"""

import asyncio
import fcntl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, ClassVar

import surrealdb
from websockets.exceptions import WebSocketException

from app.adapters.surreal.client import SurrealDown, SurrealError, SurrealLocked, SurrealRefused
from app.adapters.surreal.settings import SurrealSettings

CLOSE_TIMEOUT_S = 5.0


class RemoteLink:
    """A signed-in WebSocket to a server."""

    description: ClassVar[str] = "server"

    def __init__(self, url: str, timeout_s: float) -> None:
        self._connection = surrealdb.AsyncWsSurrealConnection(url)
        self._timeout_s = timeout_s

    @classmethod
    async def open(cls, settings: SurrealSettings) -> "RemoteLink":
        link = cls(settings.url, settings.timeout_s)
        try:
            await link._sign_in(settings)
        except BaseException:
            await link.close()
            raise
        return link

    @property
    def is_alive(self) -> bool:
        # The client never notices by itself that its reader has ended.
        reader = self._connection.recv_task
        return reader is not None and not reader.done()

    async def run(self, text: str, variables: Mapping[str, Any]) -> Mapping[str, Any]:
        with _translated():
            async with asyncio.timeout(self._timeout_s):
                answer: Mapping[str, Any] = await self._connection.query_raw(text, dict(variables))
        return answer

    async def close(self) -> None:
        try:
            async with asyncio.timeout(CLOSE_TIMEOUT_S):
                await self._connection.close()
        except TimeoutError:
            # The server is gone without a word; the socket goes with the object.
            return

    async def _sign_in(self, settings: SurrealSettings) -> None:
        with _translated():
            await self._connection.connect()
            if settings.user:
                try:
                    await self._connection.signin(_credentials(settings))
                except surrealdb.ServerError as error:
                    raise SurrealRefused(
                        "SurrealDB refuses SURREALDB_USER and SURREALDB_PASS "
                        f"for SURREALDB_AUTH_LEVEL={settings.auth_level}."
                    ) from error
            await self._connection.use(settings.ns, settings.db)


class EmbeddedLink:
    """The engine in this process, and the lock that keeps every other process away from it.

    One query at a time: of fifty concurrent increments on one record, engine 2.0 reported up to
    fifteen as done that were lost.
    """

    description: ClassVar[str] = "embedded"

    def __init__(self, connection: Any, lock: IO[str], timeout_s: float) -> None:
        self._connection = connection
        self._lock = lock
        self._timeout_s = timeout_s
        self._turn = asyncio.Lock()

    @classmethod
    async def open(cls, settings: SurrealSettings, folder: Path) -> "EmbeddedLink":
        try:
            lock = _locked(folder)
            try:
                connection = surrealdb.AsyncEmbeddedSurrealConnection(f"surrealkv://{folder}")
                await connection.connect()
                await connection.use(settings.ns, settings.db)
            except BaseException:
                lock.close()
                raise
        except (RuntimeError, OSError) as error:
            raise SurrealDown("The embedded SurrealDB in APP_DATA does not open.") from error
        return cls(connection, lock, settings.timeout_s)

    @property
    def is_alive(self) -> bool:
        return self._connection is not None

    async def run(self, text: str, variables: Mapping[str, Any]) -> Mapping[str, Any]:
        try:
            async with asyncio.timeout(self._timeout_s), self._turn:
                answer: Mapping[str, Any] = await self._connection.query_raw(text, dict(variables))
        except TimeoutError:
            raise SurrealDown("The query took too long and was given up.") from None
        except RuntimeError as error:
            raise SurrealError(str(error)) from error
        return answer

    async def close(self) -> None:
        if self._connection is not None:
            await self._connection.close()
            # Only now are its files closed; whoever waits for the lock must not come earlier.
            self._connection = None
            self._lock.close()


@contextmanager
def _translated() -> Iterator[None]:
    """Turn what the client raises when the server is gone into ``SurrealDown``."""
    try:
        yield
    except TimeoutError as error:
        raise SurrealDown("SurrealDB took too long to answer.") from error
    except (OSError, WebSocketException, KeyError, surrealdb.SurrealError) as error:
        raise SurrealDown("The connection to SurrealDB failed.") from error


def _credentials(settings: SurrealSettings) -> dict[str, Any]:
    given = {"username": settings.user, "password": str(settings.password)}
    if settings.auth_level != "root":
        given["namespace"] = settings.ns
    if settings.auth_level == "database":
        given["database"] = settings.db
    return given


def _locked(folder: Path) -> IO[str]:
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    lock = folder.with_suffix(".lock").open("w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.close()
        raise SurrealLocked(
            "The embedded SurrealDB in APP_DATA is open in another process; "
            "stop that one, or set SURREALDB_URL."
        ) from None
    return lock
