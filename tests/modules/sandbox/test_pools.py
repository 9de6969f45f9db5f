"""Which projects are up: brought up, changed, taken down, and the same in every process."""

import asyncio
from contextlib import AsyncExitStack
from uuid import uuid4

import pytest

from app.adapters.cache.memory import MemoryCache
from app.kernel.db import Database
from app.kernel.errors import Unavailable
from app.kernel.jobs import JobBook
from app.kernel.keys import AesGcmSeal, Keyring
from app.modules.auth.api import Principal
from app.modules.sandbox.adapters.project_files import YamlProjectFiles
from app.modules.sandbox.ports import NoWall, TemplateFailed, WorkerFailed
from app.modules.sandbox.service import pools as service
from app.modules.sandbox.service.pools import Pools, ProjectDown
from app.modules.sandbox.service.projects import Projects, SecretMissing
from tests.fakes.runner import FakeRunner
from tests.house import prepare
from tests.waiting import until

OWNER = Principal(
    user_id=uuid4(),
    kind="key",
    credential_id=uuid4(),
    role="owner",
    scopes=frozenset({"full"}),
)


class Process:
    """The pools of one process, over what all of them share."""

    def __init__(self, db, cache, folder, variables, replicas: int = 2) -> None:
        self.runner = FakeRunner()
        self.projects = Projects(
            db,
            AesGcmSeal(Keyring(["m" * 32]), "sandbox-sealing"),
            YamlProjectFiles(str(folder)),
            variables,
            lambda name: self.pools.state(name).status == "down",
        )
        self.pools = Pools(db, cache, self.runner, self.projects, replicas)
        self._opening: asyncio.Task[None] | None = None

    def open(self) -> None:
        self._opening = asyncio.create_task(self.pools.open())

    async def close(self) -> None:
        if self._opening is not None:
            self._opening.cancel()
            await asyncio.gather(self._opening, return_exceptions=True)
        await self.pools.close()

    async def put(self, name: str, **document) -> None:
        await self.projects.put(OWNER, name, document)

    async def up(self, name: str, replicas: int = 1) -> None:
        await self.pools.up(await self.projects.get(name), replicas)

    def is_up(self, name: str) -> bool:
        return self.pools.state(name).status == "up"

    def templates(self, name: str) -> list:
        """Those that were made for a project, oldest first."""
        return [t for t in self.runner.templates if t.project == name]


class Site:
    """A data folder and a cache, and processes over them."""

    def __init__(self, db, folder, stack: AsyncExitStack) -> None:
        self.variables = {"OUR_KEY": "first"}
        self.cache = MemoryCache()
        self._db = db
        self._folder = folder
        self._stack = stack

    def made(self, replicas: int = 2) -> Process:
        process = Process(self._db, self.cache, self._folder, self.variables, replicas)
        self._stack.push_async_callback(process.close)
        return process

    def opened(self, replicas: int = 2) -> Process:
        process = self.made(replicas)
        process.open()
        return process

    async def begun(self) -> Process:
        """A process whose default project is up."""
        process = self.opened()
        await process.pools.of("default")
        return process


@pytest.fixture
async def site(tmp_path):
    db = Database(f"sqlite+insula:///{prepare(tmp_path) / 'insula.db'}", JobBook())
    async with AsyncExitStack() as stack:
        stack.push_async_callback(db.close)
        yield Site(db, tmp_path / "projects", stack)


class TestOpen:
    async def test_brings_the_default_project_up(self, site):
        process = site.opened(replicas=3)

        pool = await process.pools.of("default")

        assert (pool.project.name, pool.replicas) == ("default", 3)
        await until(lambda: process.pools.state("default").idle_workers == 3)

    async def test_brings_nothing_up_where_no_workers_are_wanted(self, site):
        process = site.opened(replicas=0)

        with pytest.raises(ProjectDown):
            await process.pools.of("default")

        assert process.runner.templates == []

    async def test_removes_first_what_others_have_left(self, site):
        process = await site.begun()

        assert process.runner.sweeps == 1

    async def test_lets_those_wait_who_ask_sooner(self, site):
        process = site.made()
        process.runner.may_open.clear()
        process.open()
        asking = asyncio.create_task(process.pools.of("default"))
        knowing = asyncio.create_task(process.pools.capabilities())

        process.runner.may_open.set()

        assert (await asking).project.name == "default"
        assert (await knowing).tier == "A"

    async def test_lets_nobody_wait_for_ever(self, site, monkeypatch):
        monkeypatch.setattr(service, "BEGIN_S", 0.01)
        process = site.made()
        process.runner.may_open.clear()
        process.open()

        with pytest.raises(Unavailable):
            await process.pools.of("default")

    async def test_without_isolation_runs_nothing_and_says_why(self, site):
        process = site.made()
        process.runner.tier = "none"
        process.open()

        with pytest.raises(NoWall, match="No walls"):
            await process.pools.of("default")
        with pytest.raises(NoWall, match="No walls"):
            await process.up("default")

        assert process.runner.templates == []

    async def test_a_project_that_fails_does_not_keep_the_others_down(self, site):
        first = await site.begun()
        await first.put("other")
        await first.up("other")
        second = site.made()
        second.runner.refused = {"default"}

        second.open()

        assert (await second.pools.of("other")).project.name == "other"
        with pytest.raises(ProjectDown):
            await second.pools.of("default")

    async def test_a_project_that_failed_is_tried_again(self, site):
        process = site.made()
        process.runner.refusals = ["not yet"]
        process.open()

        await until(lambda: process.is_up("default"))

        assert [spec.project for spec in process.runner.specs] == ["default"] * 2


