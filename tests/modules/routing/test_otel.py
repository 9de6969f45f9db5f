"""What a collector hears of model calls, in both versions of the conventions."""

import asyncio
import subprocess
import sys

import pytest
from aiohttp import web
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode, format_span_id, format_trace_id

from app.kernel.db import uuid7
from app.kernel.settings import SettingsError
from app.modules.billing.api import Usage
from app.modules.routing.adapters.otel import (
    CLOSE_S,
    V1_36,
    V1_41,
    GenAiTelemetry,
    Names,
    names_of,
    open_telemetry,
)
from tests.house import free_port
from tests.scripted_upstream import Peer, raw_server

TRACE_ID = "0af7651916cd43dd8448eb211c80319c"
PARENT_ID = "b7ad6b7169203331"
CALLER = (b"traceparent", f"00-{TRACE_ID}-{PARENT_ID}-01".encode())
SECONDS = [0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92]
TOKENS = [4**step for step in range(14)]


def usage(**changes) -> Usage:
    values = {
        "id": uuid7(),
        "user_id": uuid7(),
        "credential_id": uuid7(),
        "request_id": "request-of-somebody",
        "model": "fast",
        "upstream": "xai",
        "upstream_model": "grok",
        "surface": "chat/completions",
        "is_streamed": True,
        "outcome": "completed",
        "status": 200,
        "started_at_ms": 1_700_000_000_000,
        "duration_ms": 2_500,
        "first_byte_ms": 300,
        "input_tokens": 40,
        "output_tokens": 8,
        "cached_tokens": 30,
        "cache_write_tokens": 5,
        "reasoning_tokens": 2,
    }
    return Usage(**(values | changes))


class Heard:
    """A telemetry whose collector is this process."""

    def __init__(self, names: Names) -> None:
        self._spans = InMemorySpanExporter()
        self._metrics = InMemoryMetricReader()
        self.telemetry = GenAiTelemetry(self._spans, self._metrics, names, version="1.2.3")

    async def spans(self) -> list:
        await self.telemetry.close()
        return list(self._spans.get_finished_spans())

    async def points(self) -> dict[str, list]:
        """The points of every metric, after the round of the loop in which they are measured."""
        await asyncio.sleep(0)
        data = self._metrics.get_metrics_data()
        found = data.resource_metrics[0].scope_metrics[0].metrics if data else []
        return {metric.name: list(metric.data.data_points) for metric in found}


@pytest.fixture
async def heard():
    heard = Heard(V1_36)
    yield heard
    await heard.telemetry.close()


@pytest.fixture
async def latest():
    latest = Heard(V1_41)
    yield latest
    await latest.telemetry.close()


def parts(told) -> list[str]:
    """Version, trace, span and flags of the ``traceparent`` among headers."""
    return dict(told)["traceparent"].split("-")


class TestBegin:
    async def test_goes_on_with_the_callers_trace_under_an_id_of_its_own(self, heard):
        version, trace_id, span_id, flags = parts(heard.telemetry.begin([(b"host", b"x"), CALLER]))

        assert (version, trace_id, flags) == ("00", TRACE_ID, "01")
        assert span_id != PARENT_ID

    @pytest.mark.parametrize(
        "headers",
        [
            [],
            [(b"traceparent", b"nonsense")],
            [(b"traceparent", f"00-{'0' * 32}-{PARENT_ID}-01".encode())],
            [(b"traceparent", f"ff-{TRACE_ID}-{PARENT_ID}-01".encode())],
            [(b"traceparent", b"00-\xff")],
        ],
    )
    async def test_begins_a_trace_where_none_is_named(self, heard, headers):
        told = heard.telemetry.begin(headers)

        assert list(dict(told)) == ["traceparent"]
        assert parts(told)[1] not in {TRACE_ID, "0" * 32}
        assert int(parts(told)[3], 16) & 1

    async def test_hands_the_trace_state_on(self, heard):
        told = heard.telemetry.begin([CALLER, (b"tracestate", b"a=1"), (b"tracestate", b"b=2")])

        assert dict(told)["tracestate"] == "a=1,b=2"

    async def test_records_nothing_of_a_trace_that_is_not_sampled(self, heard):
        told = heard.telemetry.begin([(b"traceparent", CALLER[1][:-2] + b"00")])
        heard.telemetry.note(usage())

        assert parts(told)[3] == "00"
        assert await heard.spans() == []

    async def test_tells_upstreams_what_the_operators_sampler_says(self, monkeypatch):
        monkeypatch.setenv("OTEL_TRACES_SAMPLER", "always_off")
        heard = Heard(V1_36)

        told = heard.telemetry.begin([])
        heard.telemetry.note(usage())

        assert not int(parts(told)[3], 16) & 1
        assert await heard.spans() == []


