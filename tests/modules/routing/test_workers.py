"""Workers: who may register what, who is in the choice, and what the table is shared for."""

import asyncio
from datetime import timedelta
from uuid import UUID

import msgspec
import pytest
from litestar import Router

from app.adapters.cache.memory import MemoryCache
from app.kernel.db import Database, uuid7
from app.kernel.jobs import JobBook
from app.kernel.keys import AesGcmSeal, Keyring
from app.kernel.module import always
from app.modules.auth.api import Principal
from app.modules.routing.adapters.workers import open_worker
from app.modules.routing.controllers.workers import WorkerController
from app.modules.routing.domain.workers import (
    NameTaken,
    Registration,
    TooManyWorkers,
    WorkerTarget,
    WorkerUnknown,
    own_endpoint,
    worker_name,
)
from app.modules.routing.models import WorkerRow
from app.modules.routing.ports import Ask, Deadlines
from app.modules.routing.repository import WorkerRepository
from app.modules.routing.service.workers import USER_LIMIT, Workers
from app.outbound.addresses import EndpointForbidden
from tests.fakes.clock import FakeClock
from tests.fakes.upstream import FakeUpstream
from tests.modules.auth.people import BOOTSTRAP, SECRET, make_kit, served
from tests.scripted_upstream import scripted_upstream
from tests.waiting import until

PUBLIC = "https://gpu.example.org"
HOME = "http://192.168.0.7:5000"


def somebody(role: str = "member", user_id: UUID | None = None) -> Principal:
    return Principal(
        user_id=user_id or uuid7(),
        kind="key",
        credential_id=uuid7(),
        role=role,
        scopes=frozenset({"full"}),
    )


OWNER = somebody("owner")
ANNA = somebody()
BERT = somebody()


def said(name: str = "mac", endpoint: str = PUBLIC, **more) -> Registration:
    return Registration(**{"name": name, "endpoint": endpoint, "models": ["llama"], **more})


class Process:
    """The workers of one process, and what was made and told there."""

    def __init__(self, db: Database, clock: FakeClock) -> None:
        self.targets: list[WorkerTarget] = []
        self.upstreams: list[FakeUpstream] = []
        self.changes = 0
        seal = AesGcmSeal(Keyring([SECRET]), "routing-sealing")
        self.workers = Workers(db, clock, self.connect, self._changed, seal)

    def connect(self, target: WorkerTarget) -> FakeUpstream:
        self.targets.append(target)
        self.upstreams.append(FakeUpstream())
        return self.upstreams[-1]

    async def _changed(self) -> None:
        self.changes += 1

    @property
    def names(self) -> list[str]:
        """The names under which models are offered."""
        guests = self.workers.guests()
        return [name for g in guests for model in g.models for name, _ in g.names(model)]


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def here(sqlite, clock) -> Process:
    return Process(sqlite, clock)


@pytest.fixture
def workers(here) -> Workers:
    return here.workers


@pytest.fixture
def first(db, clock) -> Process:
    """One of two processes on the same database."""
    return Process(db, clock)


@pytest.fixture
async def second(first, database_url, clock):
    """The other one, with connections of its own."""
    other = Database(database_url, JobBook())
    yield Process(other, clock)
    await other.close()


