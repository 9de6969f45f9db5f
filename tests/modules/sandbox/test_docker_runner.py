"""Containers of a real engine. Where none is, these tests are skipped and say so.

``scripts/docker_engine.py`` starts one and makes the image; see there for both variables.
"""

import base64
import os
import sysconfig
import tarfile
import zipfile
from collections import deque
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path
from threading import Thread
from typing import Any, NamedTuple
from uuid import uuid4

import docker
import pytest
import pytest_asyncio

from app.kernel.settings import Secret
from app.modules.sandbox.adapters.docker import DockerOptions, DockerRunner
from app.modules.sandbox.domain.limits import Limits
from app.modules.sandbox.ports import (
    Capabilities,
    Gone,
    NoWall,
    Printed,
    Said,
    Template,
    TemplateFailed,
    TemplateSpec,
    Worker,
    WorkerEvent,
    WorkerFailed,
)
from tests import services
from tests.modules.sandbox.engine_proxy import EngineProxy
from tests.waiting import until

pytestmark = [pytest.mark.docker, pytest.mark.asyncio(loop_scope="module")]

ALIVE = "alive"
JOB = {
    "settings": {},
    "memory": {},
    "limits": {
        "result_kb": 64,
        "memory_state_kb": 64,
        "prompt_kb": 64,
        "llm_calls": 5,
        "artifacts": 4,
        "artifact_mb": 1,
    },
}
SPEC = TemplateSpec("tests", limits=Limits(memory_mb=64, disk_mb=16, cpu_s=2))


class Bent(NamedTuple):
    """A template whose engine is behind a proxy."""

    proxy: EngineProxy
    template: Template


@pytest.fixture(scope="module")
def host() -> str:
    found = os.environ.get("DOCKER_HOST", "")
    if not found.startswith("unix://"):
        pytest.skip("no engine: DOCKER_HOST names no unix socket; see scripts/docker_engine.py")
    return found


@pytest.fixture(scope="module")
def image() -> str:
    found = os.environ.get("SANDBOX_DOCKER_IMAGE", "")
    if not found:
        pytest.skip("no base image: SANDBOX_DOCKER_IMAGE is not set; see scripts/docker_engine.py")
    return found


@pytest.fixture(scope="module")
def engine(host: str) -> Iterator[Any]:
    """The engine, asked past all of our own code."""
    client = docker.APIClient(base_url=host, version="auto", timeout=20)
    yield client
    client.close()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def runner(host: str, image: str) -> AsyncIterator[DockerRunner]:
    async with open_runner(host, image) as (runner, _):
        yield runner


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def template(runner: DockerRunner) -> Template:
    return await runner.prepare(SPEC)


@pytest_asyncio.fixture(loop_scope="module")
async def worker(template: Template) -> AsyncIterator[Worker]:
    worker = await template.spawn()
    yield worker
    worker.kill()


@pytest_asyncio.fixture(loop_scope="module")
async def proxy(host: str) -> AsyncIterator[EngineProxy]:
    with services.folder() as folder:
        async with EngineProxy(folder, host) as proxy:
            yield proxy


@pytest.fixture
def own_image(engine: Any, image: str) -> Iterator[str]:
    """A base image that is nobody else's."""
    yield changed(engine, image, "insula-base:own", {})
    engine.remove_image("insula-base:own", force=True)


@pytest.fixture
def broken_image(engine: Any, image: str) -> Iterator[str]:
    """A base image whose Python has no ctypes."""
    lacks = {f"{sysconfig.get_path('stdlib')}/ctypes/__init__.py": "raise ImportError('no ctypes')"}
    yield changed(engine, image, "insula-base:broken", lacks)
    engine.remove_image("insula-base:broken", force=True)