class TestUp:
    async def test_has_workers_ready(self, site):
        process = await site.begun()
        await process.put("new", description="ours")

        await process.up("new", 2)

        await until(lambda: process.pools.state("new").idle_workers == 2)
        assert (await process.pools.of("new")).project.description == "ours"

    async def test_twice_makes_one_template(self, site):
        process = await site.begun()
        await process.put("new")

        await process.up("new", 2)
        await process.up("new", 2)

        assert len(process.templates("new")) == 1

    async def test_at_once_by_two_makes_one_template(self, site):
        process = await site.begun()
        await process.put("new")

        await asyncio.gather(process.up("new"), process.up("new"))

        assert len(process.templates("new")) == 1

    async def test_with_another_number_keeps_the_template(self, site):
        process = await site.begun()
        await process.put("new")
        await process.up("new", 1)

        await process.up("new", 3)

        assert len(process.templates("new")) == 1
        await until(lambda: process.pools.state("new").idle_workers == 3)

    async def test_of_none_takes_it_down(self, site):
        process = await site.begun()

        await process.up("default", 0)

        with pytest.raises(ProjectDown):
            await process.pools.of("default")

    async def test_of_a_changed_project_lets_the_old_workers_finish(self, site):
        process = await site.begun()
        await process.put("new", description="old")
        await process.up("new")
        before = await process.pools.of("new")
        worker = await before.take()
        await process.put("new", description="changed")

        await process.up("new")

        after = await process.pools.of("new")
        assert after.project.description == "changed"
        assert not worker.is_gone
        assert not process.templates("new")[0].is_closed
        before.release()
        await until(lambda: process.templates("new")[0].is_closed)

    async def test_of_a_broken_one_says_why_and_keeps_the_old(self, site):
        process = await site.begun()
        await process.put("new", description="old")
        await process.up("new")
        before = await process.pools.of("new")
        await process.put("new", packages=["broken"])
        process.runner.refusals = ["pip found no such package"]

        with pytest.raises(TemplateFailed, match="no such package"):
            await process.up("new")

        assert await process.pools.of("new") is before
        assert process.is_up("new")
        assert not (await before.take()).is_gone

    async def test_of_one_that_is_broken_from_the_start_leaves_it_down(self, site):
        process = await site.begun()
        await process.put("new", packages=["broken"])
        process.runner.refusals = ["pip found no such package"]

        with pytest.raises(TemplateFailed):
            await process.up("new")

        with pytest.raises(ProjectDown):
            await process.pools.of("new")

    async def test_that_fails_is_not_written_down(self, site):
        first = await site.begun()
        await first.put("new")
        first.runner.refusals = ["pip found no such package"]
        with pytest.raises(TemplateFailed):
            await first.up("new")

        second = await site.begun()

        assert [spec.project for spec in second.runner.specs] == ["default"]

    async def test_is_building_meanwhile_and_lets_who_asks_wait(self, site):
        process = await site.begun()
        await process.put("slow")
        process.runner.held["slow"] = asyncio.Event()
        coming = asyncio.create_task(process.up("slow"))
        await until(lambda: process.pools.state("slow").status == "building")
        taking = asyncio.create_task((await process.pools.of("slow")).take())

        process.runner.held["slow"].set()

        await coming
        assert not (await taking).is_gone

    async def test_is_not_undone_by_a_look_at_what_is_written(self, site):
        process = await site.begun()
        await process.put("slow")
        process.runner.held["slow"] = asyncio.Event()
        coming = asyncio.create_task(process.up("slow"))
        await until(lambda: process.pools.state("slow").status == "building")
        other = await site.begun()
        await process.put("quick")

        await other.up("quick")
        # By then the process has looked at what is written.
        await until(lambda: process.is_up("quick"))
        process.runner.held["slow"].set()
        await coming

        assert process.is_up("slow")
        assert len(process.templates("slow")) == 1

    async def test_takes_new_values_of_the_servers_variables(self, site):
        process = await site.begun()
        await process.put("keyed", secrets={"KEY": "${env:OUR_KEY}"})
        await process.up("keyed")
        site.variables["OUR_KEY"] = "second"

        await process.up("keyed")

        assert (await process.pools.of("keyed")).secrets == {"KEY": "second"}
        assert len(process.templates("keyed")) == 1

    async def test_without_a_variable_of_the_server_is_refused(self, site):
        process = await site.begun()
        await process.put("keyed", secrets={"KEY": "${env:NOTHING}"})

        with pytest.raises(SecretMissing, match="NOTHING"):
            await process.up("keyed")

        assert process.templates("keyed") == []