class TestRegister:
    async def test_puts_a_worker_of_the_owner_before_everybody(self, here):
        await here.workers.register(OWNER, said(endpoint=HOME))

        (guest,) = here.workers.guests()
        assert here.names == ["llama", "worker/mac/llama"]
        assert guest.user_id is None

    async def test_puts_anothers_worker_before_that_user_only(self, here):
        await here.workers.register(ANNA, said())

        (guest,) = here.workers.guests()
        assert here.names == ["worker/mac/llama"]
        assert guest.user_id == ANNA.user_id

    async def test_calls_each_worker_at_its_own_endpoint(self, here):
        await here.workers.register(OWNER, said("one", "http://10.0.0.1:5000"))
        await here.workers.register(OWNER, said("two", "http://10.0.0.2:5000/infer/"))

        assert here.targets == [
            WorkerTarget("worker/one", "http://10.0.0.1:5000", "openai", may_be_private=True),
            WorkerTarget("worker/two", "http://10.0.0.2:5000/infer", "infer", may_be_private=True),
        ]

    async def test_believes_a_dialect_that_is_given(self, here):
        await here.workers.register(OWNER, said(dialect="infer"))

        assert here.targets[0].dialect == "infer"

    async def test_tells_when_a_sign_of_life_is_due(self, workers, clock):
        lease = await workers.register(OWNER, said())

        assert (lease.status, lease.heartbeat_s) == ("ok", 30.0)
        assert lease.expires_at == int((clock.now.timestamp() + 90) * 1000)

    async def test_replaces_what_the_same_worker_said_before(self, here):
        await here.workers.register(ANNA, said())
        await here.workers.register(ANNA, said(models=["qwen", "qwen"]))

        (read,) = await here.workers.list(ANNA)
        assert read.models == ["qwen"]
        assert here.names == ["worker/mac/qwen"]

    async def test_keeps_the_connection_while_the_endpoint_stays(self, here):
        await here.workers.register(ANNA, said())
        await here.workers.register(ANNA, said(models=["qwen"]))

        assert len(here.upstreams) == 1

    async def test_refuses_a_name_of_another_user(self, here):
        await here.workers.register(OWNER, said())

        with pytest.raises(NameTaken, match="Choose another name"):
            await here.workers.register(ANNA, said(endpoint="https://elsewhere.example.org"))

        assert here.targets[-1].endpoint == PUBLIC

    async def test_refuses_a_private_address_unless_it_is_the_owners(self, workers):
        with pytest.raises(EndpointForbidden):
            await workers.register(ANNA, said(endpoint=HOME))

    async def test_refuses_the_metadata_to_the_owner_too(self, workers):
        with pytest.raises(EndpointForbidden):
            await workers.register(OWNER, said(endpoint="http://169.254.169.254"))

    async def test_refuses_more_than_a_user_may_have(self, workers):
        for index in range(USER_LIMIT):
            await workers.register(ANNA, said(f"worker-{index}"))

        with pytest.raises(TooManyWorkers):
            await workers.register(ANNA, said("one-more"))

        await workers.register(ANNA, said("worker-0", models=["renewed"]))

    async def test_tells_of_the_change(self, here):
        await here.workers.register(ANNA, said())
        await here.workers.register(ANNA, said(queue_length=7))

        assert here.changes == 1

    async def test_takes_the_workers_limit_over(self, workers):
        await workers.register(ANNA, said(limit=3))

        assert workers.guests()[0].source.parallel == 3


class TestKey:
    async def test_is_sent_with_each_call(self, workers):
        await workers.register(ANNA, said(key="isk_of_the_agent"))

        assert workers.guests()[0].source.keys == ("isk_of_the_agent",)

    async def test_is_sealed_at_rest_and_never_shown(self, workers, sqlite):
        await workers.register(ANNA, said(key="isk_of_the_agent"))

        async with sqlite.read() as session:
            (row,) = await WorkerRepository(session).list(None, 10)
        assert b"isk_of" not in row.key_sealed
        assert "isk_of" not in str(msgspec.json.encode(await workers.list(ANNA)))
        assert "isk_of" not in repr(said(key="isk_of_the_agent"))

    async def test_is_of_no_use_in_another_row(self, here, sqlite, clock):
        later = Process(sqlite, clock)
        await here.workers.register(ANNA, said("mac", key="isk_of_the_agent"))
        await here.workers.register(ANNA, said("other"))
        async with sqlite.begin() as session:
            mac, other = await WorkerRepository(session).list(None, 10)
            other.key_sealed = mac.key_sealed

        await later.workers.refresh()

        keys = {g.source.name: g.source.keys for g in later.workers.guests()}
        assert keys == {"worker/mac": ("isk_of_the_agent",), "worker/other": ()}

    async def test_that_cannot_be_read_is_left_out(self, here, sqlite, clock):
        await here.workers.register(ANNA, said(key="isk_of_the_agent"))
        fresh = AesGcmSeal(
            Keyring(["a newer master secret of the tests, 0123456789"]), "routing-sealing"
        )

        async def nobody_cares() -> None: ...

        later = Workers(sqlite, clock, lambda _: FakeUpstream(), nobody_cares, fresh)
        await later.refresh()

        assert later.guests()[0].source.keys == ()


