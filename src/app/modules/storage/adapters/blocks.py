"""Ranks vectors by an exact scan over float32 blocks in memory-mapped files.

The files follow the table: a search first takes in what was committed since, so that a crash
between a commit and the index needs no repair, and what is damaged is read from the table again.
"""

import asyncio
import errno
import shutil
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final, ParamSpec, TypeVar
from uuid import UUID

from app.kernel.db import Database
from app.kernel.errors import OutOfSpace, Unavailable
from app.modules.storage.ports import Found, VectorQuery
from app.modules.storage.repository.vectors import (
    CollectionRepository,
    Standing,
    Step,
    VectorRepository,
)

if TYPE_CHECKING:
    from app.modules.storage.adapters.shelf import Shelf

P = ParamSpec("P")
T = TypeVar("T")

# Changes that are taken in at a time, and how often before others had better wait.
FOLLOW_ROWS: Final = 500
PAGES_LIMIT: Final = 1_000_000
# Each has two files mapped; the one that was not used for longest is closed first.
OPEN_LIMIT: Final = 64
# One scan uses several cores by itself.
THREADS: Final = 4
FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


class IndexDown(Unavailable):
    """The files that vectors are ranked in cannot be used."""

    title = "Vector index unavailable"


class IndexFull(OutOfSpace):
    """There is no room for the files that vectors are ranked in. The vectors are stored."""

    title = "Vector index full"


class Desk:
    """One collection's shelf, whose turn it is, and how many use or await it."""

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.users = 0
        self.shelf: Shelf | None = None


class BlockIndex:
    """One process owns the folder."""

    def __init__(self, db: Database, data_dir: str) -> None:
        self._db = db
        self._folder = Path(data_dir) / "vectors"
        self._desks: OrderedDict[UUID, Desk] = OrderedDict()
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="vectors")

    async def search(self, query: VectorQuery) -> Found:
        async with self._desk(query.collection_id) as desk:
            # A shelf that fails on the way is opened again by the next search.
            shelf, desk.shelf = desk.shelf or await self._opened(query), None
            await self._follow(shelf, query)
            desk.shelf, view = shelf, shelf.view()
        return await self._aside(
            view.nearest, query.vector, query.limit, query.epoch, dict(query.tags)
        )

    async def forget(self, collection_id: UUID) -> None:
        async with self._desk(collection_id) as desk:
            desk.shelf = None
            await self._aside(_remove, self._folder / str(collection_id))

    async def tidy(self) -> None:
        found = await self._aside(_folders, self._folder)
        async with self._db.read() as session:
            existing = await CollectionRepository(session).existing(found)
        for collection_id in found:
            if collection_id not in existing:
                await self.forget(collection_id)

    async def close(self) -> None:
        self._desks.clear()
        self._threads.shutdown()

    @asynccontextmanager
    async def _desk(self, collection_id: UUID) -> AsyncIterator[Desk]:
        """Take turns at a collection, and close what nobody uses."""
        desk = self._desks.setdefault(collection_id, Desk())
        self._desks.move_to_end(collection_id)
        desk.users += 1
        try:
            async with desk.lock:
                yield desk
        finally:
            desk.users -= 1
            idle = [one for one, other in self._desks.items() if other.users == 0]
            for one in idle[: max(len(self._desks) - OPEN_LIMIT, 0)]:
                del self._desks[one]

    async def _opened(self, query: VectorQuery) -> "Shelf":
        folder = self._folder / str(query.collection_id)
        return await self._aside(_open, folder, query.collection_id, query.dimension)

    async def _follow(self, shelf: "Shelf", query: VectorQuery) -> None:
        """Take in what was committed since."""
        if shelf.applied == query.seq:
            return
        is_new = False
        for _ in range(PAGES_LIMIT):
            standing, steps = await self._news(query.collection_id, shelf.applied)
            if steps:
                await self._aside(shelf.append, steps)
            if len(steps) == FOLLOW_ROWS:
                continue
            if not _is_level(shelf, standing) and not is_new:
                # Tombstones are gone that it never saw, or it followed another database.
                is_new = True
                await self._aside(shelf.clear)
                continue
            shelf.applied = max(shelf.applied, standing.seq)
            await self._aside(shelf.compact)
            return
        raise IndexDown("Vectors kept coming; search again.")

    async def _news(self, collection_id: UUID, after_seq: int) -> tuple[Standing, list[Step]]:
        """How the collection stands, and what comes next, as of one moment."""
        async with self._db.read() as session:
            standing = await CollectionRepository(session).standing(collection_id)
            if standing is None:
                return Standing(after_seq, 0), []
            steps = await VectorRepository(session).steps(collection_id, after_seq, FOLLOW_ROWS)
        return standing, steps

    async def _aside(self, work: Callable[P, T], *args: P.args, **named: P.kwargs) -> T:
        """Do in a thread what computes, or waits for a disk; whoever is cancelled waits for it."""
        loop = asyncio.get_running_loop()
        running = loop.run_in_executor(self._threads, lambda: work(*args, **named))
        try:
            return await asyncio.shield(running)
        except asyncio.CancelledError:
            await asyncio.wait([running])
            raise
        except OSError as error:
            kind = IndexFull if error.errno in FULL else IndexDown
            raise kind("The vector index cannot be written or read.") from error


def _is_level(shelf: "Shelf", standing: Standing) -> bool:
    return shelf.applied <= standing.seq and shelf.live_count == standing.count


def _open(folder: Path, collection_id: UUID, dimension: int) -> "Shelf":
    from app.modules.storage.adapters.shelf import Shelf  # noqa: PLC0415 - numpy starts slowly

    return Shelf(folder, collection_id, dimension)


def _remove(folder: Path) -> None:
    if folder.exists():
        shutil.rmtree(folder)


def _folders(parent: Path) -> list[UUID]:
    """The collections that have a folder."""
    if not parent.exists():
        return []
    return [UUID(path.name) for path in parent.iterdir() if _is_id(path.name)]


def _is_id(name: str) -> bool:
    try:
        return str(UUID(name)) == name
    except ValueError:
        return False
