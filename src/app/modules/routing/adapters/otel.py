"""OpenTelemetry: every model call as a span and as measurements, sent to a collector.

Names follow the GenAI semantic conventions. They are still in development and change with their
versions, so that all of them stand in ``Names``, once for each version that is spoken here.
"""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from contextvars import ContextVar
from threading import Thread
from time import monotonic
from typing import Final

import msgspec
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.metrics import Histogram
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import MetricReader, PeriodicExportingMetricReader
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.sdk.trace.sampling import Decision
from opentelemetry.trace import (
    NonRecordingSpan,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    get_current_span,
    set_span_in_context,
)
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from app.kernel.settings import SettingsError
from app.modules.billing.api import Usage
from app.modules.routing.ports import Headers

LATEST: Final = "gen_ai_latest_experimental"
SCOPE: Final = "insula"
CLOSE_S: Final = 3.0
TRACE_HEADERS: Final = frozenset({b"traceparent", b"tracestate"})
ERROR_TYPE: Final = "error.type"
# The conventions' own word for an error that has no name.
UNNAMED_ERROR: Final = "_OTHER"
CALL_ID: Final = "insula.call.id"
OPERATIONS: Final = {
    "chat/completions": "chat",
    "completions": "text_completion",
    "embeddings": "embeddings",
    "messages": "chat",
    "responses": "chat",
}
CLIENT_BUCKETS_S: Final = tuple(0.01 * 2**step for step in range(14))
TOKEN_BUCKETS: Final = tuple(4**step for step in range(14))
FIRST_TOKEN_BUCKETS_S: Final = (
    *(0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75),
    *(1.0, 2.5, 5.0, 7.5, 10.0),
)

Attributes = dict[str, str | int | float | bool]


class Names(msgspec.Struct, frozen=True, kw_only=True):
    """What one version of the conventions calls things; "" for what it does not have.

    ``providers`` has its words for upstreams of ours that it calls by another name.
    """

    schema_url: str
    provider: str
    providers: Mapping[str, str]
    operation: str = "gen_ai.operation.name"
    request_model: str = "gen_ai.request.model"
    response_model: str = "gen_ai.response.model"
    token_type: str = "gen_ai.token.type"  # noqa: S105 - a kind of token that is counted
    input_tokens: str = "gen_ai.usage.input_tokens"
    output_tokens: str = "gen_ai.usage.output_tokens"
    cached_tokens: str = ""
    cache_write_tokens: str = ""
    reasoning_tokens: str = ""
    is_streamed: str = ""
    first_chunk_s: str = ""
    token_usage: str = "gen_ai.client.token.usage"  # noqa: S105 - how many of them
    client_duration: str = "gen_ai.client.operation.duration"
    client_first_chunk: str = ""
    server_duration: str = "gen_ai.server.request.duration"
    server_first_token: str = "gen_ai.server.time_to_first_token"  # noqa: S105 - when it comes


V1_36: Final = Names(
    schema_url="https://opentelemetry.io/schemas/1.36.0",
    provider="gen_ai.system",
    providers={"google": "gcp.gemini", "mistral": "mistral_ai"},
)
V1_41: Final = Names(
    schema_url="https://opentelemetry.io/schemas/1.41.0",
    provider="gen_ai.provider.name",
    providers={"google": "gcp.gemini", "mistral": "mistral_ai", "xai": "x_ai"},
    cached_tokens="gen_ai.usage.cache_read.input_tokens",
    cache_write_tokens="gen_ai.usage.cache_creation.input_tokens",
    reasoning_tokens="gen_ai.usage.reasoning.output_tokens",
    is_streamed="gen_ai.request.stream",
    first_chunk_s="gen_ai.response.time_to_first_chunk",
    client_first_chunk="gen_ai.client.operation.time_to_first_chunk",
)


def names_of(opt_in: Iterable[str]) -> Names:
    """The version that ``OTEL_SEMCONV_STABILITY_OPT_IN`` asks for; 1.36 is the default."""
    return V1_41 if LATEST in opt_in else V1_36


class Place:
    """Where a call stands in its trace: below ``parent``, as ``own`` until that is used up."""

    __slots__ = ("own", "parent")

    def __init__(self, parent: Context, own: SpanContext) -> None:
        self.parent = parent
        self.own: SpanContext | None = own


