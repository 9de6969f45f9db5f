"""SurrealDB: the embedded engine, and the life of a connection."""

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from app.adapters.surreal import Surreal, SurrealSettings, open_surreal
from app.adapters.surreal.client import (
    SurrealConflict,
    SurrealDown,
    SurrealError,
    SurrealLocked,
    is_expired,
    results,
)
from app.kernel.settings import SettingsError, load
from tests.waiting import until

DEADLINE_S = 15.0

OWNER = """
import asyncio, pathlib, sys
from app.adapters.surreal import SurrealSettings, open_surreal

async def main():
    surreal = open_surreal(SurrealSettings(), pathlib.Path(sys.argv[1]), workers=1)
    await surreal.query("CREATE note:1 SET text = 'kept'")
    print("holding", flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


def opened(data_dir: Path, **environ: str) -> Surreal:
    return open_surreal(load(SurrealSettings, environ), data_dir, workers=1)


class TestSettings:
    def test_keep_the_names_of_the_seed(self):
        environ = {
            "SURREALDB_URL": "ws://localhost:8000/rpc",
            "SURREALDB_NS": "archer",
            "SURREALDB_DB": "main",
            "SURREALDB_USER": "root",
            "SURREALDB_PASS": "hidden-word",
        }

        settings = load(SurrealSettings, environ)

        assert (settings.url, settings.ns, settings.db) == (
            "ws://localhost:8000/rpc",
            "archer",
            "main",
        )
        assert settings.user == "root"
        assert settings.password == "hidden-word"
        assert "hidden-word" not in repr(settings)

    def test_refuse_several_workers_on_the_embedded_engine(self, tmp_path):
        with pytest.raises(SettingsError, match="SURREALDB_URL"):
            open_surreal(SurrealSettings(), tmp_path, workers=2)

    def test_accept_several_workers_on_a_server(self, tmp_path):
        open_surreal(SurrealSettings(url="ws://localhost:1/rpc"), tmp_path, workers=2)

    @pytest.mark.parametrize(
        "url", ["mem://", "surrealkv://x", "http://localhost:8000", "nonsense"]
    )
    def test_refuse_a_url_that_is_no_websocket(self, url, tmp_path):
        with pytest.raises(SettingsError, match="ws://"):
            opened(tmp_path, SURREALDB_URL=url)


class TestOpen:
    def test_touches_neither_the_package_nor_the_disk(self, tmp_path):
        program = (
            "import pathlib, sys; from app.adapters.surreal import SurrealSettings, open_surreal;"
            "open_surreal(SurrealSettings(), pathlib.Path(sys.argv[1]), workers=1);"
            "sys.exit('surrealdb' in sys.modules or 'pydantic_core' in sys.modules)"
        )

        done = subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=False)

        assert done.returncode == 0
        assert list(tmp_path.iterdir()) == []


class TestResults:
    def test_are_one_per_statement(self):
        ok = {"status": "OK", "time": "1ms"}

        assert results({"result": [ok | {"result": 1}, ok | {"result": [2]}]}) == [1, [2]]

    def test_raise_for_an_error_of_the_whole_request(self):
        with pytest.raises(SurrealError, match="Method not found"):
            results({"error": {"code": -32601, "message": "Method not found"}})

    def test_tell_a_write_conflict_from_other_errors(self):
        text = "Failed to commit due to a write conflict. This transaction can be retried"

        with pytest.raises(SurrealConflict, match="try again"):
            results({"result": [{"status": "ERR", "result": text}]})

    def test_raise_for_an_answer_of_another_shape(self):
        with pytest.raises(SurrealError, match="no list"):
            results({"result": "surrealdb-3.0.2"})

    def test_tell_an_expired_sign_in_from_other_errors(self):
        assert is_expired({"error": {"message": "The session has expired"}})
        assert not is_expired({"error": {"message": "Method not found"}})
        assert not is_expired({"result": []})


@pytest.fixture
async def surreal(tmp_path: Path) -> AsyncIterator[Surreal]:
    surreal = opened(tmp_path)
    yield surreal
    await surreal.close()


class TestEmbedded:
    async def test_answers_every_statement(self, surreal):
        assert await surreal.query("RETURN 1; RETURN 2") == [1, 2]

    async def test_keeps_types(self, surreal):
        at = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)

        found = await surreal.query("RETURN [$at, $raw, $none]", at=at, raw=b"\x00\xff", none=None)

        assert found == [[at, b"\x00\xff", None]]

    async def test_raises_for_the_error_of_a_later_statement(self, surreal):
        with pytest.raises(SurrealError, match="boom"):
            await surreal.query("CREATE b:1; THROW 'boom'")

    async def test_names_the_statement_that_broke_a_transaction(self, surreal):
        with pytest.raises(SurrealError, match="boom"):
            await surreal.query("BEGIN; CREATE c:1; THROW 'boom'; COMMIT")

        assert await surreal.query("SELECT * FROM c") == [[]]

    async def test_raises_for_a_text_that_is_no_query(self, surreal):
        with pytest.raises(SurrealError, match="Parse error"):
            await surreal.query("SELECT * FORM nothing")

    async def test_loses_no_write_to_another(self, surreal):
        text = "UPSERT counter:1 SET n += 1"

        await asyncio.gather(*(surreal.query(text) for _ in range(50)))

        assert await surreal.query("SELECT VALUE n FROM counter") == [[50]]

    async def test_gives_up_a_query_at_its_deadline(self, tmp_path):
        surreal = opened(tmp_path, SURREALDB_TIMEOUT_S="0.05")

        with pytest.raises(SurrealDown, match="too long"):
            await surreal.query("SLEEP 30s")

        await surreal.ping()
        await surreal.close()

    async def test_keeps_what_was_written(self, tmp_path):
        first = opened(tmp_path)
        await first.query("CREATE note:1 SET text = 'kept'")
        await first.close()
        second = opened(tmp_path)

        [[row]] = await second.query("SELECT * FROM note")

        assert row["text"] == "kept"
        await second.close()

    async def test_refuses_a_second_owner(self, surreal, tmp_path):
        await surreal.ping()
        intruder = opened(tmp_path)

        with pytest.raises(SurrealLocked, match="another process"):
            await intruder.ping()

        await intruder.close()

    async def test_reports_a_folder_that_cannot_be_used(self, tmp_path):
        (tmp_path / "surreal").write_text("not a folder")
        surreal = opened(tmp_path)

        with pytest.raises(SurrealDown, match="does not open"):
            await surreal.ping()

        await surreal.close()

    @pytest.mark.slow
    async def test_waits_for_another_process_and_finds_its_rows_after_kill_9(self, tmp_path):
        surreal = opened(tmp_path)
        async with another_owner(tmp_path):
            with pytest.raises(SurrealLocked):
                await surreal.ping()

        rows = await answered(surreal, "SELECT VALUE text FROM note")

        assert rows == [["kept"]]
        await surreal.close()


@asynccontextmanager
async def another_owner(data_dir: Path) -> AsyncIterator[None]:
    """Let another process hold the engine, then kill it without a warning."""
    owner = await asyncio.create_subprocess_exec(
        sys.executable, "-c", OWNER, str(data_dir), stdout=asyncio.subprocess.PIPE
    )
    try:
        async with asyncio.timeout(DEADLINE_S):
            assert await owner.stdout.readline() == b"holding\n"
        yield
    finally:
        owner.kill()
        await owner.wait()


async def answered(surreal: Surreal, text: str) -> list[Any]:
    """Ask until SurrealDB is there."""

    async def ask() -> list[Any] | None:
        with suppress(SurrealDown):
            return await surreal.query(text)
        return None

    return await until(ask)
