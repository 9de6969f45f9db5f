"""What this process remembers of callers' limits, for seconds, and how it is made to forget.

A change is forgotten here before it is answered, and told to the other processes. While news from
them may be missed, nothing is remembered: every call then asks the database.
"""

import asyncio
import time
from collections.abc import Callable
from typing import Final
from uuid import UUID

import msgspec

from app.kernel import log
from app.kernel.db import Database
from app.kernel.errors import Unavailable
from app.kernel.ports import Cache, SingleFlight
from app.modules.auth.api import Principal
from app.modules.billing.domain.limits import DEFAULT_TIER, Bounds, Tier, bounds_of
from app.modules.billing.domain.standings import Standing
from app.modules.billing.repository.limits import LimitsRepository

TOPIC: Final = "billing.limits-changed"
MAX_ENTRIES = 10_000
MAX_AGE_S = 30.0
RETRY_EVERY_S = 1.0

_log = log.get("billing")


class Terms(msgspec.Struct):
    """What limits a caller. ``standings`` are those that were last told, one for each bound."""

    user_id: UUID
    credential_id: UUID
    tier: Tier | None
    bounds: Bounds
    until_s: float
    standings: tuple[Standing, ...] = ()


class Rules:
    """Terms by credential, a bounded number, oldest out first."""

    def __init__(
        self,
        db: Database,
        cache: Cache,
        monotonic: Callable[[], float] = time.monotonic,
        *,
        max_entries: int = MAX_ENTRIES,
    ) -> None:
        self._db = db
        self._cache = cache
        self._monotonic = monotonic
        self._max_entries = max_entries
        self._entries: dict[int, Terms] = {}
        self._hears_news = False
        self._changes = 0
        self._reading: SingleFlight[Terms] = SingleFlight()

    def recall(self, credential_id: UUID) -> Terms | None:
        """Answer from memory; ``None`` when ``of`` must be asked."""
        terms = self._entries.get(credential_id.int)
        if terms is None or terms.until_s <= self._monotonic():
            return None
        return terms

    async def of(self, principal: Principal) -> Terms:
        if (known := self.recall(principal.credential_id)) is not None:
            return known
        since = self._changes
        if not self._hears_news:
            return await self._read(principal)
        # Who comes after a change does not take what was read before it.
        key = (principal.credential_id, since)
        return await self._reading.join(key, lambda: self._read_and_keep(principal, since))

    async def _read_and_keep(self, principal: Principal, since: int) -> Terms:
        terms = await self._read(principal)
        if self._hears_news and since == self._changes:
            number = principal.credential_id.int
            self._entries.pop(number, None)
            while len(self._entries) >= self._max_entries:
                del self._entries[next(iter(self._entries))]
            self._entries[number] = terms
        return terms

    async def forget(self, changed: UUID) -> None:
        """Drop what belongs to this user or key: here at once, elsewhere by news."""
        self._drop(changed)
        try:
            await self._cache.publish(TOPIC, str(changed))
        except Unavailable:
            # The others hear nothing, and ask the database again when their entries are too old.
            _log.warning("billing.change-unannounced", max_age_s=MAX_AGE_S)

    async def follow(self) -> None:
        """Hear what other processes change, until cancelled."""
        while True:
            try:
                await self._follow_once()
            except Unavailable as error:
                _log.warning("billing.news-missed", reason=str(error.__cause__ or error))
            except Exception as error:  # noqa: BLE001 - whatever ended the listening, it begins again
                _log.exception("billing.listening-failed", error)
            await asyncio.sleep(RETRY_EVERY_S)

    async def _read(self, principal: Principal) -> Terms:
        user_id = principal.user_id
        key_id = principal.credential_id if principal.kind == "key" else None
        tier: Tier | None = None
        async with self._db.read() as session:
            limits = LimitsRepository(session)
            own = await limits.of_caller(user_id, key_id)
            if principal.role != "owner":
                tier = await limits.tier(user_id) or DEFAULT_TIER
        bounds = bounds_of(user_id, key_id, tier, own)
        until_s = self._monotonic() + MAX_AGE_S
        return Terms(user_id, principal.credential_id, tier, bounds, until_s)

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
            # Not written by this version: whatever it changes, nothing is remembered any more.
            self._changes += 1
            self._entries.clear()

    def _drop(self, changed: UUID) -> None:
        self._changes += 1
        gone = [
            number
            for number, terms in self._entries.items()
            if changed in (terms.user_id, terms.credential_id)
        ]
        for number in gone:
            del self._entries[number]