class TestDown:
    async def test_takes_nobody_new(self, site):
        process = await site.begun()

        await process.pools.down("default")

        assert process.pools.state("default").status == "down"
        with pytest.raises(ProjectDown, match="POST /projects/default/up"):
            await process.pools.of("default")

    async def test_lets_those_finish_who_work(self, site):
        process = await site.begun()
        pool = await process.pools.of("default")
        worker = await pool.take()

        await process.pools.down("default")

        assert not worker.is_gone
        pool.release()
        await until(lambda: process.templates("default")[0].is_closed)

    async def test_lets_those_finish_who_are_paused(self, site):
        process = await site.begun()
        pool = await process.pools.of("default")
        worker = await pool.take()
        pool.pause()

        await process.pools.down("default")

        assert not process.templates("default")[0].is_closed
        assert not worker.is_gone
        pool.resume()
        pool.release()
        await until(lambda: process.templates("default")[0].is_closed)

    async def test_lets_those_work_who_wait(self, site):
        process = await site.begun()
        pool = await process.pools.of("default")
        for _ in range(pool.replicas):
            await pool.take()
        waiting = asyncio.create_task(pool.take())
        await until(lambda: pool.queued == 1)

        await process.pools.down("default")
        pool.release()

        assert not (await waiting).is_gone

    async def test_without_draining_ends_them(self, site):
        process = await site.begun()
        pool = await process.pools.of("default")
        await pool.take()

        await process.pools.down("default", drain=False)

        assert process.templates("default")[0].is_closed

    async def test_twice_is_fine(self, site):
        process = await site.begun()

        await process.pools.down("default")
        await process.pools.down("default")

        assert process.pools.state("default").status == "down"

    async def test_and_up_again_makes_a_new_template(self, site):
        process = await site.begun()
        await process.pools.down("default")

        await process.up("default")

        assert process.is_up("default")
        assert len(process.templates("default")) == 2


class TestProcesses:
    async def test_a_new_one_has_up_what_was_up(self, site):
        first = await site.begun()
        await first.put("new")
        await first.up("new", 3)
        await first.pools.down("default")
        await first.close()

        second = site.opened()

        assert (await second.pools.of("new")).replicas == 3
        with pytest.raises(ProjectDown):
            await second.pools.of("default")

    async def test_every_one_hears_of_what_one_is_told(self, site):
        first, second = await site.begun(), await site.begun()
        await first.put("new")

        await first.up("new", 1)
        await until(lambda: second.is_up("new"))
        await first.up("new", 3)
        await until(lambda: second.pools.state("new").replicas == 3)
        await first.pools.down("new")

        await until(lambda: second.pools.state("new").status == "down")

    async def test_every_one_takes_up_a_changed_project(self, site):
        first, second = await site.begun(), await site.begun()
        await first.put("new", description="old")
        await first.up("new")
        await until(lambda: second.is_up("new"))
        await first.put("new", description="changed")

        await first.up("new")

        async def is_changed():
            return (await second.pools.of("new")).project.description == "changed"

        await until(is_changed, within_s=3)

    async def test_one_that_is_slow_to_build_does_not_keep_news_of_others_away(
        self, site, monkeypatch
    ):
        monkeypatch.setattr(service, "LOOK_S", 0.05)
        first, second = await site.begun(), await site.begun()
        await first.put("slow")
        first.runner.held["slow"] = asyncio.Event()
        coming = asyncio.create_task(first.up("slow"))
        await until(lambda: first.pools.state("slow").status == "building")

        await second.put("one")
        await second.up("one")
        await until(lambda: first.is_up("one"))
        await second.put("two")
        await second.up("two")

        await until(lambda: first.is_up("two"), within_s=3)
        first.runner.held["slow"].set()
        await coming


class TestClose:
    async def test_ends_every_worker_and_the_runner(self, site):
        process = await site.begun()
        await (await process.pools.of("default")).take()

        await process.close()

        assert process.runner.is_closed
        assert process.templates("default")[0].is_closed

    async def test_ends_also_what_drains(self, site):
        process = await site.begun()
        pool = await process.pools.of("default")
        for _ in range(pool.replicas):
            await pool.take()
        waiting = asyncio.create_task(pool.take())
        await until(lambda: pool.queued == 1)
        await process.pools.down("default")

        await process.close()

        assert process.templates("default")[0].is_closed
        with pytest.raises(WorkerFailed):
            await asyncio.wait_for(waiting, 3)

    async def test_without_having_been_opened_is_fine(self, site):
        process = site.made()

        await process.close()

        assert process.runner.is_closed
