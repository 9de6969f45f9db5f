"""What the OpenAPI document says of the raw handlers, which it does not see by itself."""

from typing import Any, Final

from app.modules.routing.domain.envelope import Surface

SURFACES: Final[tuple[Surface, ...]] = (
    "chat/completions",
    "completions",
    "embeddings",
    "responses",
    "messages",
)


def openapi_paths() -> dict[str, Any]:
    """Path items of the hot path."""
    return {f"/v1/{surface}": {"post": _operation(surface)} for surface in SURFACES}


def _operation(surface: Surface) -> dict[str, Any]:
    needed = {
        "chat/completions": "messages",
        "completions": "prompt",
        "embeddings": "input",
        "responses": "input",
        "messages": "messages",
    }
    schema = {
        "type": "object",
        "required": ["model", needed[surface]],
        "properties": {"model": {"type": "string"}, "stream": {"type": "boolean"}},
        "additionalProperties": True,
    }
    error = {"description": "OpenAI's error envelope"}
    return {
        "tags": ["openai"],
        "operationId": "create" + surface.title().replace("/", ""),
        "summary": f"OpenAI's {surface}, passed on byte for byte",
        "security": [{"bearer": []}],
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": schema}},
        },
        "responses": {
            "200": {
                "description": "The model's answer, or an event stream",
                "content": {"application/json": {}, "text/event-stream": {}},
            },
            **dict.fromkeys(("400", "401", "403", "404", "413", "429", "502", "504"), error),
        },
    }
