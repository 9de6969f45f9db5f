"""The meter: journal first, rows in batches, each exactly once."""

from uuid import UUID

import pytest
from sqlalchemy import func, select

from app.kernel.db import uuid7
from app.kernel.errors import Unavailable
from app.modules.billing.adapters.journal import FileJournal
from app.modules.billing.models import UsageRow
from app.modules.billing.service import BATCH_ROWS, UsageMeter
from tests.modules.billing.test_journal import usage
from tests.waiting import until


@pytest.fixture
def journal(tmp_path) -> FileJournal:
    return FileJournal(tmp_path / "usage")


async def count(db) -> int:
    async with db.read() as session:
        return await session.scalar(select(func.count()).select_from(UsageRow))


class TestFlush:
    async def test_stores_every_field_as_it_was_recorded(self, db, journal):
        meter = UsageMeter(db, journal)
        recorded = usage(input_tokens=3, cost_nanos=9, price_version="v", currency="USD")

        meter.record(recorded)
        await meter.flush()

        (row,) = await meter.list(recorded.user_id, None, 10)
        assert {name: getattr(row, name) for name in recorded.__struct_fields__} == {
            name: getattr(recorded, name) for name in recorded.__struct_fields__
        }

    async def test_stores_more_than_a_batch(self, db, journal):
        meter = UsageMeter(db, journal)
        for _ in range(BATCH_ROWS + 7):
            meter.record(usage())

        await meter.flush()

        assert await count(db) == BATCH_ROWS + 7

    async def test_a_crash_before_the_segment_is_dropped_doubles_nothing(self, db, journal):
        class Crash(Exception):
            pass

        class DropsNothing(FileJournal):
            def drop(self, segment: str) -> None:
                raise Crash

        meter = UsageMeter(db, DropsNothing(journal._folder))
        meter.record(usage())
        with pytest.raises(Crash):
            await meter.flush()

        await UsageMeter(db, journal).flush()

        assert await count(db) == 1
        assert list(journal.closed_segments()) == []

    async def test_a_lost_database_costs_no_row(self, db, journal):
        class Down:
            def begin(self):
                raise Unavailable("down")

        meter = UsageMeter(Down(), journal)
        meter.record(usage())
        with pytest.raises(Unavailable):
            await meter.flush()

        await UsageMeter(db, journal).flush()

        assert await count(db) == 1


class TestOpen:
    async def test_stores_what_an_earlier_process_left(self, db, journal):
        journal.append(usage())
        journal.close_segment()

        meter = UsageMeter(db, journal)
        await meter.open()
        await meter.close()

        assert await count(db) == 1

    async def test_stores_by_itself_while_open(self, db, journal):
        meter = UsageMeter(db, journal)
        await meter.open()
        meter.record(usage())

        async def is_stored() -> bool:
            return await count(db) == 1

        await until(is_stored)
        await meter.close()


class TestList:
    async def test_pages_newest_first_and_shows_only_the_users_own(self, db, journal):
        meter = UsageMeter(db, journal)
        mine = UUID(int=1)
        ids = []
        for _ in range(5):
            one = usage(user_id=mine)
            ids.append(one.id)
            meter.record(one)
        meter.record(usage(user_id=UUID(int=2)))
        await meter.flush()

        first = await meter.list(mine, None, 3)
        second = await meter.list(mine, first[-1].id, 3)

        assert [row.id for row in [*first, *second]] == ids[::-1]

    async def test_a_cursor_of_nobody_is_an_empty_page(self, db, journal):
        assert await UsageMeter(db, journal).list(uuid7(), uuid7(), 3) == []
