"""The house as a whole: modules off, names, public routes, refusals at the start."""

import subprocess
import sys
from pathlib import Path

import httpx
import pytest
import pytest_asyncio

from app.asgi import MODULES, Insula
from app.kernel.db import Table
from app.kernel.module import Kit, Module, MountError
from app.kernel.settings import SettingsError
from app.schema import head
from tests.house import AUTHORIZED, LEAN, environment, open_house, prepare
from tests.route_matrix import DESTINATION, matrix, page

ROOT = Path(__file__).parents[1]
PUBLIC = {
    "GET /docs",
    "GET /docs/openapi.json",
    "GET /docs/{path:str}",
    "GET /docs/assets/{name:str}",
    "GET /health",
    "GET /health/live",
    "GET /health/ready",
    "GET /api/v1/health",
    "POST /api/v1/auth/register",
    "POST /api/v1/auth/login",
    "POST /api/v1/auth/prelogin",
    "POST /api/v1/auth/refresh",
    "GET /sandbox/health",
    "GET /spine/health",
    "GET /spine/api/v1/health",
}
EACH = """
import sys
from app.__main__ import main
for line in sys.argv[1:]:
    try:
        main(line.split())
    except SystemExit as end:
        print(end, file=sys.stderr)
"""
NEEDS = {"auth": "Authenticator", "billing": "Meter", "runs": "Runs"}


class TestModules:
    @pytest.mark.parametrize("kind", MODULES, ids=lambda kind: kind.name)
    async def test_one_off_alone_boots_or_says_what_is_missed(self, kind, tmp_path):
        flag = {"FEATURE_SANDBOX": "on", "FEATURE_FLOWS": "on"}
        flag[f"FEATURE_{kind.name.upper()}"] = "off"
        data = prepare(tmp_path / "data")

        if kind.name in NEEDS:
            with pytest.raises(MountError, match=NEEDS[kind.name]):
                Insula(environment(data, **flag))
            return
        async with open_house(data, **flag) as (house, client):
            assert kind.name not in {module.name for module in house.block.modules}
            health = await client.get("/health")
            assert health.status_code == (404 if kind.name == "health" else 200)
            for route in kind.routes:
                paths = getattr(route, "paths", None)
                path = next(iter(paths)) if isinstance(paths, set) else route.path
                # A controller without a path of its own has those of its handlers.
                answer = await client.get(path if isinstance(path, str) else "/health")
                assert answer.status_code == 404, path

    def test_a_flag_that_is_neither_on_nor_off_stops_the_start(self, tmp_path):
        with pytest.raises(SettingsError, match="FEATURE_ROUTING is on or off, not 'maybe'"):
            Insula(environment(tmp_path, FEATURE_ROUTING="maybe"))

    def test_a_missing_export_stops_the_start_and_is_named(self, tmp_path):
        house = Insula(environment(tmp_path))

        class Wanted: ...

        class Greedy(Module):
            name = "greedy"

            def __init__(self, settings, kit: Kit) -> None:
                kit.use(Wanted)

        with pytest.raises(MountError, match="no enabled module exports Wanted"):
            Greedy(None, house.kit)

    @pytest.mark.parametrize("kind", MODULES, ids=lambda kind: kind.name)
    def test_its_tables_and_jobs_carry_its_name(self, kind, tmp_path):
        tables = [table.__tablename__ for table in kind.models]

        assert all(name.startswith(f"{kind.name}_") for name in tables)

    @pytest.mark.parametrize("kind", MODULES, ids=lambda kind: kind.name)
    def test_its_docstring_says_what_it_is_for(self, kind):
        first = (sys.modules[kind.__module__].__doc__ or "").splitlines()[0]

        assert first.startswith(f"{kind.name.capitalize()}: ")

    def test_every_table_belongs_to_a_module_or_the_kernel(self):
        owned = {table.__tablename__ for kind in MODULES for table in kind.models}
        declared = {mapper.local_table.name for mapper in Table.registry.mappers}

        assert {name for name in declared - owned if not name.startswith("kernel_")} == set()


class TestRoutes:
    async def test_the_matrix_of_routes_and_callers_is_as_documented(self):
        table = await matrix()

        assert page(table) == DESTINATION.read_text(), "run `just fix` and read the difference"
        assert {f"{m} {p}" for (m, p), row in table.items() if row["no key"] != 401} == PUBLIC


