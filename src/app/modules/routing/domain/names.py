"""Names: what a model is called, and where a server is."""

import re
from collections.abc import Collection, Iterable

from app.kernel.errors import NotFound

LOCAL_UPSTREAMS = frozenset({"dev", "llmd", "mlx"})


class ModelNotFound(NotFound):
    """No such model, or not for this key."""

    title = "Model not found"


def qualified(upstream: str, model: str) -> str:
    """The name that always finds a model: ``groq/llama-3.3-70b``."""
    return model if model.startswith(f"{upstream}/") else f"{upstream}/{model}"


def public_name(upstream: str, model: str, taken: Collection[str]) -> str:
    """The name a discovered model gets: its own, or with its upstream's before it.

    Models of this machine always say where they run; a taken name stays its first owner's.
    """
    if upstream in LOCAL_UPSTREAMS or model in taken:
        return qualified(upstream, model)
    return model


def base_url(given: str) -> str:
    """A server's OpenAI root: ``http://host`` and ``http://host/v1`` mean the same."""
    scheme, found, rest = given.strip().rstrip("/").partition("://")
    if not found or scheme not in {"http", "https"} or not rest:
        raise ValueError(f"{given!r} is not an http:// or https:// URL")
    return f"{scheme}://{rest}" if "/" in rest else f"{scheme}://{rest}/v1"


def ollama_url(given: str) -> str:
    """Read OLLAMA_HOST as Ollama itself does: scheme and port may be missing."""
    scheme, _, rest = given.rpartition("://")
    host = rest.rstrip("/")
    return f"{scheme or 'http'}://{host}" if ":" in host else f"{scheme or 'http'}://{host}:11434"


def kind_of(model: str) -> str:
    """Guess from its name whether a model embeds; upstreams do not say."""
    return "embedding" if re.search(r"embed|bge|e5-|gte-", model, re.I) else "chat"


def close_names(wanted: str, names: Iterable[str]) -> list[str]:
    """Up to three names that look like ``wanted``, for a helpful 404."""
    bare = wanted.rsplit("/", 1)[-1].lower()
    return [name for name in sorted(names) if bare and bare in name.lower()][:3]
