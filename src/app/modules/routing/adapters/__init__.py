"""Chooses the upstreams: which servers exist, and how each is reached."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from app.kernel.settings import SettingsError
from app.modules.routing.domain import base_url, ollama_url
from app.modules.routing.ports import Source, Upstream
from app.modules.routing.settings import RoutingSettings

if TYPE_CHECKING:
    from app.modules.routing.adapters.http import HttpOptions

PROVIDERS = {
    "anthropic": "https://api.anthropic.com/v1",
    "cerebras": "https://api.cerebras.ai/v1",
    "deepseek": "https://api.deepseek.com/v1",
    "google": "https://generativelanguage.googleapis.com/v1beta/openai",
    "groq": "https://api.groq.com/openai/v1",
    "mistral": "https://api.mistral.ai/v1",
    "openai": "https://api.openai.com/v1",
    "openrouter": "https://openrouter.ai/api/v1",
    "together": "https://api.together.xyz/v1",
    "venice": "https://api.venice.ai/api/v1",
    "xai": "https://api.x.ai/v1",
}
PROBE_S = 0.5


def open_sources(settings: RoutingSettings) -> list[Source]:
    """List the servers that the settings name. None is contacted, no client library is loaded."""
    sources = [_provider(name, key, settings) for name, key in settings.external_keys.items()]
    if settings.llmd_endpoint:
        url = _checked("LLMD_ENDPOINT", settings.llmd_endpoint)
        sources.append(Source("llmd", _http("llmd", url, "", settings)))
    if settings.mlx_model:
        sources.append(Source("mlx", _mlx(settings), is_free=True))
    if settings.ollama == "auto":
        url = _checked("OLLAMA_HOST", ollama_url(settings.ollama_host))
        connect = _http("ollama", url, "", settings)
        sources.append(Source("ollama", connect, is_free=True, probe=_probe(url)))
    return sources


def dev_source() -> Source:
    """The model that answers when nothing else is there."""

    async def connect() -> Upstream:
        from app.modules.routing.adapters.echo import EchoUpstream

        return EchoUpstream()

    return Source("dev", connect, is_free=True)


def _provider(name: str, key: str, settings: RoutingSettings) -> Source:
    given = settings.base_urls.get(name) or PROVIDERS.get(name)
    if given is None:
        variable = name.upper()
        raise SettingsError(f"EXTERNAL_{variable}_KEY needs {variable}_BASE_URL beside it.")
    url = _checked(f"{name.upper()}_BASE_URL", given)
    return Source(name, _http(name, url, "" if key == "none" else key, settings))


def _checked(variable: str, given: str) -> str:
    try:
        return base_url(given)
    except ValueError as error:
        raise SettingsError(f"{variable}: {error}") from None


def _http(
    name: str, url: str, key: str, settings: RoutingSettings
) -> Callable[[], Awaitable[Upstream]]:
    def build() -> Upstream:
        from app.modules.routing.adapters.http import HttpUpstream

        return HttpUpstream(name, url, key, _options(settings))

    async def connect() -> Upstream:
        return await asyncio.to_thread(build)

    return connect


def _mlx(settings: RoutingSettings) -> Callable[[], Awaitable[Upstream]]:
    def build() -> Upstream:
        from app.modules.routing.adapters.mlx import MlxUpstream

        return MlxUpstream(settings.mlx_model, _options(settings))

    async def connect() -> Upstream:
        return await asyncio.to_thread(build)

    return connect


def _options(settings: RoutingSettings) -> "HttpOptions":
    from app.modules.routing.adapters.http import HttpOptions

    return HttpOptions(
        connect_timeout_s=settings.connect_timeout_s,
        read_timeout_s=settings.read_timeout_s,
        answer_limit_bytes=settings.answer_limit_bytes,
        max_connections=settings.max_connections,
    )


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
