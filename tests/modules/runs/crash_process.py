"""A process that dies at every point of a run, over and over, and is followed by one that lives.

``python crash_process.py FOLDER RECOVERY SAFETY`` forks a child for each point, which is one side
of one transaction, and prints a JSON line of what was found after the next child had recovered.
Each begins with a copy of FOLDER/db, which has the tables and the users.
"""

import asyncio
import json
import os
import shutil
import sys
from contextlib import asynccontextmanager
from pathlib import Path

from app.adapters.cache.memory import MemoryCache
from app.kernel.db import Database
from app.kernel.jobs import JobBook
from app.modules.runs.api import Ended, Kind
from app.modules.runs.domain import Search
from tests.modules.runs import works

STEPS = 3
NEVER = 10_000
DEATH = 9


class Mortal(Database):
    """Dies before or after the n-th commit: even points before, odd ones after."""

    point = NEVER
    commits = 0

    @asynccontextmanager
    async def begin(self, *, is_durable=False):
        number = self.commits
        self.commits += 1
        async with super().begin(is_durable=is_durable) as session:
            yield session
            await session.flush()
            if self.point == 2 * number:
                os._exit(DEATH)
        if self.point == 2 * number + 1:
            os._exit(DEATH)


def kind(folder: Path, recovery: str, *, is_idempotent: bool) -> Kind:
    async def work(turn):
        for step in range(STEPS):

            async def act(step: int = step) -> int:
                with (folder / f"step{step}").open("a") as file:
                    file.write("x")
                return step * 10

            assert await turn.effect(f"step{step}", act, is_idempotent=is_idempotent) == step * 10
        return Ended()

    return Kind("test", work, recovery=recovery)


async def live(folder: Path, made: Kind, point: int) -> None:
    """Start a run unless there is one, and see it end."""
    db = Mortal(f"sqlite+insula:///{folder / 'db'}", JobBook())
    db.point = point
    async with works.opened(db, MemoryCache(), made) as module:
        runs = await module.runs.page(Search(works.ANNA))
        run = runs[0] if runs else await works.started(module, db)
        run = await works.ended(module, run)
        events = await works.log(module, run)
    await db.close()
    found = {
        "status": run.status,
        "story": works.story(events),
        "seqs": [event.seq for event in events],
        "done": [
            len((folder / f"step{n}").read_text())
            for n in range(STEPS)
            if (folder / f"step{n}").exists()
        ],
    }
    (folder / "found").write_text(json.dumps(found))


def forked(folder: Path, made: Kind, point: int) -> int:
    child = os.fork()
    if child == 0:
        asyncio.run(live(folder, made, point))
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def main() -> None:
    root, recovery, safety = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
    for point in range(NEVER):
        folder = root / str(point)
        folder.mkdir()
        shutil.copyfile(root / "db", folder / "db")
        made = kind(folder, recovery, is_idempotent=safety == "idempotent")
        died = forked(folder, made, point)
        if died == 0:
            break
        assert died == DEATH, died
        assert forked(folder, made, NEVER) == 0
        print(
            json.dumps({"point": point, **json.loads((folder / "found").read_text())}), flush=True
        )


if __name__ == "__main__":
    main()
