"""A prepared statement does what a session does with it, on both databases."""

from datetime import UTC, datetime
from uuid import UUID, uuid4

import pytest
from sqlalchemy import (
    Column,
    LargeBinary,
    MetaData,
    Table,
    Uuid,
    bindparam,
    insert,
    select,
    update,
)
from sqlalchemy.exc import IntegrityError

from app.kernel.db import Database, Prepared, Timestamp

notes = Table(
    "notes",
    MetaData(),
    Column("id", Uuid(), primary_key=True),
    Column("made_at", Timestamp, nullable=False),
    Column("body", LargeBinary),
)
MADE_AT = datetime(2026, 1, 2, 3, 4, 5, 678_900, tzinfo=UTC)
SECRET = b"nobody's business"
ADD = Prepared(insert(notes))
FIND = Prepared(select(notes).where(notes.c.id == bindparam("wanted", type_=Uuid())))
CHANGE = Prepared(update(notes).where(notes.c.id == bindparam("wanted", type_=Uuid())))


@pytest.fixture
async def desk(db: Database) -> Database:
    async with db.begin() as session:
        await (await session.connection()).run_sync(notes.create)
    return db


async def added(desk: Database, note_id: UUID) -> None:
    async with desk.begin() as session:
        await ADD.rows(session, {"id": note_id, "made_at": MADE_AT, "body": SECRET})


async def found(desk: Database, note_id: UUID) -> list[list[object]]:
    async with desk.read() as session:
        return [list(row) for row in await FIND.rows(session, {"wanted": note_id})]


class TestRows:
    async def test_carries_values_there_and_back(self, desk):
        note_id = uuid4()

        await added(desk, note_id)

        assert await found(desk, note_id) == [[note_id, MADE_AT, SECRET]]

    async def test_are_none_where_nothing_is_found(self, desk):
        assert await found(desk, uuid4()) == []

    async def test_carry_what_is_not_there(self, desk):
        note_id = uuid4()
        await added(desk, note_id)

        async with desk.begin() as session:
            await CHANGE.rows(session, {"wanted": note_id, "body": None})

        assert await found(desk, note_id) == [[note_id, MADE_AT, None]]

    async def test_see_what_their_session_has_written(self, desk):
        note_id = uuid4()

        async with desk.begin() as session:
            await session.execute(insert(notes).values(id=note_id, made_at=MADE_AT, body=b""))
            rows = await FIND.rows(session, {"wanted": note_id})

        assert len(rows) == 1

    async def test_are_rolled_back_with_their_session(self, desk):
        note_id = uuid4()

        async def write_and_fail() -> None:
            async with desk.begin() as session:
                await ADD.rows(session, {"id": note_id, "made_at": MADE_AT, "body": SECRET})
                raise KeyError

        with pytest.raises(KeyError):
            await write_and_fail()

        assert await found(desk, note_id) == []

    async def test_break_a_rule_as_a_session_does(self, desk):
        note_id = uuid4()
        await added(desk, note_id)

        with pytest.raises(IntegrityError):
            await added(desk, note_id)

    async def test_of_sqlite_show_no_value_in_an_error(self, sqlite):
        async with sqlite.begin() as session:
            await (await session.connection()).run_sync(notes.create)
        note_id = uuid4()
        await added(sqlite, note_id)

        with pytest.raises(IntegrityError) as caught:
            await added(sqlite, note_id)

        assert SECRET.decode() not in str(caught.value)


class TestWrite:
    async def test_does_it_with_each_of_the_values(self, desk):
        rows = [{"id": uuid4(), "made_at": MADE_AT, "body": bytes([n])} for n in range(3)]

        async with desk.begin() as session:
            await ADD.write(session, rows)

        async with desk.read() as session:
            found = await session.execute(select(notes).order_by(notes.c.body))
        assert [tuple(row) for row in found] == [tuple(row.values()) for row in rows]

    async def test_of_nothing_does_nothing(self, desk):
        async with desk.begin() as session:
            await ADD.write(session, [])

        async with desk.read() as session:
            assert (await session.execute(select(notes))).all() == []

    async def test_tells_what_is_wrong_without_the_values(self, desk):
        row = {"id": uuid4(), "made_at": MADE_AT, "body": SECRET}

        with pytest.raises(IntegrityError) as caught:
            async with desk.begin() as session:
                await ADD.write(session, [row, row])

        assert not desk.is_embedded or "nobody" not in str(caught.value)
