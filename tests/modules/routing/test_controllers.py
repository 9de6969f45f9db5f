"""``/v1`` over HTTP, against a real server that behaves in every way it can."""

import json

import pytest
import pytest_asyncio

from app.modules.billing.adapters.journal import JournalFull
from tests.house import AUTHORIZED, LEAN, open_house, prepare
from tests.modules.routing.asking import body, new_user, tidy, usages
from tests.scripted_upstream import scripted_upstream

pytestmark = pytest.mark.asyncio(loop_scope="module")

DEEP = b'{"model":"good","x":' + b"[" * 10_000 + b"]" * 10_000 + b"}"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def one_server():
    async with scripted_upstream() as played:
        yield played


@pytest_asyncio.fixture(loop_scope="module")
async def server(one_server):
    """Nobody has asked it anything yet."""
    await one_server.tidy()
    return one_server


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def one_client(tmp_path_factory, one_server):
    variables = {
        "EXTERNAL_MOCK_KEY": "sk-upstream-secret",
        "MOCK_BASE_URL": one_server.base_url,
        "ROUTING_FIRST_BYTE_TIMEOUT_S": "0.4",
        "ROUTING_IDLE_TIMEOUT_S": "0.4",
        "ROUTING_RETRIES": "0",
        "ROUTING_ANSWER_LIMIT_BYTES": "1000000",
        "ROUTING_BODY_LIMIT_BYTES": "200000",
        **LEAN,
    }
    data = prepare(tmp_path_factory.mktemp("house") / "data")
    async with open_house(data, **variables) as (house, client):
        client.house = house
        yield client


@pytest_asyncio.fixture(loop_scope="module")
async def client(one_client, server):
    """The owner of a house that all tests share, and that nobody has asked yet."""
    await tidy(one_client)
    return one_client


class TestChat:
    async def test_passes_bytes_on_in_both_directions(self, client, server):
        sent = b'{ "model":"good","messages":["x"], "odd":1.10,\n"unknown":{"a":[null]} }'

        answer = await client.post("/v1/chat/completions", content=sent)

        assert answer.status_code == 200
        assert server.bodies == [sent]
        assert server.authorizations == ["Bearer sk-upstream-secret"]
        assert answer.json()["choices"][0]["message"]["content"] == "hello"

    async def test_leaves_one_row_that_the_answer_names(self, client):
        answer = await client.post("/v1/chat/completions", json=body())

        (row,) = await usages(client)
        assert row["id"] == answer.headers["x-call-id"]
        assert row["request_id"] == answer.headers["x-request-id"]
        assert (row["model"], row["upstream"], row["surface"]) == (
            "good",
            "mock",
            "chat/completions",
        )
        assert (row["outcome"], row["input_tokens"], row["output_tokens"]) == ("completed", 7, 5)
        assert row["cost_nanos"] is None

    async def test_a_name_with_its_upstream_is_the_upstreams_own_name_there(self, client, server):
        answer = await client.post("/v1/chat/completions", json=body("mock/good"))

        assert answer.status_code == 200
        assert json.loads(server.bodies[0])["model"] == "good"

    async def test_streams_events_as_they_are(self, client):
        answer = await client.post("/v1/chat/completions", json=body(stream=True))

        assert answer.headers["content-type"].startswith("text/event-stream")
        assert answer.text.endswith("data: [DONE]\n\n")
        assert answer.text.count("data: ") == 3

    async def test_counts_a_stream_whose_caller_does_not_ask_and_shows_them_nothing(
        self, client, server
    ):
        answer = await client.post("/v1/chat/completions", json=body(stream=True))

        assert b'"include_usage":true' in server.bodies[0]
        assert "usage" not in answer.text
        (row,) = await usages(client)
        assert (row["is_streamed"], row["outcome"]) == (True, "completed")
        assert (row["input_tokens"], row["output_tokens"], row["is_estimated"]) == (7, 5, False)

    async def test_shows_a_streams_tokens_to_who_asks_for_them(self, client):
        options = {"stream": True, "stream_options": {"include_usage": True}}

        answer = await client.post("/v1/chat/completions", json=body(**options))

        (row,) = await usages(client)
        assert '"usage"' in answer.text
        assert (row["input_tokens"], row["output_tokens"]) == (7, 5)

    @pytest.mark.parametrize("stream", [False, True])
    async def test_tokens_nobody_told_are_estimated_and_marked_so(self, client, stream):
        await client.post("/v1/chat/completions", json=body("no-usage", stream=stream))

        (row,) = await usages(client)
        assert (row["outcome"], row["is_estimated"]) == ("completed", True)
        assert row["input_tokens"] > 5
        assert row["output_tokens"] >= 1

    async def test_says_what_the_gateway_itself_took(self, client):
        answer = await client.post("/v1/chat/completions", json=body())

        assert 0 < float(answer.headers["x-overhead-ms"]) < 1000


class TestEmbeddingsAndCompletions:
    @pytest.mark.parametrize("surface", ["embeddings", "completions"])
    async def test_are_passed_on_and_counted_likewise(self, client, surface):
        answer = await client.post(f"/v1/{surface}", json={"model": "good", "input": "x"})

        assert answer.status_code == 200
        (row,) = await usages(client)
        assert (row["surface"], row["input_tokens"]) == (surface, 7)


