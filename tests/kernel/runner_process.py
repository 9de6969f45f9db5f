"""One process with one job runner, driven line by line: what it runs, it says.

``open URL INSTANT`` starts the runner, ``run INSTANT`` moves its clock and runs what is due,
``close`` ends it. Each answer is one line: the words that its jobs have written since the last.
"""

import asyncio
import sys
from datetime import datetime

from app.adapters.queue.sql import JobRunner
from app.kernel.db import Database
from app.kernel.jobs import Job, JobBook
from tests.fakes.clock import FakeClock


class RunnerProcess:
    def __init__(self) -> None:
        self.clock = FakeClock()
        self.words: list[str] = []
        # The sixth field is seconds: a tick a second.
        tick = Job("test.tick", self.tick, cron="* * * * * *")
        self.book = JobBook([tick, Job("test.count", self.count)])

    async def tick(self) -> None:
        self.words.append("tick")

    async def count(self, number: str) -> None:
        self.words.append(number)

    async def open(self, url: str, instant: str) -> None:
        self.clock.now = datetime.fromisoformat(instant)
        self.db = Database(url, self.book)
        self.runner = JobRunner(self.db, self.book, self.clock)
        await self.runner.open()

    async def run(self, instant: str) -> None:
        self.clock.now = datetime.fromisoformat(instant)
        await self.runner.run_due()

    async def close(self) -> None:
        await self.runner.close()
        await self.db.close()

    async def obey(self) -> None:
        while line := await asyncio.to_thread(sys.stdin.readline):
            verb, *args = line.split()
            await getattr(self, verb)(*args)
            print(*self.words, flush=True)
            self.words.clear()


if __name__ == "__main__":
    asyncio.run(RunnerProcess().obey())
