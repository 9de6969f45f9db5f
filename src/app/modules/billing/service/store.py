"""From the journal on disk to rows, in batches, and what these rows have cost."""

import asyncio
from collections.abc import Sequence

from app.kernel.db import Database
from app.kernel.ports import Clock
from app.modules.billing.domain.limits import Bounds, subject_of
from app.modules.billing.domain.periods import Spent
from app.modules.billing.domain.usage import Usage
from app.modules.billing.ports import Addition, Holds, Journal, Receipt
from app.modules.billing.repository.spent import SpentRepository
from app.modules.billing.repository.usage import UsageRepository

BATCH_ROWS = 1000


class UsageStore:
    """A row costs its call one line in a file; SQL comes in batches.

    Money is owed from the line on, and spent when the row is stored: never both, never neither.
    """

    def __init__(self, db: Database, journal: Journal, holds: Holds, clock: Clock) -> None:
        self._db = db
        self._journal = journal
        self._holds = holds
        self._clock = clock
        self._flushing = asyncio.Lock()
        self._owed: dict[str, dict[str, int]] = {}
        self._additions: list[Addition] = []

    def write(self, usage: Usage) -> str:
        """Write the row into the journal, and return the segment that it is in."""
        return self._journal.append(usage)

    def owe(self, segment: str, nanos: int, bounds: Bounds) -> None:
        """Remember what is paid when this segment is stored."""
        for bound in bounds:
            if bound.budgets:
                owed = self._owed.setdefault(segment, {})
                owed[bound.subject] = owed.get(bound.subject, 0) + nanos

    async def flush(self) -> None:
        """Store every written row. A crash at any point stores some rows again, to no effect."""
        async with self._flushing:
            await self._flush()

    async def spent(self, subjects: Sequence[str]) -> dict[str, Spent]:
        """What the subjects have spent in rows that are stored.

        Nothing is stored meanwhile, so that a row is either in here or still owed. Before the
        first budget nothing was owed: what this process has written until then is stored first.
        """
        async with self._flushing:
            async with self._db.read() as session:
                found = await SpentRepository(session).known(subjects)
            if all(subject in found for subject in subjects):
                return found
            await self._flush()
            return await self._begin(subjects)

    async def _begin(self, subjects: Sequence[str]) -> dict[str, Spent]:
        """Begin the sums of subjects that had no budget before."""
        now_ms = int(self._clock().timestamp() * 1000)
        async with self._db.begin() as session:
            repository = SpentRepository(session)
            await repository.take_turns(alone=True)
            found = await repository.known(subjects)
            for subject in subjects:
                if subject not in found:
                    found[subject] = await repository.begin(subject, now_ms)
        return found

    async def _flush(self) -> None:
        """What was closed comes first: if that cannot be stored, nothing more is closed."""
        for segment in self._journal.closed_segments():
            await self._store(segment)
        self._journal.close_segment()
        for segment in self._journal.closed_segments():
            await self._store(segment)

    async def _store(self, segment: str) -> None:
        usages = self._journal.read(segment)
        unsure: set[str] = set()
        for start in range(0, len(usages), BATCH_ROWS):
            unsure |= await self._store_batch(usages[start : start + BATCH_ROWS])
        additions, self._additions = self._additions, []
        paid = self._owed.pop(segment, {})
        # Another process of this folder may have stored the whole segment, and dropped it.
        added = {one.subject for one in additions}
        unsure |= paid.keys() - added
        self._holds.receive(Receipt(paid, additions, frozenset(unsure)))
        self._journal.drop(segment)

    async def _store_batch(self, usages: Sequence[Usage]) -> set[str]:
        """Store rows and add their cost up; returns the subjects whose rows were there before."""
        async with self._db.begin() as session:
            repository = SpentRepository(session)
            await repository.take_turns(alone=False)
            stored = await UsageRepository(session).store(usages)
            known = []
            if len(stored) < len(usages):
                known = [usage for usage in usages if usage.id not in stored]
                usages = [usage for usage in usages if usage.id in stored]
            additions = await repository.add(usages)
        self._additions += additions
        keys = {subject_of("key", usage.credential_id) for usage in known}
        return keys | {subject_of("user", usage.user_id) for usage in known}
