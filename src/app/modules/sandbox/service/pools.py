"""Which projects are up in this process, and how they come up, change and go down."""

import asyncio
from contextlib import suppress
from typing import Final

from app.kernel import log
from app.kernel.db import Database
from app.kernel.errors import AppError, Conflict, Unavailable
from app.kernel.ports import Cache
from app.modules.sandbox.domain.projects import Project
from app.modules.sandbox.ports import Capabilities, NoWall, Runner
from app.modules.sandbox.repository.pools import PoolRepository, Wanted
from app.modules.sandbox.service.pool import Pool, PoolState
from app.modules.sandbox.service.projects import Projects

__all__ = ["Pool", "PoolState", "Pools", "ProjectDown"]

DEFAULT: Final = "default"
TOPIC: Final = "sandbox.pools"
LOOK_EVERY_S: Final = 60.0
BEGIN_S: Final = 60.0
# What is up sooner is waited for; longer builds keep no news of other projects away.
LOOK_S: Final = 2.0

_log = log.get("sandbox")


class Starting(Unavailable):
    """The sandbox is still finding out what isolates, or bringing up what shall be up."""

    title = "Sandbox is starting"


class ProjectDown(Conflict):
    """The project has no workers now: bring it up first."""

    title = "Project down"


class Pools:
    """One for each process. What is up is written down, and holds for all of them."""

    def __init__(
        self, db: Database, cache: Cache, runner: Runner, projects: Projects, replicas: int
    ) -> None:
        self._db = db
        self._cache = cache
        self._runner = runner
        self._projects = projects
        self._replicas = replicas
        self._pools: dict[str, Pool] = {}
        self._changes: dict[str, asyncio.Lock] = {}
        self._capabilities: Capabilities | None = None
        self._known = asyncio.Event()
        self._begun = asyncio.Event()
        self._draining: dict[asyncio.Task[None], Pool] = {}
        self._looking: set[asyncio.Task[None]] = set()

    async def open(self) -> None:
        """Find out what the host offers, then bring up what shall be up, and keep it so."""
        await self._find_walls()
        while True:
            try:
                await self._runner.sweep()
                await self._reconcile()
                self._begun.set()
                async with asyncio.timeout(LOOK_EVERY_S):
                    async for _ in self._cache.listen(TOPIC):
                        await self._reconcile()
            except TimeoutError:
                continue
            except Unavailable as error:
                _log.warning("sandbox.pools-wait", reason=str(error))
                await asyncio.sleep(1)
            except Exception as error:  # noqa: BLE001 - the loop must survive one bad project
                _log.exception("sandbox.pools-failed", error)
                await asyncio.sleep(1)

    async def capabilities(self) -> Capabilities:
        await _soon(self._known)
        assert self._capabilities is not None  # noqa: S101 - set before it is known
        return self._capabilities

    async def of(self, name: str) -> Pool:
        """The pool of a project that is up, or coming up."""
        if name not in self._pools:
            await _soon(self._begun)
        if self._capabilities is not None and self._capabilities.tier == "none":
            raise NoWall(self._capabilities.reason)
        pool = self._pools.get(name)
        if pool is None:
            # There may be none of this name: that is said first.
            await self._projects.find(name)
            raise ProjectDown(f"The project {name!r} is down; POST /projects/{name}/up first.")
        return pool

    def state(self, name: str) -> PoolState:
        pool = self._pools.get(name)
        return PoolState("down") if pool is None else pool.state

    async def up(self, project: Project, replicas: int) -> None:
        """Have so many workers ready. What is up stays up when its new version cannot be made."""
        if replicas == 0:
            return await self.down(project.name)
        if (await self.capabilities()).tier == "none":
            raise NoWall(self._capabilities.reason if self._capabilities else "")
        async with self._changing(project.name):
            pool = await self._raise(project, replicas)
            pool.version = (await self._want(project.name, replicas)).version
        return None

    async def down(self, name: str, *, drain: bool = True) -> None:
        """Take nothing new; what is under way, or waits, is finished unless ``drain`` is off."""
        async with self._changing(name):
            await self._want(name, 0)
            await self._lower(name, drain=drain)

    async def close(self) -> None:
        """End every worker of this process."""
        tasks = [*self._looking, *self._draining]
        pools = [*self._pools.values(), *self._draining.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._pools.clear()
        await asyncio.gather(*(pool.close() for pool in pools), return_exceptions=True)
        await self._runner.close()

    async def _find_walls(self) -> None:
        """Look what isolates here, again and again while nothing does: an engine may yet start."""
        while True:
            found = await self._runner.open()
            is_new = self._capabilities is None or self._capabilities.reason != found.reason
            self._capabilities = found
            self._known.set()
            if found.tier != "none":
                self._begun.clear()
                return
            self._begun.set()
            if is_new:
                _log.warning("sandbox.no-isolation", reason=found.reason)
            await asyncio.sleep(LOOK_EVERY_S)

    async def _reconcile(self) -> None:
        """Make this process's pools what is written down; what takes long goes on by itself."""
        names = (await self._wanted()).keys() | self._pools.keys()
        looks = {asyncio.create_task(self._see_to(name), name=f"sandbox-{name}") for name in names}
        self._looking |= looks
        for task in looks:
            task.add_done_callback(self._looking.discard)
        if looks:
            await asyncio.wait(looks, timeout=LOOK_S)

    async def _see_to(self, name: str) -> None:
        """What is written down is read again here: a change may have come between."""
        try:
            async with self._changing(name):
                wanted = (await self._wanted()).get(name, Wanted())
                pool = self._pools.get(name)
                if not wanted.replicas:
                    await self._lower(name, drain=True)
                elif pool is None or pool.version != wanted.version:
                    project = await self._projects.get(name)
                    (await self._raise(project, wanted.replicas)).version = wanted.version
        except AppError as error:
            _log.warning("sandbox.project-not-up", project=name, reason=str(error))
        except Exception as error:  # noqa: BLE001 - one bad project is not the others' trouble
            _log.exception("sandbox.project-broken", error, project=name)

    async def _wanted(self) -> dict[str, Wanted]:
        async with self._db.read() as session:
            found = await PoolRepository(session).wanted()
        return {DEFAULT: Wanted(self._replicas), **found}

    async def _want(self, name: str, replicas: int) -> Wanted:
        async with self._db.begin() as session:
            wanted = await PoolRepository(session).want(name, replicas)
        with suppress(Unavailable):
            await self._cache.publish(TOPIC, "")
        return wanted

    def _changing(self, name: str) -> asyncio.Lock:
        """One change of a project at a time."""
        return self._changes.setdefault(name, asyncio.Lock())

    async def _raise(self, project: Project, replicas: int) -> Pool:
        before = self._pools.get(project.name)
        secrets = self._projects.secrets_of(project)
        if before is not None and before.project == project and not before.state.error:
            before.secrets = secrets
            before.resize(replicas)
            return before
        pool = Pool(self._runner, project, secrets, replicas)
        if before is None:
            self._pools[project.name] = pool
        try:
            await pool.open()
        except BaseException as error:
            await self._not_up(pool, error)
            raise
        self._pools[project.name] = pool
        if before is not None:
            self._drain(before)
        return pool

    async def _not_up(self, pool: Pool, error: BaseException) -> None:
        pool.fail(str(error))
        if self._pools.get(pool.project.name) is pool:
            del self._pools[pool.project.name]
        await pool.close()

    async def _lower(self, name: str, *, drain: bool) -> None:
        pool = self._pools.pop(name, None)
        if pool is None:
            return
        if drain:
            self._drain(pool)
        else:
            await pool.close()

    def _drain(self, pool: Pool) -> None:
        task = asyncio.create_task(pool.drain(), name=f"sandbox-drain-{pool.project.name}")
        self._draining[task] = pool
        task.add_done_callback(lambda done: self._draining.pop(done, None))


async def _soon(happened: asyncio.Event) -> None:
    """``Starting`` if it does not happen in time."""
    try:
        async with asyncio.timeout(BEGIN_S):
            await happened.wait()
    except TimeoutError:
        raise Starting("The sandbox is still starting; try again.", retry_after_s=5) from None
