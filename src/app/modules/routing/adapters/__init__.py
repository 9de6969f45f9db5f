"""Chooses the upstreams: which servers exist, and how each is reached."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Final, Literal, TextIO
from urllib.parse import urlsplit

import msgspec

from app.kernel import log
from app.kernel.keys import AesGcmSeal
from app.kernel.settings import SettingsError
from app.modules.routing.domain.envelope import Surface
from app.modules.routing.domain.names import base_url, ollama_url
from app.modules.routing.domain.workers import WorkerTarget
from app.modules.routing.ports import HttpClient, Source, Upstream
from app.modules.routing.settings import RoutingSettings

if TYPE_CHECKING:
    from app.kernel.module import Kit
    from app.modules.routing.adapters.agent_client import AgentClient
    from app.modules.routing.adapters.otel import GenAiTelemetry

CHAT: Final[frozenset[Surface]] = frozenset({"chat/completions", "completions", "embeddings"})
PROBE_S = 0.5


class Provider(msgspec.Struct, frozen=True):
    """A public service, and how its wire format differs from OpenAI's chat."""

    base_url: str
    wire: Literal["openai", "anthropic", "google"] = "openai"
    tells_usage: bool = True
    takes_routing: bool = False
    limit_member: str = "max_tokens"


# OpenAI's reasoning models refuse `max_tokens`, which everybody else understands.
# Mistral refuses `stream_options` and tells its usage without being asked.
PROVIDERS: Final = {
    "anthropic": Provider("https://api.anthropic.com/v1", wire="anthropic"),
    "cerebras": Provider("https://api.cerebras.ai/v1"),
    "deepseek": Provider("https://api.deepseek.com/v1"),
    "google": Provider("https://generativelanguage.googleapis.com/v1beta", wire="google"),
    "groq": Provider("https://api.groq.com/openai/v1"),
    "mistral": Provider("https://api.mistral.ai/v1", tells_usage=False),
    "openai": Provider("https://api.openai.com/v1", limit_member="max_completion_tokens"),
    "openrouter": Provider("https://openrouter.ai/api/v1", takes_routing=True),
    "together": Provider("https://api.together.xyz/v1"),
    "venice": Provider("https://api.venice.ai/api/v1"),
    "xai": Provider("https://api.x.ai/v1"),
}

_log = log.get("routing")


def open_sources(settings: RoutingSettings) -> list[Source]:
    """List the servers that the settings name. None is contacted, no client library is loaded."""
    sources = [_provider(name, key, settings) for name, key in settings.external_keys.items()]
    if settings.llmd_endpoint:
        url = _checked("LLMD_ENDPOINT", settings.llmd_endpoint)
        connect = _server("llmd", url, Provider(url), "", settings)
        sources.append(Source(name="llmd", connect=connect, is_pool=True))
    if settings.mlx_model:
        sources.append(Source(name="mlx", connect=_mlx(settings), is_free=True))
    if settings.ollama == "auto":
        url = _checked("OLLAMA_HOST", ollama_url(settings.ollama_host))
        connect = _server("ollama", url, Provider(url), "", settings)
        sources.append(Source(name="ollama", connect=connect, is_free=True, probe=_probe(url)))
    return sources


def open_strangers(settings: RoutingSettings) -> list[Source]:
    """List the providers that are not configured, for callers with a key of their own."""
    missing = [name for name in PROVIDERS if name not in settings.external_keys]
    return [_provider(name, "none", settings) for name in missing]


def dev_source() -> Source:
    """The model that answers when nothing else is there."""

    async def connect() -> Upstream:
        from app.modules.routing.adapters.echo import EchoUpstream

        return EchoUpstream()

    return Source(name="dev", connect=connect, is_free=True)


def open_client(name: str, url: str, settings: RoutingSettings) -> HttpClient:
    """An HTTP client for one server: our own without TLS, aiohttp with it."""
    limits = {
        "answer_limit_bytes": settings.answer_limit_bytes,
        "max_connections": settings.max_connections,
    }
    if url.startswith("http://"):
        from app.modules.routing.adapters.http1 import Http1Client

        return Http1Client(name, url, **limits)
    from app.modules.routing.adapters.aiohttp import AiohttpClient

    return AiohttpClient(name, url, **limits)


def open_seal(kit: "Kit") -> AesGcmSeal:
    return AesGcmSeal(kit.keys, "routing-sealing")


