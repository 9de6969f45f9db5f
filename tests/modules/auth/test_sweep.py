"""Old rows go, and nothing that anybody still needs."""

from datetime import timedelta

from app.modules.auth.models import EventRow, RefreshTokenRow, SessionRow
from tests.modules.auth.people import count, register, who


class TestRun:
    async def test_leaves_what_is_alive(self, auth, sqlite):
        pair = await register(auth)
        pair = await auth.sessions.refresh(pair.refresh_token, "unknown")

        await auth.sweep.run()

        assert await auth.sessions.refresh(pair.refresh_token, "unknown")
        assert await count(sqlite, RefreshTokenRow) == 3

    async def test_drops_what_ended_long_ago(self, auth, sqlite, clock):
        await register(auth)
        clock.advance(timedelta(days=61).total_seconds())

        await auth.sweep.run()

        assert await count(sqlite, SessionRow) == await count(sqlite, RefreshTokenRow) == 0
        assert await count(sqlite, EventRow) == 2

    async def test_drops_the_audit_trail_after_400_days(self, auth, sqlite, clock):
        await register(auth)
        clock.advance(timedelta(days=401).total_seconds())

        await auth.sweep.run()

        assert await count(sqlite, EventRow) == 0

    async def test_a_second_delivery_changes_nothing(self, auth, sqlite):
        pair = await register(auth)

        await auth.sweep.run()
        await auth.sweep.run()

        assert await who(auth, pair)

    def test_is_a_job_of_the_house(self, auth):
        (job,) = auth.jobs()

        assert (job.name, job.cron) == ("auth.sweep", "17 * * * *")
