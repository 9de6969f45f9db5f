"""What an agent answers in the form, which nobody has written down: every known way of saying it.

A piece is one JSON value or text: the whole answer, one event, or one line of NDJSON. A whole
answer may come in several pieces, and is what they say together.
"""

from collections.abc import Iterable, Iterator
from typing import Any, Final

import msgspec

from app.modules.routing.domain.envelope import Surface
from app.modules.routing.domain.events import EventReader
from app.modules.routing.domain.faults import UpstreamNonsense

# The members that carry text, the most particular first: an event with a token may repeat the
# whole text beside it.
TEXT_MEMBERS: Final = ("token", "text", "response", "output", "generated_text", "content")
REASON_MEMBERS: Final = ("finish_reason", "done_reason")
UNREADABLE: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
MESSAGE_LIMIT_CHARS: Final = 500


class Piece(msgspec.Struct, frozen=True):
    """What one piece says. ``reason`` is why it ends, "" where it does not say."""

    text: str = ""
    reason: str = ""
    usage: dict[str, Any] | None = None
    error: Any = None


class Reply(msgspec.Struct, frozen=True):
    """A whole answer. ``usage`` is ``None`` where the agent does not tell."""

    text: str
    reason: str
    usage: dict[str, Any] | None


class Stamp(msgspec.Struct, frozen=True):
    """What an answer of OpenAI's form says of itself. ``created_s`` is in Unix seconds."""

    id: str
    model: str
    created_s: int


def read_piece(data: bytes) -> Piece | None:
    """Read one piece; ``None`` for JSON that says nothing known."""
    try:
        found = msgspec.json.decode(data)
    except UNREADABLE:
        return Piece(data.decode("utf-8", "replace"))
    return piece_of(found)


def piece_of(found: Any) -> Piece | None:
    if isinstance(found, str):
        return Piece(found)
    if isinstance(found, list) and len(found) == 1:
        found = found[0]
    if not isinstance(found, dict):
        return None
    if found.get("error"):
        return Piece(error=found["error"])
    choice = _first_choice(found)
    holders = [holder for holder in (choice, found) if holder is not None]
    text = next((t for holder in holders if (t := _text_of(holder)) is not None), None)
    reason = next((r for holder in holders if (r := _reason_of(holder))), "")
    usage = usage_of(found.get("usage"))
    if text is None and not reason and usage is None and choice is None:
        return None
    return Piece(text or "", reason, usage)


def read_reply(body: bytes, content_type: str) -> Reply:
    """Read a whole answer; ``UpstreamNonsense`` when it says nothing known.

    An error in it is the caller's to look for, by ``told_error``.
    """
    found = list(pieces(body, content_type))
    if not found:
        raise UpstreamNonsense("The worker answered 200 with no text in any known form.")
    return Reply(
        "".join(piece.text for piece in found),
        next((piece.reason for piece in reversed(found) if piece.reason), "stop"),
        next((piece.usage for piece in reversed(found) if piece.usage is not None), None),
    )


def told_error(body: bytes, content_type: str) -> bytes:
    """An error that came with status 200, in OpenAI's envelope; ``b""`` if there is none."""
    for piece in pieces(body, content_type):
        if piece.error is not None:
            return error_envelope(piece.error)
    return b""


def pieces(body: bytes, content_type: str) -> Iterator[Piece]:
    """Read the pieces of a whole answer: events, lines, or the one that it is."""
    for data in datas(body, content_type):
        piece = read_piece(data)
        if piece is not None:
            yield piece


def datas(body: bytes, content_type: str) -> Iterable[bytes]:
    """Cut a whole answer into its pieces."""
    kind = content_type.partition(";")[0].strip().lower()
    if kind == "text/event-stream":
        events = EventReader().feed(body + b"\n\n")
        return [event.data for event in events if not event.is_done]
    if kind == "text/html" or not body.strip():
        return []
    if kind == "text/plain" and not body.lstrip().startswith((b"{", b"[")):
        return [body]
    lines = [line for line in body.splitlines() if line.strip()]
    if len(lines) > 1 and all(_is_object(line) for line in lines):
        return lines
    is_broken = kind.endswith("json") and _decoded(body) is None
    return [] if is_broken else [body]