class TestStart:
    @pytest.mark.parametrize(
        ("changes", "text"),
        [
            ({"APP_WORKERS": "2"}, "APP_WORKERS above 1 needs DATABASE_URL"),
            ({"APP_PORT": "http"}, "APP_PORT"),
            ({"APP_PORT": "0"}, "APP_PORT"),
            ({"APP_SECRET": "short"}, "APP_SECRET needs 32 characters"),
            ({"DATABASE_URL": "mysql://x", "APP_SECRET": "x" * 32}, "DATABASE_URL must begin"),
            ({"DATABASE_URL": "postgresql://x/y"}, "APP_SECRET is required"),
            ({"EXTERNAL_ACME_KEY": "k"}, "EXTERNAL_ACME_KEY needs ACME_BASE_URL"),
            ({"LLMD_ENDPOINT": "nonsense"}, "LLMD_ENDPOINT: 'nonsense' is not"),
            ({"APP_BOOTSTRAP_KEY": "short"}, "APP_BOOTSTRAP_KEY"),
            ({"AUTH_ANONYMOUS": "on", "APP_HOST": "0.0.0.0"}, "AUTH_ANONYMOUS"),
        ],
    )
    def test_a_wrong_setting_is_named(self, tmp_path, changes, text):
        with pytest.raises(SettingsError, match=text):
            Insula(environment(tmp_path, **changes))

    async def test_the_second_server_on_one_folder_is_refused(self, tmp_path):
        data = prepare(tmp_path / "data")

        async with open_house(data):
            with pytest.raises(MountError, match="another Insula is running"):
                async with open_house(data):
                    pass

    async def test_the_database_can_lie_elsewhere(self, tmp_path):
        path = tmp_path / "elsewhere" / "models.db"

        async with open_house(tmp_path / "data", SQLITE_DB_PATH=str(path)) as (_, client):
            answer = await client.get("/v1/models", headers=AUTHORIZED)

        assert answer.status_code == 200
        assert path.stat().st_size > 0
        assert not (tmp_path / "data" / "insula.db").exists()

    async def test_an_empty_folder_becomes_an_installation(self, tmp_path):
        async with open_house(tmp_path / "new" / "data") as (_, client):
            answer = await client.get("/v1/models", headers=AUTHORIZED)

        assert answer.status_code == 200
        assert [model["id"] for model in answer.json()["data"]] == ["dev/echo"]
        assert (tmp_path / "new/data/secret").stat().st_mode & 0o777 == 0o600

    async def test_an_old_schema_on_postgres_is_refused_with_the_command(
        self, postgres_url, tmp_path
    ):
        secret = {"DATABASE_URL": postgres_url, "APP_SECRET": "x" * 40}

        with pytest.raises(MountError, match="run `insula migrate` first"):
            async with open_house(tmp_path, **secret):
                pass


