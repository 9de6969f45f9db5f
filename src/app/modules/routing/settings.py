"""The environment of routing."""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from app.kernel.settings import Csv, Secret, Settings, env


class RoutingSettings(Settings, frozen=True, rename=env("ROUTING")):
    """Upstreams, limits and deadlines."""

    external_keys: Annotated[
        dict[str, Secret],
        Meta(
            description="Key of a provider: OPENAI, ANTHROPIC, CEREBRAS, DEEPSEEK, GOOGLE, GROQ, "
            "MISTRAL, OPENROUTER, TOGETHER, VENICE, XAI, or any name that has a `<NAME>_BASE_URL`. "
            "Several keys, comma-separated, are used in turn; `none` sends no key."
        ),
    ] = msgspec.field(name="EXTERNAL_*_KEY", default_factory=dict)
    base_urls: Annotated[
        dict[str, str],
        Meta(description="OpenAI-compatible base URL of a provider that has a key."),
    ] = msgspec.field(name="*_BASE_URL", default_factory=dict)
    llmd_endpoint: Annotated[
        str, Meta(description="Base URL of an llm-d inference gateway; its models are `llmd/...`.")
    ] = msgspec.field(name="LLMD_ENDPOINT", default="")
    ollama_host: Annotated[
        str, Meta(description="Where Ollama is looked for; used as soon as it answers.")
    ] = msgspec.field(name="OLLAMA_HOST", default="http://localhost:11434")
    ollama: Annotated[
        Literal["auto", "off"], Meta(description="Whether to look for Ollama at all.")
    ] = "auto"
    mlx_model: Annotated[
        str, Meta(description="Path or repository of a model to serve locally (extra `mlx`).")
    ] = msgspec.field(name="MLX_MODEL", default="")
    mlx_cache_bytes: Annotated[
        int, Meta(ge=0, description="Most memory that MLX keeps for reuse.")
    ] = msgspec.field(name="MLX_CACHE_BYTES", default=2**31)
    mlx_parallel: Annotated[
        int, Meta(ge=1, le=256, description="Answers that MLX writes at once.")
    ] = msgspec.field(name="MLX_PARALLEL", default=4)
    mlx_queue: Annotated[
        int, Meta(ge=0, description="Calls that wait for MLX; the others are sent away.")
    ] = msgspec.field(name="MLX_QUEUE", default=32)
    dev_model: Annotated[
        Literal["auto", "on", "off"],
        Meta(description="`dev/echo`: auto offers it only while there is no other upstream."),
    ] = "auto"
    default_model: Annotated[
        str,
        Meta(
            description="What scripts get that ask `default` of the gateway; unset: the first "
            "chat model that their caller may use."
        ),
    ] = ""
    body_limit_bytes: Annotated[
        int, Meta(ge=1024, description="Largest request body under /v1.")
    ] = 33_554_432
    answer_limit_bytes: Annotated[
        int, Meta(ge=1024, description="Largest whole answer accepted from an upstream.")
    ] = 67_108_864
    connect_timeout_s: Annotated[
        float, Meta(gt=0, description="Deadline for a connection to an upstream.")
    ] = 5.0
    first_byte_timeout_s: Annotated[
        float, Meta(gt=0, description="Longest wait for the head of an upstream's answer.")
    ] = 600.0
    idle_timeout_s: Annotated[
        float, Meta(gt=0, description="Longest silence of an upstream within its answer.")
    ] = 300.0
    deadline_s: Annotated[
        float,
        Meta(gt=0, description="For a call to begin its answer, all retries and fallbacks in it."),
    ] = 600.0
    retries: Annotated[
        int, Meta(ge=0, le=10, description="More tries of one upstream after a fault of its own.")
    ] = 1
    parallel: Annotated[
        int, Meta(ge=1, description="Calls to one upstream at once; the others wait.")
    ] = 256
    queue: Annotated[
        int, Meta(ge=0, description="Calls that wait for one upstream; the others are sent away.")
    ] = 1024
    queue_timeout_s: Annotated[
        float, Meta(gt=0, description="Longest wait of a call for its turn.")
    ] = 30.0
    keep_alive_s: Annotated[
        float, Meta(gt=0, description="Silence of a stream after which a comment is sent.")
    ] = 15.0
    read_to_end: Annotated[
        Csv,
        Meta(
            description="Upstreams whose answers are read to the end, and billed exactly, when "
            "the caller has left. All others are cut, and billed by estimate."
        ),
    ] = Csv()
    cost_weight: Annotated[
        float, Meta(ge=0, description="How much price counts under the policy `balanced`.")
    ] = msgspec.field(name="ROUTER_COST_WEIGHT", default=1.0)
    latency_weight: Annotated[
        float, Meta(ge=0, description="How much latency counts under the policy `balanced`.")
    ] = msgspec.field(name="ROUTER_LATENCY_WEIGHT", default=1.0)
    cost_threshold_chars: Annotated[
        int, Meta(ge=1, description="Size of a request from which price decides there.")
    ] = msgspec.field(name="ROUTER_COST_THRESHOLD", default=1000)
    native_responses: Annotated[
        Csv,
        Meta(description="Upstreams that have /v1/responses themselves; others get it as chat."),
    ] = Csv(("openai",))
    native_messages: Annotated[
        Csv,
        Meta(description="Upstreams that have /v1/messages themselves, beside Anthropic."),
    ] = Csv()
    output_reserve_tokens: Annotated[
        int,
        Meta(ge=0, description="Tokens reserved for an answer whose length no caller limits."),
    ] = 4096
    role: Annotated[
        Literal["router", "local-agent"],
        Meta(description="`local-agent` offers `/infer` and announces this server to a router."),
    ] = "router"
    router_url: Annotated[
        str, Meta(description="Root URL of the router that a local agent announces itself to.")
    ] = ""
    router_key: Annotated[
        Secret | None, Meta(description="API key at that router, with the scope `full`.")
    ] = None
    agent_name: Annotated[
        str, Meta(description="What the router calls this agent; unset: its machine's name.")
    ] = ""
    agent_endpoint: Annotated[
        str,
        Meta(description="URL at which the router reaches this agent; unset: http://host:port."),
    ] = ""
    agent_key: Annotated[
        Secret | None,
        Meta(description="API key of this agent that its router is to send, scope `inference`."),
    ] = None
    heartbeat_s: Annotated[
        float,
        Meta(gt=0, le=3600, description="Workers are to say so often that they live."),
    ] = 30.0
    otlp_endpoint: Annotated[
        str,
        Meta(
            description="Base URL of an OpenTelemetry collector, OTLP over HTTP (extra `otel`); "
            "unset: no telemetry. Further OTEL_* variables are those of its SDK."
        ),
    ] = msgspec.field(name="OTEL_EXPORTER_OTLP_ENDPOINT", default="")
    otel_opt_in: Annotated[
        Csv,
        Meta(
            description="`gen_ai_latest_experimental`: name things as the GenAI conventions 1.41 "
            "do, not as 1.36 did."
        ),
    ] = msgspec.field(name="OTEL_SEMCONV_STABILITY_OPT_IN", default=Csv())
    is_otel_off: Annotated[bool, Meta(description="No telemetry, whatever else is set.")] = (
        msgspec.field(name="OTEL_SDK_DISABLED", default=False)
    )
    max_connections: Annotated[
        int, Meta(ge=1, description="Connections to all upstreams together.")
    ] = 1024
