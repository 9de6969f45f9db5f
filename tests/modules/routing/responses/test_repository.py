"""Statements on responses, on both databases."""

from datetime import timedelta
from uuid import UUID

import pytest
from sqlalchemy import func, select

from app.kernel.db import uuid7
from app.modules.routing.models import ResponseRow
from app.modules.routing.repository import Link, ResponseRepository
from tests.fakes.clock import START

ANNA, BERT = uuid7(), uuid7()
DAY = timedelta(days=1)
MOMENT = timedelta(microseconds=1)


def make(user_id: UUID = ANNA, previous: ResponseRow | None = None, **more) -> ResponseRow:
    values = {
        "id": uuid7(),
        "user_id": user_id,
        "previous_id": previous.id if previous else None,
        "size_bytes": 7,
        "input_sealed": b"in",
        "response_sealed": b"out",
        "expires_at": START + 30 * DAY,
    }
    return ResponseRow(**values | more)


async def store(db, *rows: ResponseRow) -> None:
    async with db.begin() as session:
        session.add_all(rows)


async def expiries(db) -> dict[UUID, timedelta]:
    async with db.read() as session:
        rows = await session.scalars(select(ResponseRow))
        return {row.id: row.expires_at - START for row in rows}


@pytest.fixture
async def chain(db) -> list[ResponseRow]:
    """Three responses of Anna's, oldest first."""
    first = make()
    second = make(previous=first)
    rows = [first, second, make(previous=second)]
    await store(db, *rows)
    return rows


class TestFind:
    async def test_finds_what_is_the_users_own(self, db):
        mine, theirs = make(), make(BERT)
        await store(db, mine, theirs)

        async with db.read() as session:
            found = await ResponseRepository(session).find(ANNA, {mine.id, theirs.id}, START)

        assert list(found) == [mine.id]
        assert (found[mine.id].input_sealed, found[mine.id].response_sealed) == (b"in", b"out")

    @pytest.mark.parametrize(("left", "count"), [(MOMENT, 1), (0 * MOMENT, 0)])
    async def test_finds_nothing_that_has_expired(self, db, left, count):
        row = make(expires_at=START + left)
        await store(db, row)

        async with db.read() as session:
            found = await ResponseRepository(session).find(ANNA, {row.id}, START)

        assert len(found) == count

    async def test_tells_sizes_of_what_is_the_users_own(self, db):
        mine, theirs = make(size_bytes=2**40), make(BERT)
        await store(db, mine, theirs)

        async with db.read() as session:
            sizes = await ResponseRepository(session).sizes(ANNA, {mine.id, theirs.id}, START)

        assert sizes == {mine.id: 2**40}


class TestChain:
    async def test_follows_it_to_its_beginning(self, db, chain):
        first, second, third = chain

        async with db.read() as session:
            found = await ResponseRepository(session).chain(ANNA, third.id, START, 10)

        assert found == [
            Link(third.id, second.id, 7),
            Link(second.id, first.id, 7),
            Link(first.id, None, 7),
        ]

    async def test_stops_at_the_limit(self, db, chain):
        async with db.read() as session:
            found = await ResponseRepository(session).chain(ANNA, chain[-1].id, START, 2)

        assert len(found) == 2

    async def test_does_not_lead_to_somebody_else(self, db):
        theirs = make(BERT)
        mine = make(ANNA, previous=theirs)
        await store(db, theirs, mine)

        async with db.read() as session:
            repository = ResponseRepository(session)

            assert await repository.chain(ANNA, mine.id, START, 10) == [Link(mine.id, theirs.id, 7)]
            assert await repository.chain(BERT, mine.id, START, 10) == []


class TestProlong:
    async def test_keeps_the_whole_conversation(self, db, chain):
        other = make()
        await store(db, other)

        async with db.begin() as session:
            until = START + 40 * DAY
            await ResponseRepository(session).prolong(ANNA, chain[-1].id, START, until, 10)

        assert await expiries(db) == {row.id: 40 * DAY for row in chain} | {other.id: 30 * DAY}

    async def test_writes_nothing_for_less_than_a_day(self, db, chain):
        async with db.begin() as session:
            until = START + 31 * DAY
            await ResponseRepository(session).prolong(ANNA, chain[-1].id, START, until, 10)

        assert set((await expiries(db)).values()) == {30 * DAY}

    async def test_leaves_somebody_elses_alone(self, db, chain):
        async with db.begin() as session:
            until = START + 40 * DAY
            await ResponseRepository(session).prolong(BERT, chain[-1].id, START, until, 10)

        assert set((await expiries(db)).values()) == {30 * DAY}


class TestRemove:
    async def test_removes_ones_own_once(self, db, chain):
        async with db.begin() as session:
            repository = ResponseRepository(session)

            assert await repository.remove(ANNA, chain[0].id, START)
            assert not await repository.remove(ANNA, chain[0].id, START)

    async def test_leaves_somebody_elses_alone(self, db, chain):
        async with db.begin() as session:
            assert not await ResponseRepository(session).remove(BERT, chain[0].id, START)

        assert len(await expiries(db)) == 3


class TestSweep:
    async def test_drops_what_has_expired_a_few_at_a_time(self, db, chain):
        await store(db, *(make(expires_at=START) for _ in range(3)))

        async with db.begin() as session:
            repository = ResponseRepository(session)
            counts = [await repository.sweep(START, 2) for _ in range(3)]

        async with db.read() as session:
            left = await session.scalar(select(func.count()).select_from(ResponseRow))
        assert (counts, left) == ([2, 1, 0], 3)