class TestTrace:
    async def test_the_span_is_the_one_that_upstreams_were_told_of(self, heard):
        told = heard.telemetry.begin([CALLER])
        heard.telemetry.note(usage())

        (span,) = await heard.spans()
        assert format_span_id(span.context.span_id) == parts(told)[2]
        assert format_trace_id(span.context.trace_id) == TRACE_ID
        assert format_span_id(span.parent.span_id) == PARENT_ID

    async def test_a_call_in_a_task_of_its_own_is_in_the_trace(self, heard):
        async def call() -> None:
            heard.telemetry.note(usage())

        told = heard.telemetry.begin([CALLER])
        await asyncio.create_task(call())

        (span,) = await heard.spans()
        assert format_span_id(span.context.span_id) == parts(told)[2]

    async def test_a_second_call_of_a_request_is_a_span_beside_the_first(self, heard):
        heard.telemetry.begin([CALLER])
        heard.telemetry.note(usage())
        heard.telemetry.note(usage())

        one, other = await heard.spans()
        assert one.context.span_id != other.context.span_id
        assert {format_span_id(span.parent.span_id) for span in (one, other)} == {PARENT_ID}

    async def test_calls_at_the_same_time_do_not_mix(self, heard):
        async def call(number: int) -> str:
            told = heard.telemetry.begin([])
            await asyncio.sleep(0)
            heard.telemetry.note(usage(model=f"m{number}"))
            return parts(told)[2]

        told = await asyncio.gather(*(call(number) for number in range(8)))

        found = {s.name: format_span_id(s.context.span_id) for s in await heard.spans()}
        assert found == {f"chat m{number}": told[number] for number in range(8)}

    async def test_a_call_that_no_request_began_is_a_trace_of_its_own(self, heard):
        heard.telemetry.note(usage())

        (span,) = await heard.spans()
        assert span.parent is None


