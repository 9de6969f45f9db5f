"""Both clients against a server that does what none should. The answers are bytes on a socket."""

import logging
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

import ai_spine
from ai_spine import _http
from tests.client.callers import KEY, caller
from tests.client.plays import answer, cut, cut_in_the_middle, drip, flood, plays, silence
from tests.scripted_upstream import raw_server

GREETING = {"flow_id": "greeting", "name": "Greeting"}
STARTED = {"execution_id": "e1", "status": "pending"}


class TestRetries:
    @pytest.mark.parametrize("fault", [cut, cut_in_the_middle, answer(502), answer(503)])
    async def test_start_a_flow_once_however_often_it_is_sent(self, play, fault):
        scene = await play(fault, fault, answer(200, STARTED))

        started = await scene.call("execute_flow", "greeting", {"name": "Ada"})

        assert started == STARTED
        keys = scene.header("idempotency-key")
        assert len(keys) == 3
        assert len(set(keys)) == 1

    async def test_wait_as_long_as_the_server_says(self, play):
        scene = await play(answer(429, retry_after="7"), answer(200, {}))

        await scene.call("health_check")

        assert scene.client.pauses == [7.0]

    async def test_end_with_the_server_s_word(self, play):
        scene = await play(answer(429, {"message": "slow down"}, retry_after="2"), max_retries=1)

        with pytest.raises(ai_spine.RateLimitError, match="slow down") as raised:
            await scene.call("health_check")
        assert raised.value.retry_after == 2
        assert len(scene.server.requests) == 2

    @pytest.mark.parametrize("fault", [cut, cut_in_the_middle])
    async def test_do_not_write_twice(self, play, fault):
        scene = await play(fault, answer(201, GREETING))

        with pytest.raises(ai_spine.NetworkError, match="POST /flows"):
            await scene.call("create_flow", GREETING)
        assert len(scene.server.requests) == 1

    async def test_use_one_connection_again(self, play):
        scene = await play(answer(200, {}))

        for _ in range(3):
            await scene.call("health_check")

        assert scene.server.accepted == 1


class TestReach:
    async def test_of_nobody_is_said(self, kind):
        async with caller(kind, "http://127.0.0.1:1", max_retries=2) as client:
            with pytest.raises(ai_spine.NetworkError, match="GET /health"):
                await client.call("health_check")
            assert len(client.pauses) == 2

    async def test_of_what_is_no_server_is_said(self, play):
        scene = await play(b"SSH-2.0-OpenSSH\r\n\r\n", max_retries=0)

        with pytest.raises(ai_spine.NetworkError):
            await scene.call("health_check")


class TestTime:
    @pytest.mark.parametrize("fault", [silence, drip])
    async def test_is_kept(self, play, fault):
        scene = await play(fault, timeout=0.4, max_retries=0)

        with pytest.raises(TimeoutError, match=r"within 0\.4 s"):
            await scene.call("health_check")

    async def test_of_a_wait_bounds_each_request_in_it(self, play):
        scene = await play(silence, timeout=30)

        with pytest.raises(ai_spine.TimeoutError, match=r"not known after 0\.4 s"):
            await scene.call("wait_for_execution", "e1", timeout=0.4)


class TestSize:
    async def test_has_a_limit(self, play):
        scene = await play(flood)

        with pytest.raises(ai_spine.APIError, match="larger"):
            await scene.call("health_check")

    async def test_is_refused_when_it_is_announced(self, play):
        head = f"HTTP/1.1 200 OK\r\ncontent-length: {_http.ANSWER_MAX_BYTES + 1}\r\n\r\n"
        scene = await play(head.encode())

        with pytest.raises(ai_spine.APIError, match="larger"):
            await scene.call("health_check")

    async def test_of_what_is_packed_small_is_not_trusted(self, play):
        scene = await play(answer(200, b"no gzip", content_encoding="gzip"), max_retries=0)

        with pytest.raises(ai_spine.NetworkError):
            await scene.call("health_check")
        assert scene.header("accept-encoding") == ["identity"]


class TestKey:
    async def test_goes_to_the_server(self, play):
        scene = await play(answer(200, {}))

        await scene.call("health_check")

        assert scene.header("authorization") == [f"bearer {KEY}".lower()]

    async def test_is_left_out_when_there_is_none(self, play):
        scene = await play(answer(200, {}), api_key=None)

        await scene.call("health_check")

        assert scene.header("authorization") == [""]

    async def test_does_not_follow_a_redirect(self, play):
        elsewhere = await play(answer(200, {}))
        away = f"http://127.0.0.1:{elsewhere.server.port}/health"
        scene = await play(answer(307, b"", location=away))

        with pytest.raises(ai_spine.APIError, match="redirects are not followed"):
            await scene.call("health_check")
        assert elsewhere.server.requests == []

    async def test_is_in_no_log_and_no_error(self, play, caplog):
        caplog.set_level(logging.DEBUG)
        scene = await play(
            cut, answer(401, {"message": f"unknown key {KEY}"}), debug=True, max_retries=1
        )

        with pytest.raises(ai_spine.AuthenticationError) as raised:
            await scene.call("execute_flow", "greeting", {"secret": KEY})

        lines = [r.getMessage() for r in caplog.records if r.name == "ai_spine"]
        assert len(lines) == 2
        assert lines[1].startswith("POST /flows/execute: 401, ")
        assert KEY not in caplog.text
        assert KEY not in f"{raised.value!r} {raised.value.details}"


class TestNames:
    async def test_say_who_calls(self, play):
        scene = await play(answer(200, {}))

        await scene.call("health_check")

        assert scene.header("user-agent") == [f"ai-spine-sdk-python/{ai_spine.__version__}"]
        assert scene.header("accept") == ["application/json"]
        assert scene.header("content-type") == [""]

    async def test_begin_with_the_path_of_the_address(self, kind):
        async with (
            raw_server(plays(answer(200, {}))) as server,
            caller(kind, f"http://127.0.0.1:{server.port}/spine/") as client,
        ):
            await client.call("get_current_user")

        assert server.requests[0].startswith(b"GET /spine/api/v1/users/me HTTP/1.1\r\n")


class TestClose:
    async def test_ends_the_connections(self, play):
        scene = await play(answer(200, {}))
        await scene.call("health_check")

        await scene.client.close()

        with pytest.raises(RuntimeError, match="closed"):
            await scene.call("health_check")


class TestThreads:
    def test_may_share_a_client(self):
        def serve(request: httpx.Request) -> httpx.Response:
            return httpx.Response(200, json={"flow_id": request.url.path.rpartition("/")[2]})

        names = [f"flow-{number}" for number in range(200)]
        with (
            ai_spine.AISpine(
                KEY, "http://spine.test", transport=httpx.MockTransport(serve)
            ) as client,
            ThreadPoolExecutor(8) as threads,
        ):
            found = list(threads.map(client.get_flow, names))

        assert [flow["flow_id"] for flow in found] == names