class TestBadInput:
    @pytest.mark.parametrize(
        ("content", "status", "code"),
        [
            (b"{", 400, "bad_envelope"),
            (b"", 400, "bad_envelope"),
            (b"[]", 400, "bad_envelope"),
            (b'{"model":3}', 400, "bad_envelope"),
            (b'{"model":"good","stream":"yes"}', 400, "bad_envelope"),
            (DEEP, 400, "bad_envelope"),
            (b'{"model":"no-such-model"}', 404, "model_not_found"),
            (b"x" * 200_001, 413, "request_too_large"),
        ],
    )
    async def test_gets_a_status_and_says_what_to_do(self, client, server, content, status, code):
        answer = await client.post("/v1/chat/completions", content=content)

        error = answer.json()["error"]
        assert (answer.status_code, error["code"]) == (status, code)
        assert len(error["message"]) > 20
        assert error["request_id"] == answer.headers["x-request-id"]
        assert server.bodies == []
        assert await usages(client) == []

    async def test_a_body_that_grows_over_the_limit_is_cut_off(self, client):
        async def endless():
            for _ in range(30):
                yield b"x" * 10_000

        answer = await client.post("/v1/chat/completions", content=endless())

        assert (answer.status_code, answer.json()["error"]["code"]) == (413, "request_too_large")

    @pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
    async def test_another_method_is_405_in_openais_shape(self, client, method):
        answer = await client.request(method, "/v1/chat/completions")

        assert answer.status_code == 405
        assert answer.json()["error"]["code"] == "method_not_allowed"

    async def test_an_unknown_path_is_404_in_openais_shape(self, client):
        answer = await client.post("/v1/nothing/here", json={})

        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found")

    @pytest.mark.parametrize(
        "key", ["", "Bearer", "Bearer wrong", "Basic eDp5", "Bearer isk_a_b_c"]
    )
    async def test_a_wrong_key_is_401_in_openais_shape(self, client, server, key):
        answer = await client.post(
            "/v1/chat/completions", json=body(), headers={"authorization": key}
        )

        assert (answer.status_code, answer.json()["error"]["code"]) == (401, "invalid_api_key")
        assert answer.headers["www-authenticate"] == "Bearer"
        assert server.bodies == []


class TestFailingUpstreams:
    @pytest.mark.parametrize(
        ("model", "status", "code", "stream"),
        [
            ("dies-plain", 502, "upstream_unreachable", False),
            ("hangs", 504, "upstream_silent", False),
            ("garbage", 502, "upstream_nonsense", False),
            ("redirects", 502, "upstream_nonsense", False),
            ("huge", 502, "answer_too_large", False),
            ("error-401", 502, "upstream_refused_us", False),
            ("error-400", 400, "scripted", False),
            ("error-429", 429, "scripted", False),
            ("error-500", 500, "scripted", False),
            ("error-503-bare", 503, "upstream_failed", False),
            ("error-500", 500, "scripted", True),
            ("garbage", 502, "upstream_nonsense", True),
        ],
    )
    async def test_a_failure_before_the_first_byte_has_its_own_status(
        self, client, model, status, code, stream
    ):
        answer = await client.post("/v1/chat/completions", json=body(model, stream=stream))

        assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
        assert "sk-upstream" not in answer.text
        (row,) = await usages(client)
        assert (row["outcome"], row["status"], row["input_tokens"]) == ("failed", status, None)

    @pytest.mark.parametrize(("model", "seconds"), [("error-429", "3"), ("error-503-bare", "7")])
    async def test_a_retry_after_reaches_the_caller(self, client, model, seconds):
        answer = await client.post("/v1/chat/completions", json=body(model))

        assert answer.headers["retry-after"] == seconds

    @pytest.mark.parametrize(
        ("model", "code"),
        [
            ("dies-streaming", "upstream_unreachable"),
            ("hangs-streaming", "upstream_silent"),
            ("ends-early", "stream_broken"),
        ],
    )
    async def test_a_failure_in_a_stream_is_told_in_the_stream(self, client, model, code):
        answer = await client.post("/v1/chat/completions", json=body(model, stream=True))

        assert answer.status_code == 200
        assert "[DONE]" not in answer.text
        last = answer.text.strip().splitlines()[-1]
        assert json.loads(last.removeprefix("data: "))["error"]["code"] == code
        (row,) = await usages(client)
        assert row["outcome"] == "failed"

    async def test_an_error_the_upstream_tells_in_its_stream_is_no_success(self, client):
        answer = await client.post(
            "/v1/chat/completions", json=body("errors-in-stream", stream=True)
        )

        assert answer.text.count('"error"') == 1
        (row,) = await usages(client)
        assert row["outcome"] == "failed"

    async def test_a_bug_of_ours_is_a_failed_call_too(self, client, monkeypatch):
        upstream = next(m for m in client.house.block.modules if m.name == "routing").registry

        async def broken(*_) -> None:
            raise RuntimeError("a bug")

        await client.get("/v1/models")
        monkeypatch.setattr(upstream.find("good").targets[0].upstream, "post", broken)
        answer = await client.post("/v1/chat/completions", json=body())

        (row,) = await usages(client)
        assert (answer.status_code, row["outcome"], row["status"]) == (500, "failed", 500)

    async def test_the_next_call_is_not_harmed(self, client):
        for model in ("dies-plain", "garbage", "error-500"):
            await client.post("/v1/chat/completions", json=body(model))

        assert (await client.post("/v1/chat/completions", json=body())).status_code == 200