class TestSpan:
    async def test_is_a_client_span_with_the_times_of_the_row(self, heard):
        heard.telemetry.note(usage())

        (span,) = await heard.spans()
        assert (span.name, span.kind) == ("chat fast", SpanKind.CLIENT)
        assert span.start_time == 1_700_000_000_000_000_000
        assert span.end_time - span.start_time == 2_500_000_000
        assert span.status.status_code is StatusCode.UNSET
        assert list(span.events) == []

    async def test_says_what_the_conventions_had_in_1_36(self, heard):
        row = usage()

        heard.telemetry.note(row)

        (span,) = await heard.spans()
        assert dict(span.attributes) == {
            "gen_ai.operation.name": "chat",
            "gen_ai.system": "xai",
            "gen_ai.request.model": "fast",
            "gen_ai.response.model": "grok",
            "gen_ai.usage.input_tokens": 40,
            "gen_ai.usage.output_tokens": 8,
            "insula.call.id": str(row.id),
        }
        assert span.instrumentation_scope.schema_url == "https://opentelemetry.io/schemas/1.36.0"

    async def test_says_what_they_have_now(self, latest):
        row = usage()

        latest.telemetry.note(row)

        (span,) = await latest.spans()
        assert dict(span.attributes) == {
            "gen_ai.operation.name": "chat",
            "gen_ai.provider.name": "x_ai",
            "gen_ai.request.model": "fast",
            "gen_ai.request.stream": True,
            "gen_ai.response.model": "grok",
            "gen_ai.response.time_to_first_chunk": 0.3,
            "gen_ai.usage.input_tokens": 40,
            "gen_ai.usage.output_tokens": 8,
            "gen_ai.usage.cache_read.input_tokens": 30,
            "gen_ai.usage.cache_creation.input_tokens": 5,
            "gen_ai.usage.reasoning.output_tokens": 2,
            "insula.call.id": str(row.id),
        }
        assert span.instrumentation_scope.schema_url == "https://opentelemetry.io/schemas/1.41.0"

    async def test_says_nothing_of_what_is_not_known(self, latest):
        counts = ("input", "output", "cached", "cache_write", "reasoning")
        unknown = dict.fromkeys([f"{count}_tokens" for count in counts])

        latest.telemetry.note(usage(is_streamed=False, upstream_model="", **unknown))

        (span,) = await latest.spans()
        assert set(span.attributes) == {
            "gen_ai.operation.name",
            "gen_ai.provider.name",
            "gen_ai.request.model",
            "insula.call.id",
        }

    async def test_names_nobody(self, latest):
        row = usage()

        latest.telemetry.note(row)

        points = [point for found in (await latest.points()).values() for point in found]
        (span,) = await latest.spans()
        said = str([dict(one.attributes) for one in [span, *points]])
        assert len(points) == 6
        assert not any(w in said for w in (str(row.user_id), str(row.credential_id), "somebody"))

    @pytest.mark.parametrize(
        ("surface", "operation"),
        [
            ("chat/completions", "chat"),
            ("responses", "chat"),
            ("messages", "chat"),
            ("completions", "text_completion"),
            ("embeddings", "embeddings"),
        ],
    )
    async def test_names_the_operation_of_every_surface(self, heard, surface, operation):
        heard.telemetry.note(usage(surface=surface))

        (span,) = await heard.spans()
        assert span.attributes["gen_ai.operation.name"] == operation

    @pytest.mark.parametrize(("status", "kind"), [(502, "502"), (200, "_OTHER")])
    async def test_of_a_failed_call_is_an_error_of_a_kind(self, heard, status, kind):
        heard.telemetry.note(usage(outcome="failed", status=status))

        (span,) = await heard.spans()
        assert span.status.status_code is StatusCode.ERROR
        assert span.attributes["error.type"] == kind

    async def test_of_a_call_that_was_left_is_no_error(self, heard):
        heard.telemetry.note(usage(outcome="abandoned", status=499))

        (span,) = await heard.spans()
        assert span.status.status_code is StatusCode.UNSET
        assert "error.type" not in span.attributes

    async def test_of_a_kept_answer_stays_inside(self, heard):
        heard.telemetry.note(usage(is_cached=True))

        (span,) = await heard.spans()
        assert span.kind is SpanKind.INTERNAL

    async def test_belongs_to_this_service(self, heard):
        heard.telemetry.note(usage())

        (span,) = await heard.spans()
        assert span.resource.attributes["service.name"] == "insula"
        assert span.resource.attributes["service.version"] == "1.2.3"

    async def test_belongs_to_the_service_that_the_operator_names(self, monkeypatch):
        monkeypatch.setenv("OTEL_SERVICE_NAME", "gateway-eu")
        heard = Heard(V1_36)

        heard.telemetry.note(usage())

        (span,) = await heard.spans()
        assert span.resource.attributes["service.name"] == "gateway-eu"


class TestMeasurements:
    async def test_have_the_names_of_1_36(self, heard):
        heard.telemetry.note(usage())

        assert set(await heard.points()) == {
            "gen_ai.client.token.usage",
            "gen_ai.client.operation.duration",
            "gen_ai.server.request.duration",
            "gen_ai.server.time_to_first_token",
        }

    async def test_have_the_first_chunk_too_by_now(self, latest):
        latest.telemetry.note(usage())

        points = await latest.points()
        (first_chunk,) = points["gen_ai.client.operation.time_to_first_chunk"]
        assert len(points) == 5
        assert first_chunk.sum == 0.3

    async def test_are_in_seconds_and_tokens_in_the_buckets_of_the_conventions(self, heard):
        heard.telemetry.note(usage())

        points = await heard.points()
        (duration,) = points["gen_ai.client.operation.duration"]
        (served,) = points["gen_ai.server.request.duration"]
        (first,) = points["gen_ai.server.time_to_first_token"]
        tokens = points["gen_ai.client.token.usage"]
        assert duration.sum == served.sum == 2.5
        assert list(duration.explicit_bounds) == list(served.explicit_bounds) == SECONDS
        assert (first.sum, first.explicit_bounds[0], first.explicit_bounds[-1]) == (0.3, 0.001, 10)
        assert list(tokens[0].explicit_bounds) == TOKENS
        assert {p.attributes["gen_ai.token.type"]: p.sum for p in tokens} == {
            "input": 40,
            "output": 8,
        }

    async def test_are_told_apart_by_operation_provider_models_and_error(self, latest):
        latest.telemetry.note(usage(outcome="failed", status=503, upstream="google"))

        points = await latest.points()
        (duration,) = points["gen_ai.client.operation.duration"]
        assert dict(duration.attributes) == {
            "gen_ai.operation.name": "chat",
            "gen_ai.provider.name": "gcp.gemini",
            "gen_ai.request.model": "fast",
            "gen_ai.response.model": "grok",
            "error.type": "503",
        }
        assert "gen_ai.server.time_to_first_token" not in points

    async def test_leave_out_tokens_that_nobody_told(self, heard):
        heard.telemetry.note(usage(input_tokens=None, output_tokens=None))

        assert "gen_ai.client.token.usage" not in await heard.points()

    async def test_have_no_first_token_of_a_plain_call(self, latest):
        latest.telemetry.note(usage(is_streamed=False))

        points = await latest.points()
        assert not any("first" in name for name in points)

    async def test_count_a_kept_answer_as_served_and_not_as_a_call(self, latest):
        latest.telemetry.note(usage(is_cached=True, is_streamed=False))

        assert set(await latest.points()) == {"gen_ai.server.request.duration"}