class TestBeat:
    async def test_keeps_a_worker_in_the_choice(self, here, clock):
        await here.workers.register(ANNA, said())
        clock.advance(89)
        await here.workers.beat(ANNA, "mac", None)
        clock.advance(89)

        await here.workers.refresh()

        assert here.names == ["worker/mac/llama"]

    async def test_brings_a_silent_worker_back(self, here, clock):
        await here.workers.register(ANNA, said())
        clock.advance(200)
        await here.workers.refresh()

        await here.workers.beat(ANNA, "mac", None)

        assert here.names == ["worker/mac/llama"]

    async def test_tells_the_length_of_the_queue(self, workers):
        await workers.register(ANNA, said(queue_length=1))
        await workers.beat(ANNA, "mac", 5)
        await workers.beat(ANNA, "mac", None)

        assert workers.live()[0].queue_length == 5

    @pytest.mark.parametrize("principal", [BERT, OWNER])
    async def test_asks_a_stranger_to_register(self, workers, principal):
        await workers.register(ANNA, said())

        with pytest.raises(WorkerUnknown, match="Register it first"):
            await workers.beat(principal, "mac", None)


class TestSilence:
    async def test_of_three_heartbeats_takes_a_worker_out_at_once(self, here, clock):
        await here.workers.register(ANNA, said())

        clock.advance(90)

        assert here.workers.live() == []

    async def test_of_less_does_not(self, here, clock):
        await here.workers.register(ANNA, said())

        clock.advance(89)

        assert here.names == ["worker/mac/llama"]

    async def test_is_told_as_a_change(self, here, clock):
        await here.workers.register(ANNA, said())
        clock.advance(90)

        await here.workers.refresh()

        assert here.changes == 2

    async def test_of_one_leaves_the_others(self, here, clock):
        await here.workers.register(ANNA, said("one"))
        await here.workers.register(ANNA, said("two"))
        clock.advance(60)
        await here.workers.beat(ANNA, "two", None)
        clock.advance(60)

        await here.workers.refresh()

        assert here.names == ["worker/two/llama"]

    async def test_cuts_no_call_that_is_still_running(self, here, clock):
        await here.workers.register(ANNA, said())
        clock.advance(90)
        await here.workers.refresh()
        is_closed_at_once = here.upstreams[0].is_closed

        clock.advance(15 * 60)
        await here.workers.refresh()

        assert not is_closed_at_once
        assert here.upstreams[0].is_closed

    async def test_follows_the_heartbeat_that_is_asked_for(self, sqlite, clock):
        process = Process(sqlite, clock)

        async def nobody_cares() -> None: ...

        seal = AesGcmSeal(Keyring([SECRET]), "routing-sealing")
        quick = Workers(sqlite, clock, process.connect, nobody_cares, seal, heartbeat_s=1.0)
        lease = await quick.register(ANNA, said())

        clock.advance(3)

        assert lease.heartbeat_s == 1.0
        assert quick.live() == []


class TestSweep:
    async def test_forgets_who_was_silent_for_a_day(self, workers, clock):
        await workers.register(ANNA, said("old"))
        clock.advance(86_400 - 100)
        await workers.register(ANNA, said("young"))
        clock.advance(101)

        await workers.sweep()

        assert [read.name for read in await workers.list(ANNA)] == ["young"]

    async def test_frees_the_name(self, workers, clock):
        await workers.register(ANNA, said())
        clock.advance(90_000)
        await workers.sweep()

        await workers.register(BERT, said())

        assert [read.user_id for read in await workers.list(OWNER)] == [BERT.user_id]


class TestList:
    async def test_shows_a_user_their_own(self, workers):
        await workers.register(ANNA, said("annas"))
        await workers.register(BERT, said("berts"))

        assert [read.name for read in await workers.list(ANNA)] == ["annas"]

    async def test_shows_the_owner_everybodys(self, workers):
        await workers.register(ANNA, said("annas"))
        await workers.register(OWNER, said("owners"))

        reads = await workers.list(OWNER)

        assert [(r.name, r.is_shared) for r in reads] == [("annas", False), ("owners", True)]

    async def test_shows_the_silent_ones_as_such(self, workers, clock):
        await workers.register(ANNA, said())
        before = (await workers.list(ANNA))[0].is_live

        clock.advance(90)

        assert before
        assert not (await workers.list(ANNA))[0].is_live


class TestRemove:
    async def test_takes_a_worker_out(self, here):
        await here.workers.register(ANNA, said())

        await here.workers.remove(ANNA, "mac")

        assert here.names == []
        assert here.changes == 2

    @pytest.mark.parametrize("principal", [BERT, OWNER])
    async def test_leaves_somebody_elses_alone(self, here, principal):
        await here.workers.register(ANNA, said())

        with pytest.raises(WorkerUnknown):
            await here.workers.remove(principal, "mac")

        assert here.names == ["worker/mac/llama"]


