"""What the tests of jobs share: a job that remembers, and a look at the tables."""

from sqlalchemy import select

from app.kernel.db import Database
from app.kernel.jobs import JobRow, defer


class Diary:
    """A job that writes down what it was given, and fails as often as it is told to."""

    def __init__(self, failures: int = 0) -> None:
        self.entries: list[dict[str, str]] = []
        self._failures = failures

    async def run(self, **args: str) -> None:
        self.entries.append(args)
        if len(self.entries) <= self._failures:
            raise LookupError(f"attempt {len(self.entries)} failed")


async def put_off(db: Database, job: str, **args: str) -> None:
    async with db.begin() as session:
        defer(session, job, **args)


async def rows(db: Database) -> list[JobRow]:
    async with db.read() as session:
        return list(await session.scalars(select(JobRow)))
