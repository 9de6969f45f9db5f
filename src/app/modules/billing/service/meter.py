"""The meter: who may spend, and what was spent."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import Final
from uuid import UUID
from weakref import WeakValueDictionary

from app.kernel import log
from app.kernel.errors import Unavailable
from app.modules.auth.api import Principal
from app.modules.billing.api import Claim
from app.modules.billing.domain.periods import Spent
from app.modules.billing.domain.standings import Remaining, Standing, Use, remaining_of
from app.modules.billing.domain.usage import Usage
from app.modules.billing.ports import Hold, Holds, NearHolds, Taken
from app.modules.billing.service.rules import Rules, Terms
from app.modules.billing.service.store import UsageStore

FLUSH_EVERY_S = 1.0
TRIES: Final = 3

_log = log.get("billing")


class SpendingUnknown(Unavailable):
    """What is spent changes faster than it can be told."""

    title = "Spending unknown"


class UsageMeter:
    """Implements ``api.Meter``. ``near`` are the holds, where they are in this process."""

    def __init__(
        self, store: UsageStore, rules: Rules, holds: Holds, near: NearHolds | None
    ) -> None:
        self._store = store
        self._rules = rules
        self._holds = holds
        self._near = near
        self._telling: WeakValueDictionary[tuple[str, ...], asyncio.Lock] = WeakValueDictionary()
        self._tasks: list[asyncio.Task[None]] = []

    def reserve_now(self, claim: Claim) -> bool:
        terms = self._rules.recall(claim.principal.credential_id)
        if terms is None:
            return False
        if not terms.bounds:
            return True
        if self._near is None:
            return False
        return self._near.take_now(Hold(claim.id, claim.tokens, claim.cost_nanos, terms.bounds))

    async def reserve(self, claim: Claim) -> None:
        terms = await self._rules.of(claim.principal)
        if not terms.bounds:
            return
        hold = Hold(claim.id, claim.tokens, claim.cost_nanos, terms.bounds)
        terms.standings = await self._told(lambda spent: self._holds.take(hold, spent))

    def settle(self, usage: Usage) -> None:
        segment = self._store.write(usage)
        terms = self._rules.recall(usage.credential_id)
        bounds = () if terms is None else terms.bounds
        owed_nanos = usage.cost_nanos or 0
        bounds = self._holds.end(usage.id, usage.counted_tokens, owed_nanos, bounds)
        if owed_nanos and bounds:
            self._store.owe(segment, owed_nanos, bounds)

    def release(self, call_id: UUID) -> None:
        self._holds.end(call_id, 0, 0, ())

    def remaining(self, principal: Principal) -> Remaining | None:
        terms = self._rules.recall(principal.credential_id)
        if terms is None or not terms.bounds:
            return None
        if self._near is not None:
            return self._near.remaining_now(terms.bounds)
        told = zip(terms.bounds, terms.standings, strict=False)
        return remaining_of(Use(b, s.requests, s.tokens, s.reset_s) for b, s in told)

    async def standings(self, principal: Principal) -> tuple[Terms, tuple[Standing, ...]]:
        """What limits a caller, and where each of it stands now."""
        terms = await self._rules.of(principal)
        bounds = terms.bounds
        if not bounds:
            return terms, ()
        return terms, await self._told(lambda spent: self._holds.look(bounds, spent))

    async def open(self) -> None:
        """Store what an earlier process left in its journal, then keep storing."""
        await self.flush()
        self._tasks = [
            asyncio.create_task(self._loop(), name="usage-meter"),
            asyncio.create_task(self._rules.follow(), name="billing-news"),
        ]

    async def close(self) -> None:
        if not self._tasks:
            return
        for task in self._tasks:
            task.cancel()
        for task in self._tasks:
            with suppress(asyncio.CancelledError):
                await task
        with suppress(Unavailable):
            await self.flush()

    async def flush(self) -> None:
        """Store every settled row."""
        await self._store.flush()

    async def _told(
        self, ask: Callable[[Mapping[str, Spent]], Awaitable[Taken]]
    ) -> tuple[Standing, ...]:
        """Ask, and tell what is spent where that is missing."""
        taken = await ask({})
        if not taken.missing:
            return taken.standings
        # Of those who miss the same, one asks the database, and the others wait for it.
        async with self._telling.setdefault(taken.missing, asyncio.Lock()):
            taken = await ask({})
            for _ in range(TRIES):
                if not taken.missing:
                    return taken.standings
                taken = await ask(await self._store.spent(taken.missing))
        if taken.missing:
            raise SpendingUnknown("What is spent cannot be told now; try again in a moment.")
        return taken.standings

    async def _loop(self) -> None:
        while True:
            await asyncio.sleep(FLUSH_EVERY_S)
            try:
                await self._holds.tend()
                await self.flush()
            except Unavailable:
                _log.warning("billing.usage-waits-for-database")
            except Exception as error:  # noqa: BLE001 - rows stay in the journal, the loop goes on
                _log.exception("billing.flush-failed", error)