def open_workers(settings: RoutingSettings) -> Callable[[WorkerTarget], Upstream]:
    """Makes the upstreams of workers; the client library is loaded with the first one."""

    def connect(target: WorkerTarget) -> Upstream:
        from app.modules.routing.adapters.workers import open_worker

        return open_worker(
            target,
            answer_limit_bytes=settings.answer_limit_bytes,
            max_connections=settings.max_connections,
        )

    return connect


def open_desk(settings: RoutingSettings) -> "AgentClient":
    """The router that a local agent announces itself to."""
    from app.modules.routing.adapters.agent_client import AgentClient

    url = _checked("ROUTING_ROUTER_URL", settings.router_url).removesuffix("/v1")
    return AgentClient(url, settings.router_key)


def open_telemetry(settings: RoutingSettings, version: str) -> "GenAiTelemetry | None":
    """Traces and metrics for the collector that the settings name; without one, nothing loads."""
    if not settings.otlp_endpoint or settings.is_otel_off:
        return None
    try:
        from app.modules.routing.adapters import otel
    except ImportError:
        _log.warning("routing.telemetry-missing", needed="the extra `otel`")
        return None
    return otel.open_telemetry(settings.otlp_endpoint, settings.otel_opt_in, version)


async def watch(
    environ: Mapping[str, str], url: str, key: str, out: TextIO, *, is_once: bool
) -> str:
    """``insula top``: show a running server until whoever watches leaves."""
    from app.modules.routing.adapters import top

    return await top.watch(environ, url, key, out, is_once=is_once)


def _provider(name: str, given_keys: str, settings: RoutingSettings) -> Source:
    known = PROVIDERS.get(name)
    given = settings.base_urls.get(name) or (known.base_url if known else None)
    if given is None:
        variable = name.upper()
        raise SettingsError(f"EXTERNAL_{variable}_KEY needs {variable}_BASE_URL beside it.")
    url = _checked(f"{name.upper()}_BASE_URL", given)
    keys = tuple(key for part in given_keys.split(",") if (key := part.strip()) not in {"", "none"})
    terms = known or Provider(url)
    return Source(
        name=name,
        connect=_server(name, url, terms, keys[0] if keys else "", settings),
        keys=keys,
        takes_keys=True,
        tells_usage=terms.tells_usage,
        takes_routing=terms.takes_routing,
        limit_member=terms.limit_member,
        reads_to_end=name in settings.read_to_end,
    )


def _checked(variable: str, given: str) -> str:
    try:
        return base_url(given)
    except ValueError as error:
        raise SettingsError(f"{variable}: {error}") from None


def _server(
    name: str, url: str, terms: Provider, key: str, settings: RoutingSettings
) -> Callable[[], Awaitable[Upstream]]:
    def build() -> Upstream:
        client = open_client(name, url, settings)
        if terms.wire == "anthropic":
            from app.modules.routing.adapters.anthropic import AnthropicUpstream

            return AnthropicUpstream(name, client, key)
        if terms.wire == "google":
            from app.modules.routing.adapters.google import GoogleUpstream

            return GoogleUpstream(name, client, key)
        from app.modules.routing.adapters.openai import OpenAIUpstream

        return OpenAIUpstream(name, client, _surfaces(name, settings), key)

    async def connect() -> Upstream:
        # In a thread: loading a client library takes longer than a request may wait.
        return await asyncio.to_thread(build)

    return connect


def _surfaces(name: str, settings: RoutingSettings) -> frozenset[Surface]:
    found: set[Surface] = set(CHAT)
    if name in settings.native_responses:
        found.add("responses")
    if name in settings.native_messages:
        found.add("messages")
    return frozenset(found)


def _mlx(settings: RoutingSettings) -> Callable[[], Awaitable[Upstream]]:
    def build() -> Upstream:
        from app.modules.routing.adapters.mlx import MlxOptions, MlxUpstream

        options = MlxOptions(
            model=settings.mlx_model,
            cache_bytes=settings.mlx_cache_bytes,
            parallel=settings.mlx_parallel,
            queue_limit=settings.mlx_queue,
        )
        return MlxUpstream(options, lambda url: open_client("mlx", url, settings))

    async def connect() -> Upstream:
        return await asyncio.to_thread(build)

    return connect


def _probe(url: str) -> Callable[[], Awaitable[bool]]:
    """Ask whether anybody listens at ``url``, without loading an HTTP client."""
    parts = urlsplit(url)

    async def is_there() -> bool:
        try:
            async with asyncio.timeout(PROBE_S):
                _, writer = await asyncio.open_connection(parts.hostname, parts.port or 80)
        except (OSError, TimeoutError):
            return False
        writer.close()
        return True

    return is_there