@pytest.fixture(scope="module")
def index_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A package index that has one package."""
    served = tmp_path_factory.mktemp("index")
    folder = served / "simple" / "insula-greeting"
    folder.mkdir(parents=True)
    about = "insula_greeting-1.0.dist-info"
    with zipfile.ZipFile(folder / "insula_greeting-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("greeting.py", "TEXT = 'hello'")
        wheel.writestr(
            f"{about}/METADATA", "Metadata-Version: 2.1\nName: insula-greeting\nVersion: 1.0"
        )
        wheel.writestr(
            f"{about}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any"
        )
        wheel.writestr(f"{about}/RECORD", "")
    handler = partial(SimpleHTTPRequestHandler, directory=served)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/simple"
        server.shutdown()
        thread.join()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def bent_template(host: str, image: str) -> AsyncIterator[Bent]:
    with services.folder() as folder:
        async with (
            EngineProxy(folder, host) as proxy,
            open_runner(proxy.host, image) as (runner, _),
        ):
            yield Bent(proxy, await runner.prepare(SPEC))


@pytest.fixture
def bent(bent_template: Bent) -> Iterator[Bent]:
    yield bent_template
    bent_template.proxy.straighten()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shopper(host: str, image: str, index_url: str) -> AsyncIterator[DockerRunner]:
    """A runner that installs packages from the index."""
    options = {"index_url": Secret(index_url), "build_network": "host"}
    async with open_runner(host, image, **options) as (runner, _):
        yield runner


@asynccontextmanager
async def open_runner(
    host: str, image: str, **options: Any
) -> AsyncIterator[tuple[DockerRunner, Capabilities]]:
    async def is_alive(instance: str) -> bool:
        return instance == ALIVE

    given = DockerOptions(image=image, **options)
    runner = DockerRunner(given, uuid4().hex, is_alive, {"DOCKER_HOST": host})
    try:
        yield runner, await runner.open()
    finally:
        await runner.close()


async def run(worker: Worker, code: str) -> list[WorkerEvent]:
    """Hand it a script and collect what it says up to its ``done``, or its end."""
    await worker.send({"t": "job", "code": code, **JOB})
    return await events(worker, up_to=b'"t":"done"')


async def events(worker: Worker, *, up_to: bytes = b"nothing") -> list[WorkerEvent]:
    found: list[WorkerEvent] = []
    async for event in worker.events():
        found.append(event)
        if isinstance(event, Said) and up_to in event.frame:
            break
    return found


def printed(found: list[WorkerEvent], stream: str = "stdout") -> bytes:
    return b"".join(e.data for e in found if isinstance(e, Printed) and e.stream == stream)


def changed(engine: Any, image: str, name: str, files: dict[str, str]) -> str:
    """Make another base image of ``image``, with these files in the place of its own."""
    packed = BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        for path, text in files.items():
            entry = tarfile.TarInfo(path.lstrip("/"))
            entry.size, entry.mode = len(text), 0o644
            tar.addfile(entry, BytesIO(text.encode()))
    container = engine.create_container(image, ["python3"])["Id"]
    engine.put_archive(container, "/", packed.getvalue())
    engine.commit(container, *name.split(":"), changes=[f"LABEL mark={uuid4().hex}"])
    engine.remove_container(container)
    return name


def containers(engine: Any, **labels: str) -> list[dict[str, Any]]:
    wanted = [f"insula.{name}={value}" for name, value in labels.items()]
    return list(engine.containers(all=True, filters={"label": wanted}))


def newest_image(engine: Any) -> str:
    newest = max(engine.images("insula-sandbox"), key=lambda found: found["Created"])
    return str(newest["Id"])


def planted(engine: Any, image: str, **labels: str) -> str:
    """Put a container there that did not come from the runner under test."""
    marks = {f"insula.{name}": value for name, value in labels.items()}
    return str(engine.create_container(image, ["python3"], labels=marks)["Id"])


def is_there(engine: Any, container: str) -> bool:
    return bool(engine.containers(all=True, filters={"id": container}))


def name_of(worker: Any) -> str:
    return str(worker.name)


class TestOpen:
    async def test_tells_the_tier_and_the_walls(self, host: str, image: str):
        async with open_runner(host, image, runtime="runc") as (_, found):
            walls = {wall.name: wall.is_up for wall in found.walls}

        assert (found.runner, found.tier, found.reason) == ("docker", "docker", "")
        assert walls["container"]
        assert not walls["gvisor"]
        assert len(walls) > 3

    async def test_says_that_no_engine_answers(self, tmp_path: Path, image: str):
        async with open_runner(f"unix://{tmp_path}/none.sock", image) as (_, found):
            assert found.tier == "none"

        assert "does not answer" in found.reason

    async def test_says_that_the_image_is_missing(self, host: str):
        async with open_runner(host, "insula-base:missing") as (_, found):
            assert found.tier == "none"

        assert "insula-base:missing is not there" in found.reason

    async def test_says_why_a_worker_does_not_start(self, host: str, broken_image: str):
        async with open_runner(host, broken_image) as (_, found):
            assert found.tier == "none"

        assert "no ctypes" in found.reason

    async def test_says_that_the_engine_is_too_slow(self, proxy: EngineProxy, image: str):
        proxy.hold()

        async with open_runner(proxy.host, image, call_timeout_s=0.2) as (_, found):
            assert found.tier == "none"

        assert "not answer" in found.reason

    async def test_says_that_a_runtime_is_missing(self, host: str, image: str, engine: Any):
        if "runsc" in engine.info()["Runtimes"]:
            pytest.skip("this engine has runsc")

        async with open_runner(host, image, runtime="runsc") as (_, found):
            assert found.tier == "none"

        assert "no runtime runsc" in found.reason

    async def test_runs_nothing_where_it_found_no_wall(self, tmp_path: Path, image: str):
        async with open_runner(f"unix://{tmp_path}/none.sock", image) as (runner, _):
            with pytest.raises(NoWall):
                await runner.prepare(SPEC)


class TestPrepare:
    async def test_builds_an_image_once(self, runner: DockerRunner, engine: Any):
        await runner.prepare(SPEC)
        before = {found["Id"] for found in engine.images("insula-sandbox")}

        await runner.prepare(TemplateSpec("another-project"))

        assert {found["Id"] for found in engine.images("insula-sandbox")} == before

    async def test_installs_packages(self, shopper: DockerRunner):
        template = await shopper.prepare(TemplateSpec("tests", ("insula-greeting==1.0",)))

        found = await run(await template.spawn(), "import greeting; print(greeting.TEXT)")

        assert printed(found) == b"hello\n"

    async def test_imports_before_a_worker_is_asked_for(self, shopper: DockerRunner):
        spec = TemplateSpec("tests", ("insula-greeting==1.0",), preload=("greeting",))

        worker = await (await shopper.prepare(spec)).spawn()

        assert (
            printed(await run(worker, "import sys; print('greeting' in sys.modules)")) == b"True\n"
        )

    async def test_says_what_cannot_be_imported(self, shopper: DockerRunner):
        spec = TemplateSpec("tests", preload=("insula_nothing",))

        with pytest.raises(TemplateFailed, match="insula_nothing"):
            await shopper.prepare(spec)

    async def test_gives_the_end_of_the_log_when_packages_fail(
        self, shopper: DockerRunner, index_url: str
    ):
        with pytest.raises(TemplateFailed, match="No matching distribution") as failure:
            await shopper.prepare(TemplateSpec("tests", ("insula-nothing",)))

        assert index_url not in str(failure.value)

    async def test_leaves_no_trace_of_the_index(
        self, shopper: DockerRunner, engine: Any, index_url: str
    ):
        await shopper.prepare(TemplateSpec("tests", ("insula-greeting==1.0",)))

        images = [found["Id"] for found in engine.images(all=True)]
        assert not [image for image in images if index_url in str(engine.history(image))]


class TestSpawn:
    async def test_takes_everything_from_the_container_that_it_need_not_have(
        self, worker: Worker, engine: Any
    ):
        facts = engine.inspect_container(name_of(worker))

        walls = facts["HostConfig"]
        assert walls["NetworkMode"] == "none"
        assert walls["ReadonlyRootfs"]
        assert walls["CapDrop"] == ["ALL"]
        assert not walls["Privileged"]
        assert walls["SecurityOpt"] == ["no-new-privileges:true"]
        assert walls["IpcMode"] == "none"
        assert walls["PidsLimit"] == SPEC.limits.processes + 4
        assert walls["Memory"] == walls["MemorySwap"] < 512 * 2**20
        assert walls["LogConfig"]["Type"] == "none"
        assert walls["RestartPolicy"]["Name"] in ("", "no")
        assert facts["Config"]["User"] == "65534:65534"
        assert facts["Mounts"] == []

    async def test_marks_the_container(self, worker: Worker, engine: Any):
        labels = engine.inspect_container(name_of(worker))["Config"]["Labels"]

        assert labels["insula.app"] == "sandbox"
        assert labels["insula.project"] == "tests"
        assert labels["insula.instance"]
        assert labels["insula.started"]

    async def test_gives_each_worker_a_container_of_its_own(
        self, worker: Worker, template: Template
    ):
        other = await template.spawn()
        other.kill()

        assert name_of(other) != name_of(worker)

    async def test_leaves_no_container_when_the_worker_is_not_ready_in_time(
        self, proxy: EngineProxy, image: str, engine: Any
    ):
        async with open_runner(proxy.host, image, spawn_timeout_s=3.0) as (runner, _):
            template = await runner.prepare(TemplateSpec("too-slow"))
            proxy.hold()

            with pytest.raises(WorkerFailed, match="within"):
                await template.spawn()

            proxy.release()
            await until(lambda: not containers(engine, project="too-slow"))

    async def test_is_lost_with_its_image(self, host: str, own_image: str, engine: Any):
        async with open_runner(host, own_image) as (runner, _):
            template = await runner.prepare(TemplateSpec("image-lost"))
            await until(lambda: not containers(engine, project="image-lost"))
            engine.remove_image(newest_image(engine), force=True)

            with pytest.raises(WorkerFailed, match="No such image"):
                await template.spawn()

            assert "No such image" in await template.until_lost()


class TestEvents:
    async def test_gives_what_was_printed_before_what_is_said(self, worker: Worker):
        code = "import sys\nfor n in range(100): print(n)\nprint('oh', file=sys.stderr)"

        found = await run(worker, code)

        assert printed(found) == b"".join(b"%d\n" % n for n in range(100))
        assert printed(found, "stderr") == b"oh\n"
        assert isinstance(found[-1], Said)

    async def test_gives_bytes_as_they_were_written(self, worker: Worker):
        found = await run(worker, "import os\nos.write(1, bytes(range(256)))")

        assert printed(found) == bytes(range(256))

    async def test_hands_files_in(self, worker: Worker):
        data = base64.b64encode(b"hello").decode()
        await worker.send({"t": "file", "name": "in.txt", "data": data, "more": False})

        found = await run(worker, "print(open('in.txt').read())")

        assert printed(found) == b"hello\n"

    async def test_brings_files_out(self, worker: Worker):
        found = await run(worker, "save_artifact('out.bin', b'\\x00\\x01')")

        frames = [event.frame for event in found if isinstance(event, Said)]
        assert b'"out.bin"' in frames[0]
        assert base64.b64encode(b"\x00\x01") in frames[0]

    async def test_lets_a_script_ask_a_model(self, worker: Worker):
        code = "print(llm.complete('why?'))"
        await worker.send({"t": "job", "code": code, **JOB})
        asked = await events(worker, up_to=b'"t":"llm"')

        await worker.send({"t": "llm_reply", "seq": 1, "text": "because"})

        found = await events(worker, up_to=b'"t":"done"')
        assert b'"why?"' in asked[-1].frame
        assert printed(found) == b"because\n"

    async def test_puts_together_what_comes_in_single_bytes(self, bent: Bent):
        bent.proxy.piece_bytes = 1

        worker = await bent.template.spawn()

        assert printed(await run(worker, "print('x' * 500)")) == b"x" * 500 + b"\n"

    @pytest.mark.parametrize(
        "nonsense",
        [b"\x01\x00\x00\x00\x00\x00\x00\x04\x7f\xff\xff\xff", b"HTTP/1.1"],
        ids=["too large a frame", "no packet"],
    )
    async def test_stops_a_worker_whose_stream_makes_no_sense(self, bent: Bent, nonsense: bytes):
        worker = await bent.template.spawn()

        bent.proxy.attached[-1].write(nonsense)

        assert (await events(worker))[-1] == Gone(signal=9, reason="protocol")

    async def test_holds_up_a_flood_that_nobody_reads(self, worker: Worker):
        flood = "import os\nfor n in range(64): os.write(1, b'x' * 2**20)"
        await worker.send({"t": "job", "code": flood, **JOB})

        found = await events(worker, up_to=b'"t":"done"')

        assert len(printed(found)) == 64 * 2**20

    async def test_ends_with_memory_when_the_kernel_stopped_the_worker(self, worker: Worker):
        # Each alone is within the limit of a process; the kernel ends the largest one.
        code = """
