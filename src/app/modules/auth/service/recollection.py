"""What this process remembers of callers, for seconds, and how it is made to forget.

A revocation is forgotten here before it is answered, and told to the other processes. While news
from them may be missed, nothing is remembered: every request then asks the database.
"""

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final
from uuid import UUID

import msgspec

from app.kernel import log
from app.kernel.errors import Unavailable
from app.kernel.ports import Cache
from app.modules.auth.api import Principal

TOPIC: Final = "auth.revoked"
MAX_ENTRIES = 10_000
MAX_AGE_S = 30.0
RETRY_EVERY_S = 1.0

_log = log.get("auth")


class Entry(msgspec.Struct, frozen=True):
    """A principal, and the moment (monotonic) from which the database must be asked again."""

    principal: Principal
    until_s: float


class Recollection:
    """Principals by the digest of their token, a bounded number, oldest out first."""

    def __init__(self, cache: Cache, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._cache = cache
        self._monotonic = monotonic
        self._entries: dict[bytes, Entry] = {}
        self._watches: list[tuple[Principal, asyncio.Event]] = []
        self._hears_news = False
        self._revocations = 0

    def recall(self, digest: bytes) -> Principal | None:
        entry = self._entries.get(digest)
        if entry is None or entry.until_s <= self._monotonic():
            return None
        return entry.principal

    @property
    def is_current(self) -> bool:
        """Whether news of revocations elsewhere are heard."""
        return self._hears_news

    def mark(self) -> int:
        """Take this before asking the database, and give it to ``keep`` with the answer."""
        return self._revocations

    def keep(self, digest: bytes, principal: Principal, *, valid_s: float, since: int) -> None:
        """Remember, unless something was revoked since the database was asked."""
        if not self._hears_news or since != self._revocations:
            return
        self._entries.pop(digest, None)
        while len(self._entries) >= MAX_ENTRIES:
            del self._entries[next(iter(self._entries))]
        until_s = self._monotonic() + min(valid_s, MAX_AGE_S)
        self._entries[digest] = Entry(principal, until_s)

    async def forget(self, *ids: UUID) -> None:
        """Drop what belongs to these users, sessions or keys: here at once, elsewhere by news."""
        for revoked in ids:
            self._drop(revoked)
        try:
            for revoked in ids:
                await self._cache.publish(TOPIC, str(revoked))
        except Unavailable:
            # The others hear nothing, and ask the database again when their entries are too old.
            _log.warning("auth.revocation-unannounced", max_age_s=MAX_AGE_S)

    async def follow(self) -> None:
        """Hear what other processes revoke, until cancelled."""
        while True:
            try:
                await self._follow_once()
            except Unavailable as error:
                _log.warning("auth.news-missed", reason=str(error.__cause__ or error))
            except Exception as error:  # noqa: BLE001 - whatever ended the listening, it begins again
                _log.exception("auth.listening-failed", error)
            await asyncio.sleep(RETRY_EVERY_S)

    @contextmanager
    def watching(self, principal: Principal) -> Iterator[asyncio.Event]:
        """An event that is set when something of this principal was revoked."""
        watch = (principal, asyncio.Event())
        self._watches.append(watch)
        try:
            yield watch[1]
        finally:
            self._watches.remove(watch)

    async def _follow_once(self) -> None:
        try:
            async for message in self._cache.listen(TOPIC):
                self._hear(message)
        finally:
            self._hears_news = False
            self._entries.clear()

    def _hear(self, message: str) -> None:
        if not message:
            self._hears_news = True
            return
        try:
            self._drop(UUID(message))
        except ValueError:
            # Not written by this version: whatever it revokes, nothing is remembered any more.
            self._revocations += 1
            self._entries.clear()

    def _drop(self, revoked: UUID) -> None:
        self._revocations += 1
        gone = [
            digest
            for digest, entry in self._entries.items()
            if revoked in (entry.principal.user_id, entry.principal.credential_id)
        ]
        for digest in gone:
            del self._entries[digest]
        for principal, event in self._watches:
            if revoked in (principal.user_id, principal.credential_id):
                event.set()