class TestSharedTable:
    async def test_another_process_has_the_worker_too(self, first, second):
        await first.workers.register(OWNER, said(endpoint=HOME, key="isk_of_the_agent"))

        await second.workers.refresh()

        assert second.names == ["llama", "worker/mac/llama"]
        assert second.targets == first.targets
        assert second.workers.guests()[0].source.keys == ("isk_of_the_agent",)

    async def test_a_heartbeat_tfirst_keeps_it_first(self, first, second, clock):
        await first.workers.register(ANNA, said())
        clock.advance(80)
        await second.workers.beat(ANNA, "mac", None)
        clock.advance(80)

        await first.workers.refresh()

        assert first.names == ["worker/mac/llama"]

    async def test_an_open_process_looks_by_itself(self, first, second):
        await second.workers.open()
        await first.workers.register(ANNA, said())

        await until(lambda: second.names == ["worker/mac/llama"])

        await second.workers.close()
        assert second.upstreams[0].is_closed

    async def test_two_users_racing_for_a_name_leave_one_of_them(self, first, second):
        found = await asyncio.gather(
            first.workers.register(ANNA, said()),
            second.workers.register(BERT, said()),
            return_exceptions=True,
        )

        assert sorted(type(one).__name__ for one in found) == ["Lease", "NameTaken"]
        assert len(await first.workers.list(OWNER)) == 1


class TestRepository:
    def row(self, name: str, clock: FakeClock, **more) -> WorkerRow:
        values = {
            "name": name,
            "user_id": ANNA.user_id,
            "is_shared": False,
            "endpoint": PUBLIC,
            "dialect": "openai",
            "models": ["llama"],
            "key_sealed": b"",
            "queue_length": 0,
            "parallel": 0,
            "heartbeat_at": clock.now,
        }
        return WorkerRow(**values | more)

    async def test_lists_shared_workers_before_others_when_there_are_too_many(self, db, clock):
        async with db.begin() as session:
            await WorkerRepository(session).put(self.row("a", clock))
            await WorkerRepository(session).put(self.row("b", clock, is_shared=True))

        async with db.read() as session:
            rows = await WorkerRepository(session).live(clock.now - timedelta(seconds=1), 1)

        assert [row.name for row in rows] == ["b"]

    async def test_a_replaced_row_keeps_its_id_and_its_beginning(self, db, clock):
        async with db.begin() as session:
            await WorkerRepository(session).put(self.row("a", clock))
            (before,) = await WorkerRepository(session).list(None, 9)
        async with db.begin() as session:
            await WorkerRepository(session).put(self.row("a", clock, models=["qwen"]))

        async with db.read() as session:
            (after,) = await WorkerRepository(session).list(None, 9)
        assert (after.id, after.created_at) == (before.id, before.created_at)
        assert after.models == ["qwen"]


class TestOpenWorker:
    async def test_calls_an_openai_server_below_v1(self):
        async with scripted_upstream() as played:
            url = played.base_url.removesuffix("/v1")
            target = WorkerTarget("worker/mac", url, "openai", may_be_private=True)
            upstream = open_worker(target, answer_limit_bytes=1_000_000, max_connections=4)

            ask = Ask(
                "chat/completions",
                "good",
                b'{"model":"good"}',
                "isk_of_the_agent",
                deadlines=Deadlines(2.0, 2.0, 2.0),
            )
            answer = await upstream.post(ask)
            await upstream.close()

        assert answer.status == 200
        assert played.authorizations == ["Bearer isk_of_the_agent"]


class TestNames:
    @pytest.mark.parametrize(
        ("host", "name"),
        [
            ("annas-mac.local", "annas-mac.local"),
            ("Anna's Mac", "Anna-s-Mac"),
            ("...", "agent"),
            ("", "agent"),
        ],
    )
    def test_a_worker_is_called_after_its_machine(self, host, name):
        assert worker_name(host) == name

    @pytest.mark.parametrize(
        ("host", "url"),
        [
            ("127.0.0.1", "http://127.0.0.1:8000"),
            ("0.0.0.0", "http://mac.lan:8000"),
            ("::", "http://mac.lan:8000"),
            ("fd00::7", "http://[fd00::7]:8000"),
        ],
    )
    def test_an_agent_that_listens_everywhere_is_at_its_machine(self, host, url):
        assert own_endpoint(host, 8000, "mac.lan") == url


