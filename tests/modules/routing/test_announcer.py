"""A local agent telling its router: when, how often, and what follows from the answer."""

import asyncio
import json

import pytest
from aiohttp import web

from app.kernel.errors import BadUpstream
from app.kernel.settings import Secret
from app.modules.routing.adapters.agent_client import (
    AgentClient,
    RouterRefused,
    RouterUnreachable,
)
from app.modules.routing.domain.workers import Lease, Registration, retry_s
from app.modules.routing.ports import Route
from app.modules.routing.service.announcer import Announcer, NoModelYet, own_model, own_models
from tests.fakes.upstream import FakeUpstream, target
from tests.waiting import until

KEY = Secret("isk_of_the_router")


def said(*models: str, **more) -> Registration:
    return Registration("mac", "http://10.0.0.1:8000", list(models or ("mlx/tiny",)), **more)


class FakeDesk:
    """A router that remembers who registered, until it is told to forget."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.registered: Registration | None = None
        self.is_down = False
        self.is_closed = False

    async def register(self, said: Registration) -> Lease:
        self._answer("register")
        self.registered = said
        return Lease()

    async def beat(self, name: str, queue_length: int) -> Lease | None:
        self._answer(f"beat {queue_length}")
        return Lease() if self.registered else None

    async def leave(self, name: str) -> None:
        self._answer(f"leave {name}")

    async def close(self) -> None:
        self.is_closed = True

    def _answer(self, what: str) -> None:
        self.told.append(what)
        if self.is_down:
            raise BadUpstream("down")


class Agent:
    """An announcer whose pauses end when the test says so."""

    def __init__(self, desk: FakeDesk) -> None:
        self.now = said()
        self.waits: list[float] = []
        self.desk = desk
        self._steps: asyncio.Queue[None] = asyncio.Queue()
        self._taken = 0
        self.announcer = Announcer(desk, self._describe, pause=self._pause, draw=lambda: 1.0)

    async def _describe(self) -> Registration:
        return self.now

    async def _pause(self, seconds: float) -> None:
        self.waits.append(seconds)
        await self._steps.get()

    async def step(self) -> float:
        """Let it tell the router once more, and return how long it means to wait then."""
        if self._taken:
            self._steps.put_nowait(None)
        else:
            await self.announcer.open()
        self._taken += 1
        await until(lambda: len(self.waits) == self._taken)
        return self.waits[-1]


@pytest.fixture
def desk() -> FakeDesk:
    return FakeDesk()


@pytest.fixture
async def agent(desk):
    found = Agent(desk)
    yield found
    await found.announcer.close()


class TestAnnouncer:
    async def test_registers_and_then_beats_as_often_as_the_router_asks(self, agent, desk):
        waits = [await agent.step(), await agent.step()]

        assert desk.told == ["register", "beat 0"]
        assert waits == [30.0, 30.0]

    async def test_tells_its_queue(self, agent, desk):
        await agent.step()
        agent.now = said(queue_length=7)

        await agent.step()

        assert desk.told[-1] == "beat 7"

    async def test_registers_again_when_its_models_change(self, agent, desk):
        await agent.step()
        agent.now = said("mlx/tiny", "llama")

        await agent.step()

        assert desk.told == ["register", "register"]
        assert desk.registered == agent.now

    async def test_registers_again_when_the_router_has_forgotten(self, agent, desk):
        await agent.step()
        desk.registered = None

        await agent.step()

        assert desk.told == ["register", "beat 0", "register"]

    async def test_tries_for_ever_at_growing_intervals(self, agent, desk):
        desk.is_down = True

        waits = [await agent.step() for _ in range(8)]

        assert waits == [1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0, 30.0]

    async def test_begins_with_short_intervals_after_a_success(self, agent, desk):
        desk.is_down = True
        await agent.step()
        await agent.step()
        desk.is_down = False
        await agent.step()
        desk.is_down = True

        assert await agent.step() == 1.0

    async def test_complains_once_of_a_router_that_is_away(self, agent, desk, caplog):
        desk.is_down = True

        for _ in range(3):
            await agent.step()

        assert caplog.messages.count("routing.router-not-told") == 1

    async def test_survives_a_bug(self, agent, desk, caplog):
        await agent.step()
        agent.now = None

        wait_s = await agent.step()

        assert wait_s == 1.0
        assert "routing.announcing-failed" in caplog.messages

    async def test_looks_again_soon_while_it_has_no_model(self, agent, desk):
        agent.now = Registration("mac", "http://10.0.0.1:8000", [])

        assert await agent.step() == 2.0

    async def test_takes_leave(self, agent, desk):
        await agent.step()

        await agent.announcer.close()

        assert desk.told[-1] == "leave mac"
        assert desk.is_closed

    async def test_takes_no_leave_where_it_was_not_known(self, agent, desk):
        desk.is_down = True
        await agent.step()

        await agent.announcer.close()

        assert "leave mac" not in desk.told

    async def test_ends_though_the_router_is_away(self, agent, desk):
        await agent.step()
        desk.is_down = True

        await agent.announcer.close()

        assert desk.is_closed


class TestRetry:
    def test_is_drawn_from_the_upper_half(self):
        assert [retry_s(3, 0.0), retry_s(3, 1.0)] == [2.0, 4.0]

    def test_has_a_limit(self):
        assert retry_s(10_000, 1.0) == 30.0


class TestOwnModels:
    def route(self, name: str, upstream: str) -> Route:
        found = target(upstream, FakeUpstream())
        return Route(name=name, targets=(found,), kind="chat", created_s=0)

    def test_are_what_runs_here_mlx_first(self):
        routes = [self.route("llama", "ollama"), self.route("mlx/tiny", "mlx")]

        assert own_models(routes) == ["mlx/tiny", "llama"]

    def test_are_not_those_of_workers(self):
        routes = [self.route("llama", "worker/mac"), self.route("dev/echo", "dev")]

        assert own_models(routes) == ["dev/echo"]


class TestOwnModel:
    def test_is_the_first_one(self):
        route = TestOwnModels().route("mlx/tiny", "mlx")

        assert own_model([route]) == "mlx/tiny"

    def test_may_not_be_there_yet(self):
        with pytest.raises(NoModelYet, match="try again"):
            own_model([])


class Router:
    """A router that answers what it is told to."""

    def __init__(self) -> None:
        self.status = 200
        self.body: bytes = b'{"status":"ok","heartbeat_s":12.5,"expires_at":7}'
        self.headers: dict[str, str] = {}
        self.asked: list[tuple[str, str, bytes, str]] = []
        self.url = ""

    async def answer(self, request: web.Request) -> web.Response:
        found = (request.method, request.raw_path, await request.read())
        self.asked.append((*found, request.headers.get("authorization", "")))
        return web.Response(status=self.status, body=self.body, headers=self.headers)


@pytest.fixture
async def router():
    found = Router()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", found.answer)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    found.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield found
    await runner.cleanup()


@pytest.fixture
async def client(router):
    found = AgentClient(router.url + "/", KEY)
    yield found
    await found.close()


class TestAgentClient:
    async def test_registers_with_the_key(self, client, router):
        lease = await client.register(said(key=Secret("isk_of_the_agent")))

        ((method, path, body, authorization),) = router.asked
        assert (method, path) == ("POST", "/api/v1/routing/workers")
        assert json.loads(body)["name"] == "mac"
        assert json.loads(body)["key"] == "isk_of_the_agent"
        assert authorization == "Bearer isk_of_the_router"
        assert (lease.heartbeat_s, lease.expires_at) == (12.5, 7)

    async def test_understands_a_router_that_says_no_more_than_ok(self, client, router):
        router.body = b'{"status":"ok"}'

        assert (await client.register(said())).heartbeat_s == 30.0

    async def test_beats(self, client, router):
        lease = await client.beat("mac", 3)

        ((_, path, body, _),) = router.asked
        assert path == "/api/v1/routing/workers/mac/heartbeat"
        assert json.loads(body) == {"queue_length": 3}
        assert lease.heartbeat_s == 12.5

    async def test_hears_that_it_must_register_again(self, client, router):
        router.status = 404

        assert await client.beat("mac", 0) is None

    async def test_takes_leave(self, client, router):
        router.status, router.body = 204, b""

        await client.leave("mac")

        assert router.asked[0][:2] == ("DELETE", "/api/v1/routing/workers/mac")

    async def test_sends_no_header_without_a_key(self, router):
        client = AgentClient(router.url, None)

        await client.register(said())
        await client.close()

        assert router.asked[0][3] == ""

    async def test_tells_what_the_router_has_against_it(self, client, router):
        router.status, router.body = 403, b'{"detail":"This key lacks the scope \'full\'."}'

        with pytest.raises(RouterRefused, match="403: This key lacks"):
            await client.register(said())

    @pytest.mark.parametrize("body", [b"<html>", b'{"heartbeat_s":0}', b'{"status":"no"}', b""])
    async def test_refuses_what_is_no_router(self, client, router, body):
        router.body = body

        with pytest.raises(RouterRefused, match="ROUTING_ROUTER_URL"):
            await client.register(said())

    async def test_follows_no_redirect(self, client, router):
        router.status, router.headers = 307, {"location": "/elsewhere"}

        with pytest.raises(RouterRefused, match="307"):
            await client.register(said())

        assert len(router.asked) == 1

    @pytest.mark.parametrize("url", ["http://127.0.0.1:9", "nonsense", "http://"])
    async def test_says_that_nobody_is_there_and_never_the_key(self, url):
        client = AgentClient(url, KEY)

        with pytest.raises(RouterUnreachable) as caught:
            await client.register(said())
        await client.close()

        assert KEY not in str(caught.value)
