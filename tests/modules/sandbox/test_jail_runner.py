"""The server's side of the jail, against real jails of every tier that this machine offers."""

import asyncio
import os
import resource
import signal
import sys
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest
import pytest_asyncio

from app.kernel.errors import TooLarge
from app.modules.sandbox.adapters.jail.runner import JailRunner, NoPackages
from app.modules.sandbox.adapters.jail.zygote import Zygote
from app.modules.sandbox.domain.limits import Limits
from app.modules.sandbox.ports import (
    Gone,
    NoWall,
    Printed,
    Said,
    TemplateFailed,
    TemplateSpec,
    Worker,
    WorkerFailed,
)
from tests.modules.sandbox.jails import (
    TIERS,
    OneFolder,
    Tier,
    descendants,
    follow,
    is_alive,
    job,
    open_files,
    open_runner,
    passable_folder,
    run_script,
)
from tests.waiting import until

MIB = 1_048_576
# Two ends of three channels, and one to wait for all.
DESCRIPTORS_A_SPAWN = 7
DESCRIPTORS_LIMIT = 1024
FLOOD_BYTES = 48 * MIB
# Finds the worker's end of its channel, as any script can.
CHANNEL = """
import os, stat
for channel in range(3, 64):
    try:
        if stat.S_ISSOCK(os.fstat(channel).st_mode):
            break
    except OSError:
        pass
"""
REPOSITORY = Path(__file__).parents[3]
# A server of its own, with a script that does not end.
SERVER = """
import asyncio, sys
from pathlib import Path
from tests.modules.sandbox.jails import TemplateSpec, job, open_runner

async def serve():
    async with open_runner(sys.argv[1], Path(sys.argv[2])) as runner:
        worker = await (await runner.prepare(TemplateSpec("test"))).spawn()
        await worker.send(job("print('busy', flush=True)\\nwhile True: pass"))
        print((await anext(worker.events())).data.decode(), end="", flush=True)
        await asyncio.Event().wait()

asyncio.run(serve())
"""
HELLO = "print('hello'); set_result({'answer': 42})"


pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.fixture(params=TIERS, scope="module")
def tier(request: pytest.FixtureRequest) -> Tier:
    return request.param


@pytest.fixture
def folder() -> Iterator[Path]:
    with passable_folder() as made:
        yield made


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def runner(tier: Tier) -> AsyncIterator[JailRunner]:
    with passable_folder() as made:
        async with open_runner(tier, made) as opened:
            yield opened


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def template(runner: JailRunner) -> AsyncIterator[Zygote]:
    opened = await runner.prepare(TemplateSpec("shared"))
    yield opened
    await opened.close()


@pytest_asyncio.fixture(loop_scope="module")
async def doomed(runner: JailRunner) -> AsyncIterator[Zygote]:
    """A template for a test that ends it."""
    opened = await runner.prepare(TemplateSpec("doomed"))
    yield opened
    await opened.close()


async def only_gone(worker: Worker) -> Gone:
    """The one event that is left."""
    events = [event async for event in worker.events()]
    assert [type(event) for event in events] == [Gone]
    gone = events[0]
    assert isinstance(gone, Gone)
    return gone