@pytest.fixture
async def client(sqlite, clock, workers):
    """The routes behind HTTP."""
    given = {"workers": always(workers)}
    router = Router("/", route_handlers=[WorkerController], dependencies=given)
    async with served(make_kit(sqlite, MemoryCache(), Keyring([SECRET]), clock), router) as found:
        yield found


OWNERS = {"authorization": f"Bearer {BOOTSTRAP}"}
BODY = {"name": "mac", "endpoint": HOME, "models": ["llama"]}


async def member(client) -> dict[str, str]:
    made = await client.post(
        "/api/v1/auth/register", json={"email": "anna@example.org", "password": "a long password"}
    )
    return {"authorization": f"Bearer {made.json()['access_token']}"}


class TestController:
    @pytest.mark.parametrize("path", ["workers", "register"])
    async def test_registers_and_answers_the_lease(self, client, path):
        answer = await client.post(f"/api/v1/routing/{path}", json=BODY, headers=OWNERS)

        assert answer.status_code == 200
        assert answer.json().keys() == {"status", "heartbeat_s", "expires_at"}

    async def test_takes_heartbeats_at_both_paths(self, client):
        await client.post("/api/v1/routing/workers", json=BODY, headers=OWNERS)

        by_path = await client.post(
            "/api/v1/routing/workers/mac/heartbeat", json={"queue_length": 3}, headers=OWNERS
        )
        by_body = await client.post(
            "/api/v1/routing/heartbeat", json={"name": "mac"}, headers=OWNERS
        )

        assert (by_path.status_code, by_body.status_code) == (200, 200)
        assert by_body.json()["status"] == "ok"

    async def test_answers_404_to_a_heartbeat_of_nobody(self, client):
        answer = await client.post(
            "/api/v1/routing/workers/nobody/heartbeat", json={}, headers=OWNERS
        )

        assert answer.status_code == 404
        assert answer.json()["type"] == "urn:problem:worker-unknown"

    async def test_lists_and_removes(self, client):
        await client.post("/api/v1/routing/workers", json=BODY, headers=OWNERS)

        page = (await client.get("/api/v1/routing/workers", headers=OWNERS)).json()
        gone = await client.delete("/api/v1/routing/workers/mac", headers=OWNERS)
        rest = (await client.get("/api/v1/routing/workers", headers=OWNERS)).json()

        assert [item["name"] for item in page["items"]] == ["mac"]
        assert gone.status_code == 204
        assert rest["items"] == []

    async def test_keeps_a_members_worker_out_of_this_network(self, client):
        answer = await client.post(
            "/api/v1/routing/workers", json=BODY, headers=await member(client)
        )

        assert answer.status_code == 400
        assert answer.json()["type"] == "urn:problem:endpoint-forbidden"
        assert answer.json()["param"] == "endpoint"

    async def test_answers_409_to_a_name_that_is_taken(self, client):
        await client.post("/api/v1/routing/workers", json=BODY, headers=OWNERS)

        answer = await client.post(
            "/api/v1/routing/workers",
            json=BODY | {"endpoint": PUBLIC},
            headers=await member(client),
        )

        assert answer.status_code == 409

    async def test_needs_a_key_with_the_scope_full(self, client):
        made = await client.post(
            "/api/v1/auth/api-keys", json={"name": "k", "scopes": ["inference"]}, headers=OWNERS
        )
        weak = {"authorization": f"Bearer {made.json()['key']}"}

        answers = [
            await client.post("/api/v1/routing/workers", json=BODY, headers=headers)
            for headers in ({}, weak)
        ]

        assert [answer.status_code for answer in answers] == [401, 403]

    @pytest.mark.parametrize(
        "change",
        [
            {"name": ""},
            {"name": "a/b"},
            {"name": "mac\n"},
            {"name": "x" * 65},
            {"endpoint": ""},
            {"endpoint": 1},
            {"models": "llama"},
            {"models": [""]},
            {"models": ["a b"]},
            {"models": ["llama"] * 101},
            {"dialect": "grpc"},
            {"queue_length": -1},
            {"limit": -1},
            {"key": "two words"},
            {"unknown": True},
        ],
    )
    async def test_refuses_a_wrong_member(self, client, change):
        answer = await client.post("/api/v1/routing/workers", json=BODY | change, headers=OWNERS)

        assert answer.status_code == 400
