"""Requests, streams and golden files of the Responses API."""

import json
from pathlib import Path
from typing import Any

import pydantic
from openai.types.responses import Response, ResponseStreamEvent

from app.modules.routing.domain.responses.request import ResponsesRequest, read_responses
from app.modules.routing.domain.responses.streams import ResponsesFromChat

FOLDER = Path(__file__).parents[3] / "fixtures" / "responses"
RESPONSE_ID = "resp_0190a1b2c3d47e5f8a9b0c1d2e3f4a5b"
CREATED_S = 1_790_000_000
DONE = b"data: [DONE]\n\n"
LAST = {"response.completed", "response.incomplete", "response.failed"}

# The client's own idea of what it is sent; unlike the client itself, it is strict.
RESPONSE = pydantic.TypeAdapter(Response)
EVENT = pydantic.TypeAdapter(ResponseStreamEvent)


def request(**members: Any) -> ResponsesRequest:
    """A request, read; it says hello to the model ``small`` unless told otherwise."""
    return read_responses(json.dumps({"model": "small", "input": "Hello.", **members}).encode())


def golden(pattern: str) -> list[Any]:
    """Parameters for each file of a kind, under its own name."""
    import pytest

    found = sorted(FOLDER.glob(pattern))
    assert found, pattern
    return [pytest.param(path, id=path.name.partition(".")[0]) for path in found]


def chunk(delta: dict[str, Any] | None = None, finish: str | None = None, **more: Any) -> bytes:
    """One event of a chat stream."""
    choices = [] if delta is None else [{"index": 0, "delta": delta, "finish_reason": finish}]
    body = {"object": "chat.completion.chunk", "model": "small-2026", "choices": choices, **more}
    return b"data: " + json.dumps(body).encode() + b"\n\n"


def call(index: int, arguments: str, **more: Any) -> dict[str, Any]:
    """A piece of a tool call, as a delta."""
    name = {"name": more.pop("name")} if "name" in more else {}
    return {"tool_calls": [{"index": index, "function": {"arguments": arguments, **name}, **more}]}


def translator() -> ResponsesFromChat:
    return ResponsesFromChat(request(stream=True), RESPONSE_ID, CREATED_S)


def translated(stream: bytes) -> list[dict[str, Any]]:
    """The events of a whole chat stream."""
    talk = translator()
    return events(talk.feed(stream) + talk.finish())


def events(text: bytes) -> list[dict[str, Any]]:
    """The data of each event; its name is its type, as the API says."""
    found = []
    for block in text.decode().split("\n\n")[:-1]:
        name, _, data = block.partition("\n")
        event = json.loads(data.removeprefix("data: "))
        assert name == f"event: {event['type']}"
        found.append(event)
    return found
