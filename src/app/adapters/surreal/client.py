"""One SurrealDB for the whole process: connected when first asked, and again when lost."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, ClassVar, Protocol, TypeAlias

from app.kernel import log
from app.kernel.errors import Unavailable

CONNECT_TIMEOUT_S = 10.0
FIRST_BACK_OFF_S = 0.2
MAX_BACK_OFF_S = 5.0

_log = log.get("surreal")


class SurrealDown(Unavailable):
    """SurrealDB does not answer. A query that was under way may have taken effect or not."""

    title = "SurrealDB unavailable"


class SurrealRefused(SurrealDown):
    """SurrealDB answers and does not let us in."""

    title = "SurrealDB refuses the credentials"


class SurrealLocked(SurrealDown):
    """Another process holds the embedded engine."""

    title = "SurrealDB in use"


class SurrealConflict(Unavailable):
    """Another transaction touched the same records first, and this one left no trace."""

    title = "SurrealDB write conflict"


class SurrealError(Exception):
    """A statement failed, for a reason that asking again does not change."""


class Link(Protocol):
    """One open connection."""

    description: ClassVar[str]

    @property
    def is_alive(self) -> bool: ...

    async def run(self, text: str, variables: Mapping[str, Any]) -> Mapping[str, Any]:
        """Answer SurrealDB's own response: ``result`` with a list, or ``error``."""
        ...

    async def close(self) -> None: ...


Dial: TypeAlias = Callable[[], Awaitable[Link]]


class Surreal:
    """Runs queries. All who ask while the connection is being opened wait for one attempt."""

    def __init__(
        self,
        dial: Dial,
        *,
        connect_timeout_s: float = CONNECT_TIMEOUT_S,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._dial = dial
        self._connect_timeout_s = connect_timeout_s
        self._now = now
        self._link: Link | None = None
        self._opening: asyncio.Task[Link] | None = None
        self._failure: SurrealDown | None = None
        self._failures = 0
        self._not_before = 0.0
        self._is_closed = False

    async def query(self, text: str, /, **variables: Any) -> list[Any]:
        """Run every statement of ``text`` and return their results, or raise the first failure.

        ``SurrealError`` for a statement, ``SurrealDown`` for the connection. Statements outside
        a transaction stand even if a later one fails, so that only a text of one statement or
        one transaction can be run again after ``SurrealConflict``.
        """
        link = await self._connected()
        answer = await link.run(text, variables)
        if is_expired(answer):
            # Refused before anything ran, so that asking again is safe.
            await self._drop(link)
            link = await self._connected()
            answer = await link.run(text, variables)
        return results(answer)

    async def ping(self) -> None:
        await self.query("RETURN 1")

    async def close(self) -> None:
        self._is_closed = True
        if self._opening is not None:
            self._opening.cancel()
            await asyncio.wait([self._opening])
        if self._link is not None:
            await self._drop(self._link)

    async def _connected(self) -> Link:
        if self._is_closed:
            raise SurrealDown("SurrealDB is closed: the server is stopping.")
        if self._link is not None:
            if self._link.is_alive:
                return self._link
            _log.warning("surreal.connection-lost", engine=self._link.description)
            await self._drop(self._link)
        if self._opening is None:
            self._refuse_while_backing_off()
            self._opening = asyncio.create_task(self._open(), name="surreal-open")
            # Everybody who waited may be gone when the attempt fails.
            self._opening.add_done_callback(lambda task: task.cancelled() or task.exception())
        # One caller that gives up must not end the attempt for the others.
        return await asyncio.shield(self._opening)

    def _refuse_while_backing_off(self) -> None:
        wait_s = self._not_before - self._now()
        if self._failure is not None and wait_s > 0:
            raise type(self._failure)(str(self._failure), retry_after_s=wait_s)

    async def _open(self) -> Link:
        try:
            async with asyncio.timeout(self._connect_timeout_s):
                link = await self._dial()
        except TimeoutError:
            raise self._failed(SurrealDown("SurrealDB did not let us connect in time.")) from None
        except SurrealDown as error:
            raise self._failed(error) from None
        finally:
            self._opening = None
        self._failure, self._failures = None, 0
        self._link = link
        _log.info("surreal.connected", engine=link.description)
        return link

    def _failed(self, error: SurrealDown) -> SurrealDown:
        """Remember why, and until when nobody needs to try again."""
        wait_s = min(MAX_BACK_OFF_S, FIRST_BACK_OFF_S * 2**self._failures)
        self._failure, self._failures = error, min(self._failures + 1, 16)
        self._not_before = self._now() + wait_s
        cause = f"{type(error.__cause__).__name__}: {error.__cause__}" if error.__cause__ else ""
        _log.warning("surreal.connect-failed", reason=str(error), cause=cause, wait_s=wait_s)
        return error

    async def _drop(self, link: Link) -> None:
        if self._link is link:
            self._link = None
        await link.close()


def results(answer: Mapping[str, Any]) -> list[Any]:
    """Unpack what each statement gave, or raise the failure that caused the others."""
    if error := answer.get("error"):
        raise SurrealError(_text(error))
    statements = answer.get("result")
    if not isinstance(statements, list):
        raise SurrealError("SurrealDB answered a query with something that is no list of results.")
    failed = [str(entry["result"]) for entry in statements if entry["status"] != "OK"]
    if not failed:
        return [entry["result"] for entry in statements]
    if any("can be retried" in text for text in failed):
        raise SurrealConflict("Another transaction changed the same records; try again.")
    # Inside a transaction every statement fails, and all but one only because of that one.
    raise SurrealError(next((text for text in failed if "not executed" not in text), failed[0]))


def is_expired(answer: Mapping[str, Any]) -> bool:
    """Tell whether the sign-in has run out, which ends every query at once."""
    error = answer.get("error")
    return bool(error) and "session has expired" in _text(error)


def _text(error: Any) -> str:
    return str(error.get("message", error)) if isinstance(error, Mapping) else str(error)
