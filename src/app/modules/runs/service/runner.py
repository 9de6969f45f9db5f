"""Does runs: claims them, keeps their leases, ends them, and takes over those of the dead."""

import asyncio
import secrets
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncSession

from app.kernel import log
from app.kernel.db import Database
from app.kernel.errors import AppError, Unavailable
from app.modules.runs.api import Ended, Kind, Run, RunLost
from app.modules.runs.domain import Effects, after_crash, effects_of
from app.modules.runs.models import RunRow
from app.modules.runs.repository import Hold, RunRepository, held
from app.modules.runs.service.news import RunNews
from app.modules.runs.service.scribe import Scribe
from app.modules.runs.service.turns import EffectUnknown, RunTurn, run_of

LOOK_EVERY_S: Final = 1.0
EXPIRED_AT_ONCE: Final = 100
CRASHED: Final = "process_gone"
CODE_LIMIT_CHARS: Final = 64
FAILED: Final = Ended("failed", "internal", "The work failed; the log says why.")

_log = log.get("runs")


class Runner:
    """One for each process. ``lease_s``: how long a process may be silent before it is dead."""

    def __init__(
        self, db: Database, clock: Callable[[], datetime], news: RunNews, *, lease_s: float
    ) -> None:
        self.worker = secrets.token_hex(8)
        self._db = db
        self._clock = clock
        self._news = news
        self._lease = timedelta(seconds=lease_s)
        self._scribe = Scribe(db, clock)
        self._durable_scribe = Scribe(db, clock, is_durable=True)
        self._kinds: dict[str, Kind] = {}
        self._busy: dict[str, int] = {}
        self._backlog: set[str] = set()
        self._ready: dict[UUID, Run] = {}
        self._turns: dict[UUID, tuple[RunTurn, asyncio.Task[None]]] = {}
        self._wake = asyncio.Event()
        self._loops: list[asyncio.Task[None]] = []
        self._is_open = False

    def offer(self, kind: Kind) -> None:
        if kind.name in self._kinds:
            raise ValueError(f"kind of run offered twice: {kind.name}")
        self._kinds[kind.name] = kind
        self._busy[kind.name] = 0
        self._backlog.add(kind.name)

    def lease_for(self, kind: str) -> datetime | None:
        """A lease for a run that is about to be written, if it can be begun at once.

        It waits like all others where others wait, or where there is no place.
        """
        if kind in self._free() and kind not in self._backlog:
            return self._until()
        self._backlog.add(kind)
        return None

    async def open(self) -> None:
        """Take over what an earlier process left, then keep working."""
        self._is_open = True
        await self._recover(is_alone=self._db.is_embedded)
        self._loops = [
            asyncio.create_task(self._work(), name="runs-work"),
            asyncio.create_task(self._tend(), name="runs-leases"),
        ]

    async def close(self) -> None:
        """Stop every run here. One that may be continued is left to the next process."""
        self._is_open = False
        for task in self._loops:
            task.cancel()
        running = [task for _, task in self._turns.values()]
        for task in running:
            task.cancel()
        await asyncio.gather(*self._loops, *running, return_exceptions=True)
        for run in self._ready.values():
            hold = Hold(run.id, self.worker, run.fence)
            await self._leave(self._kinds[run.kind], hold)

    def begin(self, run: Run) -> None:
        """Do a run that was written with a lease, as soon as there is a place for it."""
        self._ready[run.id] = run
        self._begin_ready()

    def look(self) -> None:
        """There may be something to claim."""
        self._backlog.update(self._kinds)
        self._wake.set()

    def hear(self, run_id: UUID, question_seq: int, answer: dict[str, Any]) -> None:
        """Hand an answer to the run that waits for it, if it is here."""
        found = self._turns.get(run_id)
        if found is not None:
            found[0].hear(question_seq, answer)

    def stop(self, run_id: UUID) -> None:
        """The run was ended: stop its work, if it is here."""
        self._ready.pop(run_id, None)
        found = self._turns.get(run_id)
        # The news of an end come twice; to be told again would break off what tidies up.
        if found is not None and not found[1].cancelling():
            found[1].cancel()

    def asks(self, run_id: UUID) -> bool:
        """Whether a run of this process waits for an answer."""
        found = self._turns.get(run_id)
        return found is not None and bool(found[0].questions)

    def waiting(self) -> dict[UUID, list[int]]:
        """The questions that runs of this process wait to have answered."""
        asked = {run_id: turn.questions for run_id, (turn, _) in self._turns.items()}
        return {run_id: questions for run_id, questions in asked.items() if questions}

    async def _work(self) -> None:
        """Claim what waits, whenever there is a place for it."""
        while True:
            try:
                self._begin_ready()
                while (kinds := self._free()) and (row := await self._claim(kinds)):
                    self._news.tell(row.id, row.status)
                    self._begin(run_of(row), Effects())
            except Unavailable:
                _log.warning("runs.database-unavailable")
            except Exception as error:  # noqa: BLE001 - the loop must survive one bad row
                _log.exception("runs.claim-failed", error)
            # Not wait_for: up to Python 3.11 it can lose a cancellation.
            with suppress(TimeoutError):
                async with asyncio.timeout(LOOK_EVERY_S):
                    await self._wake.wait()
            self._wake.clear()

    async def _tend(self) -> None:
        """Keep the leases of our runs, and look for runs whose process keeps none."""
        while True:
            await asyncio.sleep(self._lease.total_seconds() / 3)
            try:
                await self._renew()
                await self._recover(is_alone=False)
            except Unavailable:
                _log.warning("runs.leases-wait-for-database")
            except Exception as error:  # noqa: BLE001 - the loop must survive one bad row
                _log.exception("runs.tending-failed", error)

    def _free(self) -> list[str]:
        """The kinds of which this process may take one more."""
        kinds = self._kinds.values()
        return [k.name for k in kinds if self._is_open and self._busy[k.name] < k.parallel]

    async def _claim(self, kinds: list[str]) -> RunRow | None:
        async with self._db.read() as session:
            if not await self._repository(session).has_pending(kinds):
                self._backlog.difference_update(kinds)
                return None
        async with self._db.begin() as session:
            return await self._repository(session).claim(kinds, self.worker, self._until())

    def _begin_ready(self) -> None:
        for run in list(self._ready.values()):
            if self._busy[run.kind] < self._kinds[run.kind].parallel:
                self._begin(self._ready.pop(run.id), Effects())

    def _begin(self, run: Run, effects: Effects) -> None:
        kind = self._kinds[run.kind]
        turn = RunTurn(self._scribe_of(kind), run, self.worker, effects, self._news.tell)
        self._busy[kind.name] += 1
        task = asyncio.create_task(self._do(kind, turn), name=f"run-{run.id}")
        self._turns[run.id] = turn, task
        task.add_done_callback(lambda _: self._gone(kind, run.id, task))

    def _gone(self, kind: Kind, run_id: UUID, task: "asyncio.Task[None]") -> None:
        self._busy[kind.name] -= 1
        if self._turns.get(run_id, (None, None))[1] is task:
            del self._turns[run_id]
        if self._ready or kind.name in self._backlog:
            self._wake.set()
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.exception("runs.not-ended", error, run_id=str(run_id))

    async def _do(self, kind: Kind, turn: RunTurn) -> None:
        """Do the work and write down how it ended, whatever it raises."""
        try:
            ended = await kind.work(turn)
        except RunLost:
            return
        except EffectUnknown as error:
            ended = Ended("unknown", "effect_unknown", str(error))
        except asyncio.CancelledError:
            if not self._is_open:
                await self._leave(kind, turn.hold)
            raise
        except AppError as error:
            ended = Ended("failed", _code(error), str(error))
        except Exception as error:  # noqa: BLE001 - whatever the work raises is its run's end
            _log.exception("runs.work-failed", error, kind=kind.name, run_id=str(turn.run.id))
            ended = FAILED
        await self._end_surely(kind, turn.hold, ended)

    async def _end_surely(self, kind: Kind, hold: Hold, ended: Ended) -> None:
        """Keep trying while the database is away: the work is done, and shall not be lost."""
        while True:
            try:
                return await self._end(kind, hold, ended)
            except Unavailable:
                _log.warning("runs.end-waits-for-database", run_id=str(hold.run_id))
                await asyncio.sleep(LOOK_EVERY_S)
            except Exception as error:
                if ended is FAILED:
                    raise
                _log.exception("runs.end-not-written", error, run_id=str(hold.run_id))
                ended = FAILED

    async def _end(self, kind: Kind | None, hold: Hold, ended: Ended) -> None:
        text = _storable(ended.detail)
        row = await self._scribe_of(kind).keep(
            lambda runs: runs.end(held(hold), ended.status, ended.news, ended.code, text),
            ended.write,
        )
        if row is not None:
            self._news.tell(row.id, row.status)

    async def _leave(self, kind: Kind, hold: Hold) -> None:
        """This process stops: say so, or leave the run to one that goes on with it."""
        with suppress(Unavailable):
            if kind.recovery == "continue":
                async with self._db.begin() as session:
                    await self._repository(session).release(hold)
                return
            text = "The server stopped while this was running."
            await self._end(kind, hold, Ended("interrupted", "shutdown", text))

    async def _renew(self) -> None:
        """Renew our leases in one statement; stop what is ours no more."""
        fences = {run_id: turn.hold.fence for run_id, (turn, _) in self._turns.items()}
        fences |= {run_id: run.fence for run_id, run in self._ready.items()}
        if not fences:
            return
        async with self._db.begin() as session:
            repository = self._repository(session)
            still = await repository.renew(self.worker, fences.keys(), self._until())
        for run_id, fence in fences.items():
            if (run_id, fence) not in still:
                self.stop(run_id)

    async def _recover(self, *, is_alone: bool) -> None:
        """Decide about runs whose process is gone."""
        while True:
            async with self._db.read() as session:
                rows = await self._repository(session).expired(
                    self.worker, is_alone=is_alone, limit=EXPIRED_AT_ONCE
                )
            here = self._turns.keys() | self._ready.keys()
            gone = [row for row in rows if row.id not in here]
            for row in gone:
                await self._recover_one(row)
            if len(rows) < EXPIRED_AT_ONCE or not gone:
                return

    async def _recover_one(self, row: RunRow) -> None:
        effects = await self._effects(row.id)
        kind = self._kinds.get(row.kind)
        verdict = after_crash(kind.recovery if kind else "interrupt", effects)
        hold = Hold(row.id, row.worker or "", row.fence)
        if verdict == "again":
            await self._again(hold, effects)
        elif verdict == "unknown":
            open_keys = ", ".join(sorted(k for k, is_safe in effects.begun.items() if not is_safe))
            text = f"The process died while {open_keys} was under way; it may have been done."
            await self._end(kind, hold, Ended("unknown", CRASHED, text))
        else:
            text = "The process that did it is gone."
            await self._end(kind, hold, Ended("interrupted", CRASHED, text))

    async def _again(self, hold: Hold, effects: Effects) -> None:
        async with self._db.begin() as session:
            row = await self._repository(session).take(held(hold), self.worker, self._until())
        if row is not None:
            self._news.tell(row.id, row.status)
            self._begin(run_of(row), effects)

    async def _effects(self, run_id: UUID) -> Effects:
        found = Effects()
        seq = 0
        async with self._db.read() as session:
            repository = self._repository(session)
            while events := await repository.events(run_id, seq):
                found = effects_of(events, found)
                seq = events[-1].seq
        return found

    def _scribe_of(self, kind: Kind | None) -> Scribe:
        return self._durable_scribe if kind and kind.is_durable else self._scribe

    def _repository(self, session: AsyncSession) -> RunRepository:
        return RunRepository(session, self._clock())

    def _until(self) -> datetime:
        return self._clock() + self._lease


def _code(error: AppError) -> str:
    return error.title.lower().replace(" ", "_")[:CODE_LIMIT_CHARS]


def _storable(text: str) -> str:
    """PostgreSQL keeps no NUL, and no database half a surrogate."""
    return text.encode("utf-8", "replace").decode().replace("\0", "\ufffd")
