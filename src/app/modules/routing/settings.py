"""The environment of routing."""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from app.kernel.settings import Secret, Settings, env


class RoutingSettings(Settings, frozen=True, rename=env("ROUTING")):
    """Upstreams, limits and deadlines."""

    external_keys: Annotated[
        dict[str, Secret],
        Meta(
            description="Key of a provider: OPENAI, ANTHROPIC, CEREBRAS, DEEPSEEK, GOOGLE, GROQ, "
            "MISTRAL, OPENROUTER, TOGETHER, VENICE, XAI, or any name that has a `<NAME>_BASE_URL`. "
            "`none` sends no key."
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
    dev_model: Annotated[
        Literal["auto", "on", "off"],
        Meta(description="`dev/echo`: auto offers it only while there is no other upstream."),
    ] = "auto"
    body_limit_bytes: Annotated[
        int, Meta(ge=1024, description="Largest request body under /v1.")
    ] = 33_554_432
    answer_limit_bytes: Annotated[
        int, Meta(ge=1024, description="Largest whole answer accepted from an upstream.")
    ] = 67_108_864
    connect_timeout_s: Annotated[
        float, Meta(gt=0, description="Deadline for a connection to an upstream.")
    ] = 5.0
    read_timeout_s: Annotated[
        float, Meta(gt=0, description="Longest silence of an upstream, first byte included.")
    ] = 600.0
    max_connections: Annotated[
        int, Meta(ge=1, description="Connections to all upstreams together.")
    ] = 1024