@contextmanager
def few_descriptors(room: int) -> Iterator[None]:
    """Leave this process so many descriptors."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (DESCRIPTORS_LIMIT, limits[1]))
    taken: list[int] = []
    try:
        with suppress(OSError):
            while True:
                taken.append(os.dup(0))
        for _ in range(room):
            os.close(taken.pop())
        yield
    finally:
        for descriptor in taken:
            os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def _close_to_others(folder: Path) -> None:
    folder.chmod(0o700)


def _names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


def _switches(process: psutil.Process) -> int:
    """How often it had to wait for something."""
    return int(process.num_ctx_switches().voluntary)


async def process_of(template: Zygote) -> tuple[Worker, psutil.Process]:
    """A worker, and its own process."""
    before = set(descendants(template))
    worker = await template.spawn()
    (process,) = set(descendants(template)) - before
    return worker, process


class TestOpen:
    async def test_this_machine_offers_a_tier(self, folder: Path) -> None:
        runner = JailRunner(folder, NoPackages())

        capabilities = await runner.open()

        await runner.close()
        assert capabilities.tier in TIERS, capabilities.reason

    async def test_names_the_walls_that_stand(self, tier: Tier, folder: Path) -> None:
        async with open_runner(tier, folder) as runner:
            capabilities = await runner.open()

        walls = {wall.name: wall.is_up for wall in capabilities.walls}
        assert walls["seccomp"]
        assert walls["landlock"]

    async def test_refuses_less_than_the_least_tier(self, folder: Path) -> None:
        runner = JailRunner(folder, NoPackages(), min_tier="A", forced="B")

        capabilities = await runner.open()

        await runner.close()
        assert capabilities.tier == "none"
        assert "tier A is asked for" in capabilities.reason

    @pytest.mark.skipif(os.geteuid() != 0, reason="only root gives scripts users of their own")
    async def test_uses_another_folder_where_scripts_cannot_pass(self, folder: Path) -> None:
        _close_to_others(folder)

        async with open_runner("B", folder / "scratch") as runner:
            template = await runner.prepare(TemplateSpec("test"))
            outcome = await run_script(template, "open('kept', 'w').write('x'); print('wrote')")

        assert outcome.stdout == b"wrote\n"

    async def test_leaves_no_process(self, tier: Tier, folder: Path) -> None:
        before = set(psutil.Process().children(recursive=True))

        async with open_runner(tier, folder):
            after = set(psutil.Process().children(recursive=True))

        assert not after - before


class TestPrepare:
    async def test_refuses_where_nothing_isolates(self, folder: Path) -> None:
        runner = JailRunner(folder, NoPackages(), min_tier="A", forced="B")
        await runner.open()

        with pytest.raises(NoWall, match="tier A"):
            await runner.prepare(TemplateSpec("test"))

        await runner.close()

    async def test_says_why_a_module_cannot_be_imported(self, runner: JailRunner) -> None:
        with pytest.raises(TemplateFailed, match="no_such_module"):
            await runner.prepare(TemplateSpec("test", preload=("no_such_module",)))

    async def test_lets_workers_import_the_packages(self, tier: Tier, folder: Path) -> None:
        site = folder / "site"
        site.mkdir()
        (site / "greeting.py").write_text("TEXT = 'good morning'")

        async with open_runner(tier, folder / "scratch", OneFolder(site)) as runner:
            template = await runner.prepare(TemplateSpec("test", packages=("greeting",)))
            outcome = await run_script(template, "import greeting; print(greeting.TEXT)")

        assert outcome.stdout == b"good morning\n"


class TestSpawn:
    async def test_hands_out_a_worker_that_runs_a_script(self, template: Zygote) -> None:
        outcome = await run_script(template, HELLO)

        assert outcome.stdout == b"hello\n"
        assert outcome.done is not None
        assert outcome.done["ok"] is True
        assert outcome.done["result"] == {"answer": 42}

    async def test_makes_fifty_at_once(self, template: Zygote) -> None:
        code = "import os; print(os.getpid()); set_result(settings['number'])"

        outcomes = await asyncio.gather(
            *(run_script(template, code, settings={"number": str(n)}) for n in range(50))
        )

        assert [o.done and o.done["result"] for o in outcomes] == [str(n) for n in range(50)]

    async def test_says_so_when_the_server_has_no_descriptor_left(self, template: Zygote) -> None:
        before = open_files()

        for room in range(DESCRIPTORS_A_SPAWN):
            with few_descriptors(room), pytest.raises(WorkerFailed, match="no room"):
                await template.spawn()

        # What was there before may be closed meanwhile.
        assert open_files() <= before
        assert (await run_script(template, HELLO)).stdout == b"hello\n"

    async def test_leaves_no_descriptor_open(self, template: Zygote) -> None:
        await run_script(template, HELLO)
        before = open_files()

        for _ in range(5):
            await run_script(template, HELLO)

        assert open_files() == before


class TestEvents:
    async def test_gives_output_before_the_frame_that_followed_it(self, template: Zygote) -> None:
        worker = await template.spawn()
        await worker.send(job("print('x' * 200_000); llm.complete('first?'); print('second')"))

        heard = [await anext(worker.events())]
        while not isinstance(heard[-1], Said):
            heard.append(await anext(worker.events()))

        worker.kill()
        assert sum(len(e.data) for e in heard if isinstance(e, Printed)) == 200_001

    async def test_gives_bytes_as_they_were_written(self, template: Zygote) -> None:
        every_byte = bytes(range(256))
        code = "import os; os.write(1, bytes(range(256))); os.write(2, bytes(range(255, -1, -1)))"

        outcome = await run_script(template, code)

        assert outcome.stdout == every_byte
        assert outcome.stderr == every_byte[::-1]

    async def test_leaves_a_flood_in_the_kernel_until_it_is_read(self, template: Zygote) -> None:
        worker, process = await process_of(template)
        code = f"import os\nfor _ in range({FLOOD_BYTES // 65536}): os.write(1, b'x' * 65536)"
        before, waits = psutil.Process().memory_info().rss, _switches(process)

        await worker.send(job(code))
        await until(lambda: _switches(process) > waits)
        grown_unread = psutil.Process().memory_info().rss - before
        read = 0
        async for event in worker.events():
            if isinstance(event, Printed):
                read += len(event.data)
            elif isinstance(event, Said):
                worker.kill()

        assert grown_unread < 2 * MIB
        assert read == FLOOD_BYTES
        assert psutil.Process().memory_info().rss - before < 8 * MIB

    async def test_does_not_let_a_flood_hold_up_a_frame(self, template: Zygote) -> None:
        code = (
            "import os, threading\n"
            "def flood():\n"
            "    while True: os.write(1, b'x' * 65536)\n"
            "threading.Thread(target=flood, daemon=True).start()\n"
            "llm.complete('still there?')"
        )
        worker = await template.spawn()
        await worker.send(job(code))

        async with asyncio.timeout(10):
            async for event in worker.events():
                if isinstance(event, Said):
                    break

        worker.kill()
        assert b"still there?" in event.frame

    async def test_ends_a_worker_that_announces_too_long_a_frame(self, template: Zygote) -> None:
        code = CHANNEL + "os.write(channel, b'\\xff\\xff\\xff\\xff{}')\nwhile True: pass"

        outcome = await run_script(template, code)

        assert outcome.gone.reason == "protocol"
        assert not outcome.is_late

    async def test_ends_a_worker_that_closes_its_channel(self, template: Zygote) -> None:
        code = CHANNEL + "print('closing', flush=True)\nos.close(channel)\nwhile True: pass"

        outcome = await run_script(template, code)

        assert outcome.stdout == b"closing\n"
        assert outcome.gone.reason == "protocol"
        assert not outcome.is_late

    async def test_takes_ten_thousand_tiny_frames(self, template: Zygote) -> None:
        code = CHANNEL + 'os.write(channel, b\'\\0\\0\\0\\x0b{"t":"odd"}\' * 10_000)'

        outcome = await run_script(template, code)

        assert outcome.said[:10_000] == [{"t": "odd"}] * 10_000

    async def test_tells_the_exit_code(self, template: Zygote) -> None:
        outcome = await run_script(template, "import os; print('bye', flush=True); os._exit(7)")

        assert outcome.stdout == b"bye\n"
        assert (outcome.gone.exit_code, outcome.gone.signal) == (7, None)
        assert outcome.gone.reason == ""

    async def test_go_on_where_the_last_reader_left_off(self, template: Zygote) -> None:
        worker = await template.spawn()
        await worker.send(job("print('one', flush=True); llm.complete('?'); print('two')"))
        async for event in worker.events():
            if isinstance(event, Said):
                break

        await worker.send({"t": "llm_reply", "seq": 1, "text": "yes"})
        outcome = await follow(worker)

        assert outcome.stdout == b"two\n"

    async def test_keep_what_nobody_read_before_the_worker_ended(self, template: Zygote) -> None:
        worker = await template.spawn()
        await worker.send(job("import os; print('unread', flush=True); os._exit(0)"))
        await until(lambda: worker.is_gone)

        outcome = await follow(worker)

        assert outcome.stdout == b"unread\n"
        assert outcome.gone.exit_code == 0

    async def test_end_after_the_end(self, template: Zygote) -> None:
        worker = await template.spawn()
        worker.kill()
        await only_gone(worker)

        assert [event async for event in worker.events()] == []


class TestSend:
    async def test_takes_a_job_larger_than_any_buffer(self, template: Zygote) -> None:
        code = f"text = {'x' * 6_000_000!r}\nset_result(len(text))"

        outcome = await run_script(template, code)

        assert outcome.done is not None
        assert outcome.done["result"] == 6_000_000

    async def test_refuses_what_is_no_frame(self, template: Zygote) -> None:
        worker = await template.spawn()

        with pytest.raises(TooLarge):
            await worker.send(job("#" * 9_000_000))

        worker.kill()

    async def test_returns_when_the_worker_ends_meanwhile(self, template: Zygote) -> None:
        worker, process = await process_of(template)
        process.suspend()
        sending = asyncio.create_task(worker.send(job("#" * 6_000_000)))
        await asyncio.sleep(0)

        worker.kill()

        async with asyncio.timeout(5):
            await sending

    async def test_is_quiet_when_the_worker_is_gone(self, template: Zygote) -> None:
        worker = await template.spawn()
        worker.kill()
        await until(lambda: worker.is_gone)

        await worker.send(job(HELLO))

        await only_gone(worker)


class TestKill:
    async def test_ends_a_script_that_would_not_end(self, template: Zygote) -> None:
        worker, process = await process_of(template)
        await worker.send(job("print('on my way', flush=True)\nwhile True: pass"))
        await anext(worker.events())

        worker.kill()

        assert (await only_gone(worker)).signal == signal.SIGKILL
        assert not is_alive(process)

    async def test_may_be_done_twice(self, template: Zygote) -> None:
        worker = await template.spawn()

        worker.kill()
        worker.kill()
        await until(lambda: worker.is_gone)
        worker.kill()

        assert (await only_gone(worker)).signal == signal.SIGKILL


class TestFreeze:
    async def test_stops_a_script_until_it_is_thawed(self, template: Zygote) -> None:
        worker, process = await process_of(template)
        await worker.send(job("print('busy', flush=True)\nwhile True: pass"))
        await anext(worker.events())

        await worker.freeze()
        frozen = process.status()
        await worker.thaw()

        assert frozen == psutil.STATUS_STOPPED
        await until(lambda: process.status() == psutil.STATUS_RUNNING)
        worker.kill()

    async def test_returns_when_the_worker_is_gone(self, template: Zygote) -> None:
        worker = await template.spawn()
        worker.kill()

        await worker.freeze()
        await worker.thaw()

        await only_gone(worker)

    async def test_leaves_a_frozen_worker_killable(self, template: Zygote) -> None:
        worker = await template.spawn()
        await worker.freeze()

        worker.kill()

        assert (await only_gone(worker)).signal == signal.SIGKILL


class TestIsGone:
    async def test_is_true_when_an_idle_worker_has_died(self, template: Zygote) -> None:
        worker, process = await process_of(template)
        assert not worker.is_gone

        process.kill()

        await until(lambda: worker.is_gone)
        assert (await only_gone(worker)).signal == signal.SIGKILL


class TestUntilLost:
    async def test_returns_when_the_zygote_is_killed(self, doomed: Zygote) -> None:
        worker = await doomed.spawn()
        family = descendants(doomed)

        os.kill(doomed.pid, signal.SIGKILL)

        assert await doomed.until_lost()
        assert (await only_gone(worker)).signal == signal.SIGKILL
        await until(lambda: not any(is_alive(process) for process in family))

    async def test_is_the_end_of_spawning(self, doomed: Zygote) -> None:
        os.kill(doomed.pid, signal.SIGKILL)
        await doomed.until_lost()

        with pytest.raises(WorkerFailed, match="has ended"):
            await doomed.spawn()


class TestClose:
    async def test_ends_every_worker(self, doomed: Zygote) -> None:
        worker, process = await process_of(doomed)
        await worker.send(job("while True: pass"))

        await doomed.close()

        assert not is_alive(process)
        assert worker.is_gone

    async def test_may_be_done_twice(self, doomed: Zygote) -> None:
        await doomed.close()
        await doomed.close()

        with pytest.raises(WorkerFailed):
            await doomed.spawn()

    async def test_leaves_nothing_on_the_disk(self, tier: Tier, folder: Path) -> None:
        async with open_runner(tier, folder) as runner:
            template = await runner.prepare(TemplateSpec("test", limits=Limits()))
            code = "import os\nopen('kept', 'w').write('x')\nos.makedirs('a/b/c')"
            await run_script(template, code)
            await template.spawn()

            await runner.close()

            assert _names(folder) == []


class TestSweep:
    async def test_spares_what_lives(self, runner: JailRunner, template: Zygote) -> None:
        worker = await template.spawn()

        await runner.sweep()

        await worker.send(job("open('here', 'w').write('x'); set_result(open('here').read())"))
        outcome = await follow(worker)
        assert outcome.done is not None
        assert outcome.done["result"] == "x"


class TestServerDeath:
    async def test_ends_every_process_with_a_killed_server(self, tier: Tier, folder: Path) -> None:
        command = [sys.executable, "-c", SERVER, tier, str(folder)]
        server = await asyncio.create_subprocess_exec(*command, stdout=PIPE, cwd=REPOSITORY)
        assert server.stdout is not None
        assert await server.stdout.readline() == b"busy\n"
        family = psutil.Process(server.pid).children(recursive=True)

        server.kill()

        await server.wait()
        assert len(family) > 1
        await until(lambda: not any(is_alive(process) for process in family), within_s=2)
