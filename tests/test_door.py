"""The door: what happens to every request, whatever is behind it."""

import io
import json
import re

import pytest
import pytest_asyncio

from app.kernel import log
from tests.house import AUTHORIZED, open_house, prepare
from tests.waiting import until

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def client(tmp_path_factory):
    """One house for all tests of this file."""
    data = prepare(tmp_path_factory.mktemp("house") / "data")
    async with open_house(data, APP_BODY_LIMIT_BYTES="2048", LOG_LEVEL="info") as (house, client):
        client.headers.update(AUTHORIZED)
        client.house = house
        yield client


ECHO = {"model": "dev/echo", "messages": [{"role": "user", "content": "a secret plan"}]}


class TestRequestId:
    async def test_is_made_where_none_is_given(self, client):
        first = await client.get("/health")
        second = await client.get("/health")

        ids = {first.headers["x-request-id"], second.headers["x-request-id"]}
        assert len(ids) == 2
        assert all(re.fullmatch(r"[0-9a-f]{32}", one) for one in ids)

    async def test_of_the_caller_is_kept_and_stands_in_errors(self, client):
        headers = {"x-request-id": "trace-1.2_3"}

        answer = await client.get("/nothing", headers=headers)

        assert answer.headers["x-request-id"] == "trace-1.2_3"
        assert answer.json()["request_id"] == "trace-1.2_3"

    @pytest.mark.parametrize("odd", ["two words", "x" * 65, '"quoted"', ""])
    async def test_that_is_odd_is_replaced(self, client, odd):
        answer = await client.get("/health", headers={"x-request-id": odd})

        assert re.fullmatch(r"[0-9a-f]{32}", answer.headers["x-request-id"])


class TestBodyLimit:
    async def test_a_large_body_is_refused_with_a_problem_that_names_the_limit(self, client):
        answer = await client.post("/api/v1/auth/login", content=b"x" * 2049)

        assert answer.status_code == 413
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.json()["type"] == "urn:problem:body-too-large"
        assert "2048 bytes" in answer.json()["detail"]

    async def test_a_body_that_does_not_say_how_large_it_is_is_cut_off(self, client):
        async def endless():
            for _ in range(100):
                yield b" " * 1000

        answer = await client.post("/api/v1/auth/login", content=endless())

        assert answer.status_code == 413

    async def test_who_is_refused_before_the_body_is_read_is_told_that_the_connection_ends(
        self, client
    ):
        unread = await client.post("/api/v1/auth/login", content=b"x" * 100_000)
        read = await client.post("/api/v1/auth/login", content=b"x" * 1000)

        assert unread.headers["connection"] == "close"
        assert "connection" not in read.headers

    async def test_the_gateway_has_a_limit_of_its_own(self, client):
        long = {**ECHO, "padding": "x" * 10_000}

        answer = await client.post("/v1/chat/completions", json=long)

        assert answer.status_code == 200


class TestErrors:
    @pytest.mark.parametrize(
        ("method", "path", "status", "kind"),
        [
            ("GET", "/nothing", 404, "not-found"),
            ("DELETE", "/health", 405, "method-not-allowed"),
            ("POST", "/api/v1/auth/login", 400, "bad-request"),
        ],
    )
    async def test_are_problem_documents(self, client, method, path, status, kind):
        answer = await client.request(method, path, json={} if method == "POST" else None)

        problem = answer.json()
        assert answer.headers["content-type"] == "application/problem+json"
        assert (problem["status"], problem["type"]) == (status, f"urn:problem:{kind}")

    async def test_a_bug_tells_the_caller_nothing_but_the_request_id(self, client, monkeypatch):
        registry = next(m for m in client.house.block.modules if m.name == "routing").registry

        def broken(_: str) -> None:
            raise RuntimeError("password=hunter2")

        monkeypatch.setattr(registry, "find", broken)
        answer = await client.post("/v1/chat/completions", json=ECHO)

        assert answer.status_code == 500
        assert answer.json()["error"]["request_id"] == answer.headers["x-request-id"]
        assert "hunter2" not in answer.text


class TestBrowsers:
    async def test_a_call_from_a_page_is_answered_with_cors_and_counted_likewise(self, client):
        origin = {"origin": "http://localhost:1420"}

        before = (await client.get("/api/v1/usage")).json()["items"]

        answer = await client.post("/v1/chat/completions", json=ECHO, headers=origin)

        rows = (await client.get("/api/v1/usage")).json()["items"]
        assert answer.headers["access-control-allow-origin"] == origin["origin"]
        assert [row["id"] for row in rows if row not in before] == [answer.headers["x-call-id"]]


class TestAccessLog:
    async def test_has_a_line_a_request_and_neither_query_nor_body_nor_key(
        self, tmp_path, monkeypatch
    ):
        written = io.StringIO()
        monkeypatch.setattr(log.configure, "__defaults__", (written,))

        async with open_house(prepare(tmp_path / "data"), LOG_LEVEL="info") as (_, client):
            await client.get("/health?token=in-the-query")
            await client.post("/v1/chat/completions", json=ECHO, headers=AUTHORIZED)
            await until(lambda: written.getvalue().count("http.request-finished") == 2)

        lines = [json.loads(line) for line in written.getvalue().splitlines()]
        finished = [line for line in lines if line["event"] == "http.request-finished"]
        assert [(line["path"], line["status"]) for line in finished] == [
            ("/health", 200),
            ("/v1/chat/completions", 200),
        ]
        assert all(line["ms"] >= 0 and line["request_id"] for line in finished)
        for secret in ("in-the-query", "a secret plan", AUTHORIZED["authorization"][7:]):
            assert secret not in written.getvalue()