class TestModels:
    async def test_lists_in_openais_shape(self, client):
        listed = (await client.get("/v1/models")).json()

        card = next(card for card in listed["data"] if card["id"] == "good")
        assert listed["object"] == "list"
        assert (card["object"], card["owned_by"], card["kind"]) == ("model", "mock", "chat")
        assert card["created"] > 1_700_000_000

    async def test_reads_one_also_by_a_name_with_slashes(self, client):
        assert (await client.get("/v1/models/good")).json()["id"] == "good"
        assert (await client.get("/v1/models/mock/good")).json()["id"] == "mock/good"

    async def test_an_unknown_one_is_404(self, client):
        answer = await client.get("/v1/models/no-such-model")

        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "model_not_found")


class TestJournalFull:
    @pytest.fixture
    def full(self, client, monkeypatch):
        meter = next(m for m in client.house.block.modules if m.name == "billing").meter

        def refuse(_) -> None:
            raise JournalFull("Usage cannot be written down: the disk is full.")

        monkeypatch.setattr(meter, "settle", refuse)

    async def test_no_whole_answer_leaves_that_is_not_written_down(self, client, full):
        answer = await client.post("/v1/chat/completions", json=body())

        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "journal_full")
        assert "hello" not in answer.text

    async def test_a_stream_ends_with_the_reason_and_not_with_done(self, client, full):
        answer = await client.post("/v1/chat/completions", json=body(stream=True))

        last = answer.text.strip().splitlines()[-1]
        assert "[DONE]" not in answer.text
        assert json.loads(last.removeprefix("data: "))["error"]["code"] == "journal_full"


class TestLocalServers:
    async def test_ollama_is_found_where_its_variable_says_and_costs_nothing(
        self, tmp_path, server
    ):
        host = server.base_url.removeprefix("http://").removesuffix("/v1")
        variables = {"ROUTING_OLLAMA": "auto", "OLLAMA_HOST": host}
        async with open_house(prepare(tmp_path / "data"), **variables) as (_, client):
            client.headers.update(AUTHORIZED)
            names = [card["id"] for card in (await client.get("/v1/models")).json()["data"]]
            await client.post("/v1/chat/completions", json=body())
            (row,) = (await client.get("/api/v1/usage")).json()["items"]

        assert "good" in names
        assert "dev/echo" not in names
        assert (row["upstream"], row["cost_nanos"], row["price_version"]) == ("ollama", 0, "free")

    async def test_llmd_is_asked_without_a_key_under_its_own_names(self, tmp_path, server):
        endpoint = server.base_url.removesuffix("/v1")
        async with open_house(prepare(tmp_path / "data"), LLMD_ENDPOINT=endpoint) as (_, client):
            answer = await client.post(
                "/v1/chat/completions", json=body("llmd/good"), headers=AUTHORIZED
            )

        assert answer.status_code == 200
        assert server.authorizations == [""]
        assert json.loads(server.bodies[0])["model"] == "good"


class TestKeys:
    async def key(self, client, **more) -> dict[str, str]:
        made = await client.post("/api/v1/auth/api-keys", json={"name": "k", **more})
        assert made.status_code == 201, made.text
        return {"authorization": f"Bearer {made.json()['key']}"}

    async def test_a_key_sees_and_uses_only_the_models_it_is_made_for(self, client):
        narrow = await self.key(client, scopes=["inference"], models=["good"])

        listed = (await client.get("/v1/models", headers=narrow)).json()["data"]
        fine = await client.post("/v1/chat/completions", json=body(), headers=narrow)
        other = await client.post("/v1/chat/completions", json=body("no-usage"), headers=narrow)
        around = await client.post(
            "/v1/chat/completions", json=body("mock/no-usage"), headers=narrow
        )
        read = await client.get("/v1/models/no-usage", headers=narrow)

        assert [card["id"] for card in listed] == ["good"]
        statuses = [answer.status_code for answer in (fine, other, around, read)]
        assert statuses == [200, 404, 404, 404]

    async def test_a_key_that_only_reads_calls_no_model(self, client):
        reading = await self.key(client, scopes=["read"])

        answer = await client.post("/v1/chat/completions", json=body(), headers=reading)

        assert (answer.status_code, answer.json()["error"]["code"]) == (403, "scope_missing")

    async def test_usage_is_shown_to_its_user_only(self, client):
        await client.post("/v1/chat/completions", json=body())
        other = await new_user(client)
        assert len(await usages(client)) == 1

        answer = await client.get("/api/v1/usage", headers=other)

        assert answer.json() == {"items": [], "next": None}