class ReservedIds(RandomIdGenerator):
    """Gives a span the ids that its upstreams were told while there was no span yet."""

    def __init__(self) -> None:
        self.reserved: SpanContext | None = None

    def generate_span_id(self) -> int:
        return super().generate_span_id() if self.reserved is None else self.reserved.span_id

    def generate_trace_id(self) -> int:
        return super().generate_trace_id() if self.reserved is None else self.reserved.trace_id


class GenAiTelemetry:
    """Tells ``spans`` and ``metrics`` of every usage row: no prompt, no user, no session.

    Both send from threads of their own, drop what does not fit their queues, and raise nothing.
    """

    def __init__(
        self, spans: SpanExporter, metrics: MetricReader, names: Names, *, version: str = ""
    ) -> None:
        resource = _resource(version)
        self._names = names
        self._ids = ReservedIds()
        self._place: ContextVar[Place | None] = ContextVar("trace_place", default=None)
        self._propagator = TraceContextTextMapPropagator()
        self._tracers = TracerProvider(
            resource=resource, shutdown_on_exit=False, id_generator=self._ids
        )
        self._tracers.add_span_processor(BatchSpanProcessor(spans))
        self._tracer = self._tracers.get_tracer(SCOPE, version, schema_url=names.schema_url)
        self._meters = MeterProvider([metrics], resource=resource, shutdown_on_exit=False)
        self._instruments = Instruments(self._meters, names, version)

    def begin(self, headers: Iterable[tuple[bytes, bytes]]) -> Headers:
        """Enter the trace that a request's headers name, or begin one.

        Returns the headers that make an upstream part of it. The call that is made next, in this
        task or one that it starts, is the span that they name.
        """
        carrier: dict[str, list[str]] = {}
        for name, value in headers:
            if name in TRACE_HEADERS:
                carrier.setdefault(name.decode(), []).append(value.decode("latin-1"))
        parent = self._propagator.extract(carrier) if carrier else Context()
        own = self._reserve(parent)
        self._place.set(Place(parent, own))
        told: dict[str, str] = {}
        self._propagator.inject(told, set_span_in_context(NonRecordingSpan(own)))
        return tuple(told.items())

    def note(self, usage: Usage) -> None:
        """Tell of one call, in the loop's next round: its answer leaves in this one."""
        asyncio.get_running_loop().call_soon(self._tell, usage, self._place.get())

    async def close(self) -> None:
        """Send what is left; a collector that is gone is not waited for longer than ``CLOSE_S``."""
        # The rows of the round before this one are still to be told.
        await asyncio.sleep(0)
        parts = (self._tracers.shutdown, self._meters.shutdown)
        threads = [Thread(target=part, name="telemetry-close", daemon=True) for part in parts]
        for thread in threads:
            thread.start()
        await asyncio.to_thread(_join, threads, monotonic() + CLOSE_S)

    def _reserve(self, parent: Context) -> SpanContext:
        """Decide the ids and the sampling of a span that is made when its call has ended."""
        above = get_current_span(parent).get_span_context()
        trace_id = above.trace_id if above.is_valid else self._ids.generate_trace_id()
        is_random = above.trace_flags.random_trace_id if above.is_valid else True
        found = self._tracers.sampler.should_sample(parent, trace_id, "", SpanKind.CLIENT)
        flags = TraceFlags.RANDOM_TRACE_ID if is_random else TraceFlags.DEFAULT
        if found.decision is Decision.RECORD_AND_SAMPLE:
            flags |= TraceFlags.SAMPLED
        return SpanContext(
            trace_id,
            self._ids.generate_span_id(),
            is_remote=False,
            trace_flags=TraceFlags(flags),
            trace_state=found.trace_state,
        )

    def _tell(self, usage: Usage, place: Place | None) -> None:
        shared = _shared(usage, self._names)
        error: Attributes = {}
        if usage.outcome == "failed":
            error[ERROR_TYPE] = str(usage.status) if usage.status >= 400 else UNNAMED_ERROR
        self._trace(usage, place, shared | error)
        self._instruments.record(usage, shared, error)

    def _trace(self, usage: Usage, place: Place | None, shared: Attributes) -> None:
        """Make the span of a call; what the cache has answered did not leave this process."""
        started_ns = usage.started_at_ms * 1_000_000
        name = f"{shared[self._names.operation]} {usage.model}"
        if place is not None:
            # A second call of the same request is a span of its own, beside the first.
            self._ids.reserved, place.own = place.own, None
        span = self._tracer.start_span(
            name,
            Context() if place is None else place.parent,
            SpanKind.INTERNAL if usage.is_cached else SpanKind.CLIENT,
            shared | _own(usage, self._names),
            start_time=started_ns,
        )
        self._ids.reserved = None
        if usage.outcome == "failed":
            span.set_status(Status(StatusCode.ERROR))
        span.end(started_ns + usage.duration_ms * 1_000_000)


