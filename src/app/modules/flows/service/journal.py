"""What is written of one execution while it runs."""

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Final

import msgspec
from sqlalchemy.ext.asyncio import AsyncSession

from app.kernel import log
from app.kernel.errors import Unavailable
from app.modules.flows.domain.executions import NODE, NodeState
from app.modules.flows.repository.executions import ExecutionRepository
from app.modules.runs.api import EFFECT_BEGUN, EFFECT_DONE, News, Turn

AGAIN_S: Final = 1.0

_log = log.get("flows")


class Entry(msgspec.Struct, frozen=True):
    """A node's new state. ``effect`` is the key of what may not be done twice: it begins with this
    state, or is over with it.
    """

    state: NodeState
    effect: str = ""

    @property
    def news(self) -> News:
        state = self.state
        said: dict[str, Any] = {"node_id": state.path, "status": state.status}
        if state.error is not None:
            said["error_message"] = state.error
        if state.duration_ms is not None:
            said["execution_time_ms"] = state.duration_ms
        if not self.effect:
            return News(NODE, said)
        if state.status == "running":
            return News(EFFECT_BEGUN, {"key": self.effect, "is_idempotent": False, **said})
        return News(EFFECT_DONE, {"key": self.effect, **said})


class Journal:
    """Entries that are noted at once are written in one transaction, with their events.

    While the database is away it waits: what nodes gave is not lost.
    """

    def __init__(self, turn: Turn) -> None:
        self._turn = turn
        self._noted: list[Entry] = []
        self._writing = asyncio.Lock()

    def note(self, entry: Entry) -> None:
        """To be written with whatever is written next."""
        self._noted.append(entry)

    async def keep(self) -> None:
        """Write what was noted; ``RunLost`` when the run is ours no more."""
        async with self._writing:
            entries, self._noted = self._noted, []
            try:
                if entries:
                    await self._write(entries)
            except BaseException:
                # Perhaps it is written, perhaps not: the end writes it, a second time if need be.
                self._noted = entries + self._noted
                raise

    def rest(self) -> tuple[tuple[News, ...], Callable[[AsyncSession], Awaitable[None]]]:
        """What is still to be written: events, and what writes the rows."""
        entries, self._noted = self._noted, []
        return tuple(entry.news for entry in entries), partial(self._rows, entries)

    async def _write(self, entries: list[Entry]) -> None:
        news = [entry.news for entry in entries]
        while True:
            try:
                await self._turn.say(*news, write=partial(self._rows, entries))
            except Unavailable as error:
                _log.warning("flows.journal-waits-for-database", reason=str(error))
                await asyncio.sleep(AGAIN_S)
            else:
                return

    async def _rows(self, entries: list[Entry], session: AsyncSession) -> None:
        if entries:
            # Of several states of one node, the last is what is kept.
            last = {entry.state.path: entry.state for entry in entries}
            await ExecutionRepository(session).keep(self._turn.run.id, list(last.values()))