class TestNames:
    @pytest.mark.parametrize(
        ("opt_in", "names"),
        [
            ((), V1_36),
            (("http", "database/dup"), V1_36),
            (("http", "gen_ai_latest_experimental"), V1_41),
        ],
    )
    def test_are_the_old_ones_until_the_operator_opts_in(self, opt_in, names):
        assert names_of(opt_in) is names


class Collector:
    """Takes OTLP over HTTP."""

    def __init__(self) -> None:
        self.spans: list = []
        self.metrics: list = []

    async def take_spans(self, request: web.Request) -> web.Response:
        found = ExportTraceServiceRequest.FromString(await request.read())
        self.spans += found.resource_spans[0].scope_spans[0].spans
        return web.Response()

    async def take_metrics(self, request: web.Request) -> web.Response:
        found = ExportMetricsServiceRequest.FromString(await request.read())
        self.metrics += found.resource_metrics[0].scope_metrics[0].metrics
        return web.Response()


@pytest.fixture
async def collector():
    collector = Collector()
    app = web.Application()
    app.router.add_post("/v1/traces", collector.take_spans)
    app.router.add_post("/v1/metrics", collector.take_metrics)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    collector.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield collector
    await runner.cleanup()


class TestCollector:
    async def test_has_spans_and_measurements_when_the_server_ends(self, collector):
        telemetry = open_telemetry(f"{collector.url}/", (), "1.2.3")
        told = telemetry.begin([CALLER])

        telemetry.note(usage())
        await telemetry.close()

        (span,) = collector.spans
        assert (span.name, span.span_id.hex()) == ("chat fast", parts(told)[2])
        assert {metric.name for metric in collector.metrics} >= {"gen_ai.client.token.usage"}

    async def test_that_is_gone_slows_and_fails_no_call(self, monkeypatch):
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "1")
        monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "16")
        monkeypatch.setenv("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "8")
        telemetry = open_telemetry(f"http://127.0.0.1:{free_port()}", (), "")
        loop, failures = asyncio.get_running_loop(), []
        loop.set_exception_handler(lambda _, context: failures.append(context))

        began_s = loop.time()
        for _ in range(100):
            telemetry.begin([CALLER])
            telemetry.note(usage())
            await asyncio.sleep(0)
        took_s = loop.time() - began_s
        await telemetry.close()

        assert failures == []
        assert took_s < 1.0

    @pytest.mark.slow
    async def test_that_never_answers_does_not_hold_up_the_end(self):
        async def silent(peer: Peer) -> None:
            await peer.request()
            await peer.gone()

        async with raw_server(silent) as server:
            telemetry = open_telemetry(f"http://127.0.0.1:{server.port}", (), "")
            telemetry.note(usage())

            async with asyncio.timeout(CLOSE_S + 2):
                await telemetry.close()

    def test_without_a_url_stops_the_start(self):
        with pytest.raises(SettingsError, match="OTEL_EXPORTER_OTLP_ENDPOINT is a URL"):
            open_telemetry("collector:4317", (), "")

    def test_that_nobody_names_loads_nothing(self):
        code = "import app.asgi, sys; sys.exit('opentelemetry' in sys.modules)"

        ended = subprocess.run([sys.executable, "-c", code], check=False)

        assert ended.returncode == 0