class Instruments:
    """The histograms of the conventions. Tokens are those that are billed."""

    def __init__(self, meters: MeterProvider, names: Names, version: str) -> None:
        meter = meters.get_meter(SCOPE, version, names.schema_url)

        def made(name: str, unit: str, buckets: Sequence[float]) -> Histogram:
            return meter.create_histogram(
                name, unit, explicit_bucket_boundaries_advisory=list(buckets)
            )

        self._token_type = names.token_type
        self._tokens = made(names.token_usage, "{token}", TOKEN_BUCKETS)
        self._duration = made(names.client_duration, "s", CLIENT_BUCKETS_S)
        self._served = made(names.server_duration, "s", CLIENT_BUCKETS_S)
        self._first_token = made(names.server_first_token, "s", FIRST_TOKEN_BUCKETS_S)
        self._first_chunk: Histogram | None = None
        if names.client_first_chunk:
            self._first_chunk = made(names.client_first_chunk, "s", CLIENT_BUCKETS_S)

    def record(self, usage: Usage, shared: Attributes, error: Attributes) -> None:
        """Measure one call, as those who called us see it, and as we who called a model do."""
        duration_s = usage.duration_ms / 1000
        self._served.record(duration_s, shared | error)
        first_s = _first_s(usage)
        if first_s is not None and usage.outcome == "completed":
            self._first_token.record(first_s, shared)
        if usage.is_cached:
            return
        self._duration.record(duration_s, shared | error)
        if first_s is not None and self._first_chunk is not None:
            self._first_chunk.record(first_s, shared)
        for kind, tokens in (("input", usage.input_tokens), ("output", usage.output_tokens)):
            if tokens is not None:
                self._tokens.record(tokens, shared | {self._token_type: kind})


def open_telemetry(endpoint: str, opt_in: Iterable[str], version: str) -> GenAiTelemetry:
    """Send to the collector at ``endpoint``, the base URL of OTLP over HTTP.

    What else there is to say to the exporters, they read from their own ``OTEL_*`` variables.
    """
    root = endpoint.rstrip("/")
    if not root.startswith(("http://", "https://")):
        raise SettingsError("OTEL_EXPORTER_OTLP_ENDPOINT is a URL such as http://localhost:4318.")
    metrics = PeriodicExportingMetricReader(OTLPMetricExporter(f"{root}/v1/metrics"))
    spans = OTLPSpanExporter(f"{root}/v1/traces")
    return GenAiTelemetry(spans, metrics, names_of(opt_in), version=version)


def _resource(version: str) -> Resource:
    """This process. What ``OTEL_SERVICE_NAME`` and ``OTEL_RESOURCE_ATTRIBUTES`` say, wins."""
    told = OTELResourceDetector().detect().attributes
    return Resource.create({"service.name": SCOPE, "service.version": version, **told})


def _shared(usage: Usage, names: Names) -> Attributes:
    """What spans and metrics both say. Few values each: a metric has a series for every one."""
    found: Attributes = {
        names.operation: OPERATIONS[usage.surface],
        names.provider: names.providers.get(usage.upstream, usage.upstream),
        names.request_model: usage.model,
    }
    if usage.upstream_model:
        found[names.response_model] = usage.upstream_model
    return found


def _own(usage: Usage, names: Names) -> Attributes:
    """What only spans say, as far as it is known and this version has a name for it."""
    told: dict[str, str | int | float | bool | None] = {
        CALL_ID: str(usage.id),
        names.input_tokens: usage.input_tokens,
        names.output_tokens: usage.output_tokens,
        names.cached_tokens: usage.cached_tokens,
        names.cache_write_tokens: usage.cache_write_tokens,
        names.reasoning_tokens: usage.reasoning_tokens,
        names.is_streamed: usage.is_streamed or None,
        names.first_chunk_s: _first_s(usage),
    }
    return {name: value for name, value in told.items() if name and value is not None}


def _first_s(usage: Usage) -> float | None:
    """When its first byte came, if that is news: a plain answer's comes with the last."""
    if usage.first_byte_ms is None or not usage.is_streamed:
        return None
    return usage.first_byte_ms / 1000


def _join(threads: Sequence[Thread], until_s: float) -> None:
    for thread in threads:
        thread.join(max(0.0, until_s - monotonic()))