@pytest.mark.slow
class TestCommandLine:
    def run(self, data: Path, *words: str, **changes: str) -> subprocess.CompletedProcess[str]:
        return self.process(data, ["-m", "app", *words], changes)

    def run_each(self, data: Path, *lines: str, **changes: str) -> subprocess.CompletedProcess[str]:
        """Run several commands in one process: to start it takes longer than they do."""
        return self.process(data, ["-c", EACH, *lines], changes)

    def process(
        self, data: Path, words: list[str], changes: dict[str, str]
    ) -> subprocess.CompletedProcess[str]:
        environ = {"PATH": "/usr/bin:/bin"} | environment(data, **changes)
        return subprocess.run(
            [sys.executable, *words],
            env=environ,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def test_a_wrong_setting_ends_with_one_line(self, tmp_path):
        ended = self.run(tmp_path, APP_PORT="many")

        assert ended.returncode == 1
        assert ended.stderr.startswith("insula: Expected `int`")
        assert "$.APP_PORT" in ended.stderr
        assert "Traceback" not in ended.stderr

    def test_a_taken_port_ends_with_one_line(self, tmp_path):
        import socket

        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            ended = self.run(tmp_path, APP_PORT=str(taken.getsockname()[1]))

        assert ended.returncode == 1
        assert "set APP_HOST or APP_PORT" in ended.stderr

    def test_models_are_added_listed_and_imported(self, tmp_path):
        data = prepare(tmp_path / "data")
        listed = tmp_path / "prices.yaml"
        listed.write_text(
            "version: '1'\ncurrency: EUR\nmodels:\n"
            "  - {upstream: acme, model: big, input: '1', output: '2'}\n"
        )

        ended = self.run_each(
            data,
            "models add fast --upstream openai --model gpt-4o",
            f"models import {listed}",
            "models list",
        )

        added, brought, *shown = ended.stdout.splitlines()
        assert added == "fast is gpt-4o at openai"
        assert brought == "1 models and prices imported"
        assert "fast\topenai\tgpt-4o\tmanual" in shown
        assert "big\tacme\tbig\tmanual" in shown

    def test_a_price_file_that_is_none_is_refused(self, tmp_path):
        ended = self.run(prepare(tmp_path / "data"), "models", "import", str(tmp_path / "no.yaml"))

        assert ended.returncode == 1
        assert "no.yaml" in ended.stderr

    def test_check_says_that_the_installation_would_start(self, tmp_path):
        ended = self.run(prepare(tmp_path / "data"), "check")

        assert ended.stdout.splitlines()[-1] == "ready"
        assert "database: ok" in ended.stdout

    def test_migrate_moves_down_and_up(self, tmp_path):
        data = prepare(tmp_path / "data")

        ended = self.run_each(data, "migrate --to base", "migrate")

        down, up = ended.stdout.splitlines()
        assert down == "database at revision base"
        assert up == f"database at revision {head()}"

    def test_a_rotated_secret_keeps_the_old_one(self, tmp_path):
        data = prepare(tmp_path / "data")
        (data / "secret").write_text("former" * 8)

        ended = self.run(data, "secret", "rotate")

        new, *others = (data / "secret").read_text().split()
        assert ended.returncode == 0
        assert others == ["former" * 8]
        assert new not in others


class TestDocuments:
    def test_the_generated_parts_are_as_generated(self):
        ended = subprocess.run(
            [sys.executable, "scripts/documents.py"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )

        assert ended.returncode == 0, ended.stderr

    def test_the_house_keeps_its_numbers(self):
        sizes = {path: len(path.read_text().splitlines()) for path in (ROOT / "src").rglob("*.py")}

        assert {path: size for path, size in sizes.items() if size > 400} == {}
        assert len(list((ROOT / "src/app/kernel").glob("[a-z]*.py"))) <= 10


@pytest_asyncio.fixture(scope="class", loop_scope="class")
async def door(tmp_path_factory):
    """A client of a house that is only asked who may read it."""
    async with open_house(prepare(tmp_path_factory.mktemp("door") / "data"), **LEAN) as (_, client):
        yield client


@pytest.mark.asyncio(loop_scope="class")
class TestCors:
    @pytest.mark.parametrize(
        "origin", ["app://insula", "http://localhost:1420", "http://127.0.0.1:3001"]
    )
    async def test_lets_the_origins_of_the_contracts_in(self, door, origin):
        answer = await preflight(door, origin)

        assert answer.headers["access-control-allow-origin"] == origin
        assert answer.headers["access-control-allow-credentials"] == "true"

    @pytest.mark.parametrize("origin", ["https://evil.example", "http://localhost.evil.example:80"])
    async def test_keeps_every_other_origin_out(self, door, origin):
        answer = await preflight(door, origin)

        assert "access-control-allow-origin" not in answer.headers


class TestCorsSetting:
    async def test_another_list_replaces_the_default(self, tmp_path):
        origins = {"CORS_ORIGINS": "https://app.example"}

        async with open_house(prepare(tmp_path / "data"), **origins) as (_, client):
            mine = await preflight(client, "https://app.example")
            former = await preflight(client, "http://localhost:1420")

        assert mine.headers["access-control-allow-origin"] == "https://app.example"
        assert "access-control-allow-origin" not in former.headers


async def preflight(client: httpx.AsyncClient, origin: str) -> httpx.Response:
    headers = {"origin": origin, "access-control-request-method": "POST"}
    return await client.options("/v1/chat/completions", headers=headers)


@pytest.mark.slow
class TestUnreachable:
    def test_a_database_that_is_not_there_is_one_line(self, tmp_path):
        variables = {
            "DATABASE_URL": "postgresql://nobody:hunter2@127.0.0.1:9/none",
            "APP_SECRET": "x" * 40,
        }

        ended = TestCommandLine().run_each(tmp_path, "migrate", "check", **variables)

        for line in ended.stderr.splitlines():
            assert line.startswith("insula: ")
            assert "no connection to the database" in line
            assert "hunter2" not in line
        assert len(ended.stderr.splitlines()) == 2

    def test_a_data_folder_that_cannot_be_made_is_one_line(self, tmp_path):
        (tmp_path / "file").write_text("")

        ended = TestCommandLine().run(tmp_path / "file" / "data", "check")

        assert ended.returncode == 1
        assert ended.stderr.startswith("insula: ")
        assert "Traceback" not in ended.stderr
