"""The gateway at work, seen from outside: in a collector's trace, and on a terminal."""

import asyncio
import re
import sys
from asyncio.subprocess import PIPE
from pathlib import Path

import httpx
import pytest
from aiohttp import web
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tests.house import AUTHORIZED, KEY, LEAN, running_server
from tests.scripted_upstream import Peer, raw_server
from tests.waiting import until

pytestmark = pytest.mark.slow
CHAT = "/v1/chat/completions"
TRACE_ID = "0af7651916cd43dd8448eb211c80319c"
PARENT_ID = "b7ad6b7169203331"
ANSWER = b'{"choices":[],"usage":{"prompt_tokens":7,"completion_tokens":5}}'


async def model_server(peer: Peer) -> None:
    """Lists one model, and has the same answer for every call."""
    asked = await peer.request()
    body = b'{"data":[{"id":"m"}]}' if asked.startswith(b"GET") else ANSWER
    await peer.send(
        b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nconnection: close\r\n"
        b"content-length: %d\r\n\r\n%b" % (len(body), body)
    )


@pytest.fixture
async def collector():
    """Keeps the spans that it is sent, and says where it is."""
    spans = []

    async def take(request: web.Request) -> web.Response:
        found = ExportTraceServiceRequest.FromString(await request.read())
        spans.extend(found.resource_spans[0].scope_spans[0].spans)
        return web.Response()

    app = web.Application()
    app.router.add_post("/v1/traces", take)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield spans, f"http://127.0.0.1:{runner.addresses[0][1]}"
    await runner.cleanup()


class TestTrace:
    async def test_leads_from_the_caller_through_the_gateway_to_the_model(
        self, tmp_path: Path, collector
    ):
        spans, url = collector
        asked = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
        headers = AUTHORIZED | {"traceparent": f"00-{TRACE_ID}-{PARENT_ID}-01"}
        async with raw_server(model_server) as upstream:
            variables = {
                "EXTERNAL_MOCK_KEY": "none",
                "MOCK_BASE_URL": upstream.base_url,
                "OTEL_EXPORTER_OTLP_ENDPOINT": url,
                "OTEL_BSP_SCHEDULE_DELAY": "50",
                **LEAN,
            }
            async with (
                running_server(tmp_path / "data", **variables) as server,
                httpx.AsyncClient(base_url=server.base_url, headers=headers) as http,
            ):
                answer = await http.post(CHAT, json=asked)
                await until(lambda: spans)

        (told,) = [r for r in upstream.requests if b"traceparent: " in r]
        _, trace_id, span_id, _ = re.search(rb"traceparent: (\S+)", told)[1].split(b"-")
        assert trace_id.decode() == spans[0].trace_id.hex() == TRACE_ID
        assert span_id.decode() == spans[0].span_id.hex()
        assert spans[0].parent_span_id.hex() == PARENT_ID
        assert {"key": "insula.call.id", "value": answer.headers["x-call-id"]} in [
            {"key": said.key, "value": said.value.string_value} for said in spans[0].attributes
        ]


class TestTop:
    async def test_shows_a_server_and_makes_no_installation_where_it_is_typed(self, tmp_path):
        elsewhere = tmp_path / "elsewhere"
        elsewhere.mkdir()
        async with running_server(tmp_path / "data", **LEAN) as server:
            words = ["top", "--once", "--url", server.base_url, "--key", KEY]
            ended = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "app", *words), cwd=elsewhere, stdout=PIPE
            )
            shown, _ = await ended.communicate()

        assert shown.startswith(b"insula top  " + server.base_url.encode())
        assert b"\x1b" not in shown
        assert list(elsewhere.iterdir()) == []
