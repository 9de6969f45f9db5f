"""SurrealDB over ws: a real engine that is killed, missed and found again."""

import asyncio
import logging
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from app.adapters.surreal import Surreal, SurrealSettings, open_surreal
from app.adapters.surreal.client import SurrealConflict, SurrealDown, SurrealError, SurrealRefused
from app.kernel.settings import load
from tests.node import installed
from tests.waiting import until

SERVER = Path(__file__).parents[1] / "surreal_server.mjs"
ENGINE = ("@surrealdb/node@3.0.3", "ws@8.23.0")
DEADLINE_S = 15.0


def opened(data_dir: Path, **environ: str) -> Surreal:
    return open_surreal(load(SurrealSettings, environ), data_dir, workers=1)


async def answered(surreal: Surreal, text: str) -> list[Any]:
    """Ask until SurrealDB is there."""

    async def ask() -> list[Any] | None:
        with suppress(SurrealDown):
            return await surreal.query(text)
        return None

    return await until(ask)


@pytest.fixture(scope="session")
def node_modules() -> Path:
    """The folder of the engine's npm packages."""
    return installed(*ENGINE)


class Server:
    """A SurrealDB server that can be killed and started again on the same port and data."""

    def __init__(self, node_modules: Path, data: Path) -> None:
        self._arguments = [str(SERVER), str(node_modules), str(data)]
        self._process: subprocess.Popen[str] | None = None
        self.port = 0

    @property
    def url(self) -> str:
        return f"ws://127.0.0.1:{self.port}/rpc"

    def start(self) -> None:
        self._process = subprocess.Popen(
            ["node", *self._arguments, str(self.port)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        line = self._process.stdout.readline()
        if not line:
            pytest.fail("The SurrealDB server for the tests did not start; see its stderr above.")
        self.port = int(line)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process.stdin.close()
            self._process.stdout.close()
            self._process = None


@pytest.fixture(scope="module")
def server(node_modules: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """For those who let it live; each writes into tables of its own."""
    server = Server(node_modules, tmp_path_factory.mktemp("server") / "data")
    server.start()
    yield server
    server.kill()


@pytest.fixture
def mortal(node_modules: Path, tmp_path: Path) -> Iterator[Server]:
    """For those who kill it."""
    server = Server(node_modules, tmp_path / "server")
    server.start()
    yield server
    server.kill()


@pytest.fixture
async def remote(server: Server, tmp_path: Path) -> AsyncIterator[Surreal]:
    remote = opened(tmp_path, **as_user(server, "root"))
    yield remote
    await remote.close()


@pytest.fixture
async def bereaved(mortal: Server, tmp_path: Path) -> AsyncIterator[Surreal]:
    """Connected to one that will be killed."""
    bereaved = opened(tmp_path, **as_user(mortal, "root"))
    yield bereaved
    await bereaved.close()


def as_user(server: Server, user: str, level: str = "root") -> dict[str, str]:
    return {
        "SURREALDB_URL": server.url,
        "SURREALDB_USER": user,
        "SURREALDB_PASS": f"{user}-password",
        "SURREALDB_AUTH_LEVEL": level,
    }


@pytest.mark.slow
class TestServer:
    async def test_answers_every_statement(self, remote):
        rows = await remote.query("CREATE note:1 SET text = $text; RETURN 2", text="over ws")

        assert rows[0][0]["text"] == "over ws"
        assert rows[1] == 2

    async def test_raises_for_the_error_of_a_later_statement(self, remote):
        with pytest.raises(SurrealError, match="boom"):
            await remote.query("CREATE b:1; THROW 'boom'")

    async def test_names_the_statement_that_broke_a_transaction(self, remote):
        with pytest.raises(SurrealError, match="boom"):
            await remote.query("BEGIN; CREATE c:1; THROW 'boom'; COMMIT")

    async def test_raises_for_a_text_that_is_no_query(self, remote):
        with pytest.raises(SurrealError, match="Parse error"):
            await remote.query("SELECT * FORM nothing")

    async def test_tells_a_write_conflict_apart(self, remote):
        text = "UPSERT counter:1 SET n += 1"

        answers = await asyncio.gather(
            *(remote.query(text) for _ in range(50)), return_exceptions=True
        )

        failed = [answer for answer in answers if isinstance(answer, Exception)]
        assert {type(error) for error in failed} <= {SurrealConflict}

    async def test_refuses_a_wrong_password_without_telling_it(self, server, tmp_path, caplog):
        environ = as_user(server, "root") | {"SURREALDB_PASS": "wrong-word"}
        surreal = opened(tmp_path, **environ)

        with pytest.raises(SurrealRefused, match="SURREALDB_USER") as refused:
            await surreal.ping()

        said = str(refused.value) + str([record.__dict__ for record in caplog.records])
        assert "wrong-word" not in said
        await surreal.close()

    async def test_lets_a_user_of_the_database_in(self, server, tmp_path):
        surreal = opened(tmp_path, **as_user(server, "guest", "database"))

        assert await surreal.query("CREATE ONLY visit:1 RETURN VALUE 1") == [1]

        await surreal.close()

    async def test_refuses_a_user_of_the_database_at_the_root(self, server, tmp_path):
        surreal = opened(tmp_path, **as_user(server, "guest"))

        with pytest.raises(SurrealRefused, match="AUTH_LEVEL=root"):
            await surreal.ping()

        await surreal.close()

    async def test_signs_in_again_when_the_session_has_expired(self, server, tmp_path, caplog):
        caplog.set_level(logging.INFO, "insula.surreal")
        surreal = opened(tmp_path, **as_user(server, "brief"))

        async def has_signed_in_twice() -> bool:
            await surreal.ping()
            return caplog.messages.count("surreal.connected") == 2

        await until(has_signed_in_twice)
        await surreal.close()

    async def test_is_missed_at_the_first_query_and_found_when_it_comes(self, mortal, tmp_path):
        mortal.kill()
        surreal = opened(tmp_path, **as_user(mortal, "root"))
        with pytest.raises(SurrealDown, match="connection to SurrealDB failed"):
            await surreal.ping()

        mortal.start()

        assert await answered(surreal, "RETURN 1") == [1]
        await surreal.close()

    async def test_is_found_again_after_it_was_killed(self, bereaved, mortal):
        await bereaved.query("CREATE note:1 SET text = 'kept'")

        mortal.kill()
        with pytest.raises(SurrealDown):
            await bereaved.ping()
        mortal.start()

        assert await answered(bereaved, "SELECT VALUE text FROM note") == [["kept"]]

    async def test_ends_the_queries_under_way_when_it_is_killed(self, bereaved, mortal):
        await bereaved.ping()
        under_way = [asyncio.create_task(bereaved.query("SLEEP 30s")) for _ in range(3)]
        await bereaved.query("RETURN 'sent after them'")
        started = time.monotonic()

        mortal.kill()
        ended = await asyncio.gather(*under_way, return_exceptions=True)

        assert [type(error) for error in ended] == [SurrealDown] * 3
        assert time.monotonic() - started < DEADLINE_S

    async def test_gives_up_a_query_at_its_deadline_and_goes_on(self, server, tmp_path):
        environ = as_user(server, "root") | {"SURREALDB_TIMEOUT_S": "0.3"}
        surreal = opened(tmp_path, **environ)
        await surreal.ping()

        with pytest.raises(SurrealDown, match="too long"):
            await surreal.query("SLEEP 30s")

        await surreal.ping()
        await surreal.close()

    async def test_lets_a_caller_give_up_without_harm_to_the_others(self, remote):
        await remote.ping()
        other = asyncio.create_task(remote.query("SLEEP 100ms; RETURN 'answered'"))
        given_up = asyncio.create_task(remote.query("SLEEP 30s"))
        await remote.query("RETURN 'sent after them'")

        given_up.cancel()

        assert (await other)[-1] == "answered"
        with pytest.raises(asyncio.CancelledError):
            await given_up
