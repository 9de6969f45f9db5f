"""Writes what runs say. Those that speak at the same moment share a transaction."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Final, NamedTuple, TypeAlias

from app.kernel.db import Database
from app.modules.runs.api import Write
from app.modules.runs.models import RunRow
from app.modules.runs.repository import RunRepository

AT_ONCE: Final = 64

Change: TypeAlias = Callable[[RunRepository], Awaitable[RunRow | None]]
Kept: TypeAlias = asyncio.Future[RunRow | None]


class Entry(NamedTuple):
    """A change of one run, what is written with it, and who waits for it."""

    change: Change
    write: Write | None
    kept: Kept | None = None


class Scribe:
    """A transaction costs more than what one run writes in it.

    ``is_durable`` is as in ``Database.begin``.
    """

    def __init__(
        self, db: Database, clock: Callable[[], datetime], *, is_durable: bool = False
    ) -> None:
        self._db = db
        self._clock = clock
        self._is_durable = is_durable
        self._entries: list[Entry] = []
        self._writing: asyncio.Task[None] | None = None

    async def keep(self, change: Change, write: Write | None = None) -> RunRow | None:
        """Write a change, and what belongs to it, all or nothing; the run as it is then.

        ``None`` if there was nothing to change, and nothing is written then. Both may be called a
        second time, in another transaction. Who is cancelled may have had it written.
        """
        kept: Kept = asyncio.get_running_loop().create_future()
        self._entries.append(Entry(change, write, kept))
        if self._writing is None:
            self._writing = asyncio.create_task(self._write_all(), name="runs-scribe")
        return await kept

    async def keep_alone(self, change: Change, write: Write | None = None) -> RunRow | None:
        """The same, at once and in a transaction of its own."""
        [row] = await self._together([Entry(change, write)])
        return row

    async def _write_all(self) -> None:
        try:
            while self._entries:
                entries, self._entries = self._entries[:AT_ONCE], self._entries[AT_ONCE:]
                await self._write([entry for entry in entries if _is_waited_for(entry)])
        finally:
            self._writing = None

    async def _write(self, entries: list[Entry]) -> None:
        """Where one fails, none is written: then each is, by itself, to see which."""
        try:
            rows = await self._together(entries)
        except Exception as error:  # noqa: BLE001 - it is raised where it belongs
            if len(entries) == 1:
                _settle(entries[0], error=error)
                return
            for entry in entries:
                await self._write([entry])
        except BaseException as error:
            for entry in entries:
                _settle(entry, error=error)
            raise
        else:
            for entry, row in zip(entries, rows, strict=True):
                _settle(entry, row)

    async def _together(self, entries: list[Entry]) -> list[RunRow | None]:
        rows = []
        async with self._db.begin(is_durable=self._is_durable) as session:
            repository = RunRepository(session, self._clock())
            for entry in entries:
                row = await entry.change(repository)
                if row is not None and entry.write is not None:
                    await entry.write(session)
                rows.append(row)
        return rows


def _settle(entry: Entry, row: RunRow | None = None, *, error: BaseException | None = None) -> None:
    """Tell whoever waits, unless nobody does any more."""
    if entry.kept is None or entry.kept.done():
        return
    if error is None:
        entry.kept.set_result(row)
    else:
        entry.kept.set_exception(error)


def _is_waited_for(entry: Entry) -> bool:
    return entry.kept is not None and not entry.kept.done()