def has_form(surface: Surface, body: bytes) -> bool:
    """Whether a whole answer is OpenAI's own for this surface, and can be passed on as it is."""
    found = _decoded(body)
    choice = _first_choice(found) if isinstance(found, dict) else None
    if choice is None or not isinstance(found.get("id"), str):
        return False
    if surface == "completions":
        return isinstance(choice.get("text"), str)
    return isinstance(choice.get("message"), dict)


def completion(surface: Surface, reply: Reply, stamp: Stamp) -> bytes:
    """Write an answer of OpenAI's. Usage that nobody told is ``null``."""
    choice: dict[str, Any] = {"index": 0, "logprobs": None, "finish_reason": reply.reason}
    if surface == "completions":
        choice["text"] = reply.text
        kind = "text_completion"
    else:
        choice["message"] = {"role": "assistant", "content": reply.text, "refusal": None}
        kind = "chat.completion"
    whole = {
        "id": stamp.id,
        "object": kind,
        "created": stamp.created_s,
        "model": stamp.model,
        "choices": [choice],
        "usage": reply.usage,
    }
    return msgspec.json.encode(whole)


def error_envelope(told: Any) -> bytes:
    """Put what a server says of an error into OpenAI's envelope."""
    if isinstance(told, dict) and isinstance(told.get("message"), str):
        known = {name: told.get(name) for name in ("type", "param", "code")}
        error = {"message": told["message"], **known}
    else:
        error = {"message": _message(told), "type": None, "param": None, "code": None}
    error["type"] = error["type"] or "server_error"
    return msgspec.json.encode({"error": error})


def refusal_envelope(body: bytes) -> bytes:
    """The body of an error status in OpenAI's envelope; ``b""`` when it says nothing."""
    found = _decoded(body)
    if not isinstance(found, dict):
        return b""
    for name in ("error", "detail", "message"):
        if found.get(name):
            return error_envelope(found[name])
    return b""


def usage_of(found: Any) -> dict[str, Any] | None:
    """Usage under OpenAI's names; ``None`` unless both counts are told."""
    if not isinstance(found, dict):
        return None
    told = found.get("prompt_tokens", found.get("input_tokens"))
    said = found.get("completion_tokens", found.get("output_tokens"))
    if not isinstance(told, int) or not isinstance(said, int):
        return None
    named = {"prompt_tokens": told, "completion_tokens": said, "total_tokens": told + said}
    return found if "prompt_tokens" in found and "total_tokens" in found else named


def _first_choice(found: dict[str, Any]) -> dict[str, Any] | None:
    choices = found.get("choices")
    if not isinstance(choices, list):
        return None
    first = choices[0] if choices else {}
    if isinstance(first, str):
        return {"text": first}
    return first if isinstance(first, dict) else None


def _text_of(holder: dict[str, Any]) -> str | None:
    for name in ("delta", "message"):
        inner = holder.get(name)
        if isinstance(inner, dict):
            return _plain(inner.get("content")) or ""
    for name in TEXT_MEMBERS:
        if name in holder and (text := _plain(holder[name])) is not None:
            return text
    return None


def _plain(value: Any) -> str | None:
    """Text as a string, as pieces of one, or inside an object that has more to say of it."""
    if isinstance(value, str):
        return value
    if isinstance(value, list) and value and all(isinstance(item, str) for item in value):
        return "".join(value)
    if isinstance(value, dict) and isinstance(value.get("text"), str):
        return "" if value.get("special") is True else value["text"]
    return None


def _reason_of(holder: dict[str, Any]) -> str:
    for name in REASON_MEMBERS:
        if isinstance(holder.get(name), str):
            return str(holder[name])
    return "stop" if holder.get("done") is True else ""


def _message(told: Any) -> str:
    text = told if isinstance(told, str) else msgspec.json.encode(told).decode()
    return text[:MESSAGE_LIMIT_CHARS]


def _is_object(line: bytes) -> bool:
    return isinstance(_decoded(line), dict)


def _decoded(data: bytes) -> Any:
    """JSON, decoded; ``None`` for what is none."""
    try:
        return msgspec.json.decode(data)
    except UNREADABLE:
        return None
