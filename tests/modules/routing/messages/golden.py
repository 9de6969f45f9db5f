"""The golden files: bodies and streams of both APIs, and what each becomes in the other."""

import json
from pathlib import Path
from typing import Any

FILES = Path(__file__).parents[3] / "fixtures" / "messages"


def golden(name: str) -> bytes:
    return (FILES / name).read_bytes()


def value_of(name: str) -> Any:
    return json.loads(golden(name))


def events_of(stream: bytes) -> list[tuple[str, Any]]:
    """The events of a stream: name and data; a comment is named ``:``."""
    blocks = stream.decode().split("\n\n")
    assert blocks.pop() == "", "a stream ends with a whole event"
    return [_event(block.split("\n")) for block in blocks]


def fed(translator: Any, chunks: list[bytes]) -> bytes:
    return b"".join(translator.feed(chunk) for chunk in chunks)


def _event(lines: list[str]) -> tuple[str, Any]:
    if lines[0].startswith(":"):
        return ":", lines[0][1:].strip()
    name = lines.pop(0).removeprefix("event: ") if lines[0].startswith("event: ") else ""
    (line,) = lines
    data = line.removeprefix("data: ")
    return name, data if data == "[DONE]" else json.loads(data)
