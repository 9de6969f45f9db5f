"""Statements about runs and their events."""

from collections import namedtuple
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from functools import cache
from typing import Any, Final, Literal, TypeAlias, cast
from uuid import UUID

import msgspec
from sqlalchemy import (
    ColumnElement,
    Table,
    and_,
    bindparam,
    delete,
    func,
    insert,
    or_,
    select,
    update,
)
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.sql.dml import ReturningUpdate

from app.kernel.db import Prepared, Timestamp, uuid7
from app.modules.runs.api import News, Run, Wish
from app.modules.runs.domain import FINAL, LIVE, STATUS, Event, Search, Status, sources_of
from app.modules.runs.models import EventRow, RunRow

EVENTS_A_PAGE = 500
TITLE_LIMIT_CHARS = 200
# By the tables, and made once: through the classes, and made for each change, a statement takes
# four times as long as SQLite does.
_RUNS: Final = cast(Table, RunRow.__table__)
INSERT_RUN: Final = Prepared(insert(_RUNS))
INSERT_EVENT: Final = Prepared(insert(cast(Table, EventRow.__table__)))
_Changed: Final = namedtuple("_Changed", _RUNS.columns.keys())  # type: ignore[misc]  # the table's


def _is_in(statuses: Collection[Status]) -> ColumnElement[bool]:
    """One by one: how long a list is would have to be seen at each execution."""
    return or_(*(_RUNS.c.status == one for one in sorted(statuses)))


_HELD: Final = and_(
    _RUNS.c.id == bindparam("the_id"),
    _RUNS.c.fence == bindparam("the_fence"),
    _RUNS.c.worker == bindparam("the_worker"),
    _is_in(LIVE),
)
_ASKED: Final = and_(
    _RUNS.c.id == bindparam("the_id"),
    _RUNS.c.status == "awaiting",
    _RUNS.c.question_seq == bindparam("the_question_seq"),
)
_OLDEST_PENDING: Final = (
    select(_RUNS.c.id)
    .where(_RUNS.c.status == "pending", _RUNS.c.kind.in_(bindparam("the_kinds", expanding=True)))
    .order_by(_RUNS.c.id)
    .limit(1)
    .with_for_update(skip_locked=True)
    .scalar_subquery()
)
Condition: TypeAlias = Literal["held", "may_ask", "asked", "asked_and_held", "may_end", "oldest"]
_CONDITIONS: Final[Mapping[Condition, ColumnElement[bool]]] = {
    "held": _HELD,
    "may_ask": and_(_HELD, _is_in(sources_of("awaiting"))),
    "asked": _ASKED,
    "asked_and_held": and_(_ASKED, _HELD),
    "may_end": and_(_RUNS.c.id == bindparam("the_id"), _is_in(sources_of("cancelled"))),
    "oldest": and_(_RUNS.c.id == _OLDEST_PENDING, _RUNS.c.status == "pending"),
}
# What a change makes of what is there, in place of a value that is given.
_MADE: Final[Mapping[str, ColumnElement[Any]]] = {
    "fence": _RUNS.c.fence + 1,
    "started_at": func.coalesce(_RUNS.c.started_at, bindparam("new_started_at", type_=Timestamp)),
}


class Match(msgspec.Struct, frozen=True):
    """Which run a change is of and what it must still be, with the values that this is told by."""

    condition: Condition
    values: dict[str, Any]


class Hold(msgspec.Struct, frozen=True):
    """A process's claim of a run. A later claim has a higher ``fence``."""

    run_id: UUID
    worker: str
    fence: int