import os, time
ready, told = os.pipe()
for n in range(6):
    if os.fork() == 0:
        part = b"x" * (12 << 20)
        os.write(told, b".")
        time.sleep(60)
for n in range(6):
    os.read(ready, 1)
held = b"x" * (55 << 20)
time.sleep(60)
"""

        found = await run(worker, code)

        assert isinstance(found[-1], Gone)
        assert (found[-1].signal, found[-1].reason) == (9, "memory")

    async def test_ends_with_memory_when_the_container_was_killed(
        self, worker: Worker, engine: Any
    ):
        engine.kill(name_of(worker), signal="KILL")

        assert await events(worker) == [Gone(signal=9, reason="memory")]

    async def test_ends_with_cpu_when_the_script_has_used_its_time(self, worker: Worker):
        found = await run(worker, "while True: pass")

        assert isinstance(found[-1], Gone)
        assert found[-1].reason == "cpu"
        assert found[-1].cpu_ms >= 1500

    async def test_lets_no_container_outlive_its_connection(self, bent: Bent, engine: Any):
        worker = await bent.template.spawn()

        bent.proxy.attached[-1].transport.abort()

        await until(
            lambda: engine.inspect_container(name_of(worker))["State"]["Status"] == "exited"
        )
        worker.kill()

    async def test_notices_that_an_idle_worker_has_ended(self, worker: Worker, engine: Any):
        engine.kill(name_of(worker), signal="KILL")

        await until(lambda: worker.is_gone)


class TestFreeze:
    async def test_lets_nothing_run_until_thawed(self, worker: Worker, engine: Any):
        await worker.freeze()
        is_paused = engine.inspect_container(name_of(worker))["State"]["Paused"]

        await worker.thaw()

        assert is_paused
        assert printed(await run(worker, "print('on')")) == b"on\n"

    async def test_does_nothing_to_a_worker_that_is_gone(self, template: Template):
        worker = await template.spawn()
        worker.kill()

        await worker.freeze()
        await worker.thaw()

        assert worker.is_gone


class TestKill:
    async def test_ends_a_script_that_would_go_on(self, worker: Worker, engine: Any):
        await worker.send({"t": "job", "code": "print('on', flush=True)\nwhile True: pass", **JOB})

        worker.kill()

        assert (await events(worker))[-1] == Gone(signal=9)
        assert not engine.containers(all=True, filters={"name": name_of(worker)})

    async def test_ends_a_frozen_worker(self, worker: Worker, engine: Any):
        await worker.freeze()

        worker.kill()

        await events(worker)
        assert not engine.containers(all=True, filters={"name": name_of(worker)})

    async def test_may_be_asked_twice(self, worker: Worker):
        worker.kill()
        worker.kill()

        assert await events(worker) == [Gone(signal=9)]

    async def test_drops_what_is_sent_afterwards(self, worker: Worker):
        worker.kill()

        await worker.send({"t": "job", "code": "print(1)", **JOB})

        assert worker.is_gone

    async def test_asks_again_until_the_container_is_removed(self, bent: Bent, engine: Any):
        worker = await bent.template.spawn()
        bent.proxy.refusals[b"DELETE"] = deque([409, 404, 500])

        worker.kill()

        await until(lambda: not engine.containers(all=True, filters={"name": name_of(worker)}))
        assert not bent.proxy.refusals[b"DELETE"]


class TestSweep:
    async def test_removes_what_dead_instances_have_left(
        self, runner: DockerRunner, engine: Any, image: str
    ):
        left = planted(engine, image, app="sandbox", instance="dead")

        await runner.sweep()

        assert not is_there(engine, left)

    @pytest.mark.parametrize(
        "labels", [{"app": "sandbox", "instance": ALIVE}, {"instance": "dead"}, {}]
    )
    async def test_touches_nobody_elses(
        self, runner: DockerRunner, engine: Any, image: str, labels: dict[str, str]
    ):
        other = planted(engine, image, **labels)

        await runner.sweep()

        assert is_there(engine, other)
        engine.remove_container(other, force=True)

    async def test_leaves_its_own_workers_alone(
        self, runner: DockerRunner, worker: Worker, engine: Any
    ):
        await runner.sweep()

        assert printed(await run(worker, "print('here')")) == b"here\n"

    async def test_removes_its_own_that_it_has_lost_sight_of(
        self, runner: DockerRunner, worker: Worker, engine: Any, image: str
    ):
        marks = engine.inspect_container(name_of(worker))["Config"]["Labels"]
        left = planted(engine, image, app="sandbox", instance=marks["insula.instance"])

        await runner.sweep()

        assert not is_there(engine, left)


class TestUntilLost:
    async def test_returns_when_the_engine_is_gone(self, proxy: EngineProxy, image: str):
        async with open_runner(proxy.host, image, ping_every_s=0.05) as (runner, _):
            template = await runner.prepare(SPEC)
            worker = await template.spawn()

            await proxy.cut()

            assert "does not answer" in await template.until_lost()
            assert worker.is_gone
            await proxy.mend()

    async def test_leaves_the_way_open_for_another_template(
        self, proxy: EngineProxy, image: str, engine: Any
    ):
        async with open_runner(proxy.host, image, ping_every_s=0.05) as (runner, _):
            lost = await runner.prepare(TemplateSpec("comes-back"))
            left = await lost.spawn()
            await proxy.cut()
            await lost.until_lost()
            await proxy.mend()

            worker = await (await runner.prepare(TemplateSpec("comes-back"))).spawn()

            assert printed(await run(worker, "print('again')")) == b"again\n"
            await until(lambda: not is_there(engine, name_of(left)))

    async def test_ends_a_script_under_way(self, proxy: EngineProxy, image: str):
        async with open_runner(proxy.host, image, ping_every_s=0.05) as (runner, _):
            worker = await (await runner.prepare(SPEC)).spawn()
            await worker.send({"t": "job", "code": "while True: pass", **JOB})

            await proxy.cut()

            await until(lambda: worker.is_gone)
            await proxy.mend()
            assert isinstance((await events(worker))[-1], Gone)


class TestClose:
    async def test_leaves_no_container(self, host: str, image: str, engine: Any):
        spec = TemplateSpec("closed")
        async with open_runner(host, image) as (runner, _):
            template = await runner.prepare(spec)
            await template.spawn()
            await template.spawn()

        assert not containers(engine, project="closed")