class RunRepository:
    def __init__(self, session: AsyncSession, now: datetime) -> None:
        self._session = session
        self._now = now

    async def add(self, wish: Wish, worker: str, until: datetime | None) -> Run | None:
        """Write a new run, in the hands of ``worker`` if there is one.

        ``None`` if its idempotency key is taken, perhaps by a rival of this moment.
        """
        said = [_says("pending"), _says("running")] if worker else [_says("pending")]
        run = Run(
            id=uuid7(),
            user_id=wish.user_id,
            kind=wish.kind,
            title=wish.title[:TITLE_LIMIT_CHARS],
            status="running" if worker else "pending",
            last_seq=len(said),
            fence=1 if worker else 0,
            created_at=self._now,
            started_at=self._now if worker else None,
        )
        more = {
            "updated_at": self._now,
            "worker": worker or None,
            "lease_until": until,
            "idempotency_key": wish.idempotency_key,
            "digest": wish.digest,
        }
        values = msgspec.structs.asdict(run) | more
        if wish.idempotency_key is None:
            await INSERT_RUN.rows(self._session, values)
        else:
            try:
                async with self._session.begin_nested():
                    await INSERT_RUN.rows(self._session, values)
            except IntegrityError:
                return None
        await self._write(run.id, run.last_seq, said)
        return run

    async def find_twin(self, wish: Wish) -> RunRow | None:
        """The run that was started with the same idempotency key."""
        same = and_(
            RunRow.user_id == wish.user_id,
            RunRow.kind == wish.kind,
            RunRow.idempotency_key == wish.idempotency_key,
        )
        return (await self._session.scalars(select(RunRow).where(same))).one_or_none()

    async def find(self, ids: Collection[UUID]) -> list[RunRow]:
        return list(await self._session.scalars(select(RunRow).where(RunRow.id.in_(ids))))

    async def owned(self, user_id: UUID, run_id: UUID) -> RunRow | None:
        mine = and_(RunRow.id == run_id, RunRow.user_id == user_id)
        return (await self._session.scalars(select(RunRow).where(mine))).one_or_none()

    async def page(self, search: Search) -> list[RunRow]:
        """A user's runs, newest first."""
        wanted = [RunRow.user_id == search.user_id]
        if search.kind is not None:
            wanted.append(RunRow.kind == search.kind)
        if search.title is not None:
            wanted.append(RunRow.title == search.title)
        if search.statuses:
            wanted.append(RunRow.status.in_(search.statuses))
        if search.before is not None:
            wanted.append(RunRow.id < search.before)
        found = select(RunRow).where(*wanted).order_by(RunRow.id.desc())
        return list(await self._session.scalars(found.offset(search.offset).limit(search.limit)))

    async def tally(self, user_id: UUID, kind: str) -> dict[Status, int]:
        counted = (
            select(RunRow.status, func.count())
            .where(RunRow.user_id == user_id, RunRow.kind == kind)
            .group_by(RunRow.status)
        )
        return {row[0]: row[1] for row in await self._session.execute(counted)}

    async def events(self, run_id: UUID, after_seq: int) -> list[Event]:
        """A page of a run's log."""
        statement = (
            select(EventRow.seq, EventRow.name, EventRow.data, EventRow.created_at)
            .where(EventRow.run_id == run_id, EventRow.seq > after_seq)
            .order_by(EventRow.seq)
            .limit(EVENTS_A_PAGE)
        )
        rows = await self._session.execute(statement)
        return [Event(seq, name, data, int(at.timestamp() * 1000)) for seq, name, data, at in rows]

    async def say(self, hold: Hold, news: Sequence[News]) -> RunRow | None:
        """Write events of a run that this hold still has."""
        return await self._append(held(hold), news, {})

    async def ask(self, hold: Hold, question: News) -> RunRow | None:
        """Let a run wait for an answer; the question is its last event but one."""
        match = Match("may_ask", held(hold).values)
        return await self._append(match, [question, _says("awaiting")], {"status": "awaiting"})

    async def go_on(
        self, run_id: UUID, question_seq: int, news: Sequence[News], hold: Hold | None = None
    ) -> RunRow | None:
        """End the wait for an answer to this question, once."""
        asked = {"the_id": run_id, "the_question_seq": question_seq}
        match = Match("asked", asked)
        if hold is not None:
            match = Match("asked_and_held", asked | held(hold).values)
        values = {"status": "running", "question_seq": None}
        return await self._append(match, [*news, _says("running")], values)

    async def end(
        self, match: Match, status: Status, news: Sequence[News], code: str, text: str
    ) -> RunRow | None:
        """Move to a final state; nobody holds the run any more."""
        said: dict[str, Any] = {"code": code, "detail": text} if code else {}
        values = {
            "status": status,
            "ended_at": self._now,
            "question_seq": None,
            "worker": None,
            "lease_until": None,
            "fence": None,
            "error_code": code,
            "error": text,
        }
        return await self._append(match, [*news, _says(status, **said)], values)

    async def claim(self, kinds: Collection[str], worker: str, until: datetime) -> RunRow | None:
        """Take the oldest run that nobody has begun."""
        return await self.take(Match("oldest", {"the_kinds": list(kinds)}), worker, until)

    async def has_pending(self, kinds: Collection[str]) -> bool:
        waits = and_(RunRow.status == "pending", RunRow.kind.in_(kinds))
        statement = select(RunRow.id).where(waits).limit(1)
        return (await self._session.scalars(statement)).first() is not None

    async def release(self, hold: Hold) -> None:
        """End a lease before its time, so that another process may go on."""
        await self._append(held(hold), [], {"lease_until": self._now})

    async def take(self, match: Match, worker: str, until: datetime) -> RunRow | None:
        """Put a run into a process's hands."""
        values = {
            "status": "running",
            "question_seq": None,
            "worker": worker,
            "lease_until": until,
            "fence": None,
            "started_at": self._now,
        }
        return await self._append(match, [_says("running")], values)

    async def expired(self, worker: str, *, is_alone: bool, limit: int) -> list[RunRow]:
        """Runs whose process is gone: their lease is over, or there is but one process."""
        is_gone = RunRow.lease_until < self._now
        if is_alone:
            is_gone = or_(is_gone, RunRow.worker != worker)
        statement = select(RunRow).where(RunRow.status.in_(LIVE), is_gone).limit(limit)
        return list(await self._session.scalars(statement))

    async def renew(
        self, worker: str, ids: Collection[UUID], until: datetime
    ) -> set[tuple[UUID, int]]:
        """Renew the leases of these runs; the claims that still hold."""
        mine = and_(_RUNS.c.id.in_(ids), _RUNS.c.worker == worker, _is_in(LIVE))
        statement = update(_RUNS).where(mine).values(lease_until=until)
        rows = await self._session.execute(statement.returning(_RUNS.c.id, _RUNS.c.fence))
        return {(run_id, fence) for run_id, fence in rows}

    async def drop_old(self, ended_before: datetime, keep_count: int, limit: int) -> list[UUID]:
        """Delete runs that ended long ago, and those above the number that a user keeps."""
        place = func.row_number().over(partition_by=RunRow.user_id, order_by=RunRow.id.desc())
        ranked = (
            select(RunRow.id, RunRow.ended_at, place.label("place"))
            .where(RunRow.status.in_(FINAL))
            .subquery()
        )
        old = or_(ranked.c.ended_at < ended_before, ranked.c.place > keep_count)
        ids = list(await self._session.scalars(select(ranked.c.id).where(old).limit(limit)))
        await self._session.execute(delete(EventRow).where(EventRow.run_id.in_(ids)))
        await self._session.execute(delete(RunRow).where(RunRow.id.in_(ids)))
        return ids

    async def _append(
        self, match: Match, news: Sequence[News], values: Mapping[str, Any]
    ) -> RunRow | None:
        """Change a run and write its events. Its row is locked, so that no number is left out."""
        changed = {f"new_{name}": value for name, value in values.items()}
        named = {**match.values, **changed, "new_events": len(news), "new_updated_at": self._now}
        if match.condition == "oldest":
            # A list of kinds is as long as it is: there is no one statement to prepare.
            asked = await self._session.execute(_statement("oldest", tuple(values)), named)
            found: Sequence[Sequence[Any]] = asked.all()
        else:
            found = await _change(match.condition, tuple(values)).rows(self._session, named)
        if not found:
            return None
        row = cast(RunRow, _Changed(*found[0]))
        if news:
            await self._write(row.id, row.last_seq, news)
        return row

    async def _write(self, run_id: UUID, last_seq: int, news: Sequence[News]) -> None:
        first = last_seq - len(news) + 1
        rows = [
            {"run_id": run_id, "seq": first + number, "name": one.name, "data": one.data}
            | {"id": uuid7(), "created_at": self._now, "updated_at": self._now}
            for number, one in enumerate(news)
        ]
        await INSERT_EVENT.write(self._session, rows)


def held(hold: Hold) -> Match:
    """Match a run only while this very claim of it holds."""
    values = {"the_id": hold.run_id, "the_fence": hold.fence, "the_worker": hold.worker}
    return Match("held", values)


def may_end(run_id: UUID) -> Match:
    """Match a run that has not ended."""
    return Match("may_end", {"the_id": run_id})


@cache
def _change(condition: Condition, names: tuple[str, ...]) -> Prepared:
    """What changes these columns; there are as many as verbs."""
    return Prepared(_statement(condition, names))


@cache
def _statement(condition: Condition, names: tuple[str, ...]) -> ReturningUpdate[Any]:
    changed = {name: _MADE.get(name, bindparam(f"new_{name}")) for name in names}
    asks = {"question_seq": _RUNS.c.last_seq + 1} if condition == "may_ask" else {}
    counted = {
        "last_seq": _RUNS.c.last_seq + bindparam("new_events"),
        "updated_at": bindparam("new_updated_at"),
    }
    where = _CONDITIONS[condition]
    return update(_RUNS).where(where).values(changed | asks | counted).returning(_RUNS)


def _says(status: Status, **more: Any) -> News:
    return News(STATUS, {"status": status, **more})
