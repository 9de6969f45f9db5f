"""Reading bodies of callers: every failure names the member that is wrong."""

import re
from collections.abc import Collection, Mapping
from typing import Final, TypeVar

import msgspec

from app.kernel.errors import Invalid
from app.modules.routing.domain.faults import UpstreamNonsense
from app.modules.routing.domain.unmappable import Unmappable

T = TypeVar("T")
Members = dict[str, msgspec.Raw]

# What a member holds that was not sent. One object, so that ``omit_defaults`` knows it.
ABSENT: Final = msgspec.Raw()
PLACE = re.compile(r" - at `\$\.?(?P<place>.*)`$")
MISSING = re.compile(r"missing required field `(?P<member>[^`]*)`")
UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
NAME_LIMIT = 64

_members = msgspec.json.Decoder(Members)


class BadMember(Invalid):
    """A member has a type or a value that its contract does not allow."""

    title = "Invalid request body"


def decoded(decoder: msgspec.json.Decoder[T], body: bytes | str) -> T:
    """Decode what a caller sent."""
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        raise BadMember(f"{error}.", param=_place(str(error))) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BadMember(f"The body is not valid JSON: {error}.") from None
    except RecursionError:
        raise BadMember("The body is nested too deeply.") from None


def understood(decoder: msgspec.json.Decoder[T], body: bytes) -> T:
    """Decode what an upstream sent."""
    try:
        return decoder.decode(body)
    except UNREADABLE:
        raise UpstreamNonsense("The upstream answered in no form that its API has.") from None


def members_of(body: bytes) -> Members:
    """The members of a request, once it is known to be text: raw members are not looked into."""
    try:
        body.decode()
    except UnicodeDecodeError as error:
        raise BadMember(f"The body is not valid JSON: {error}.") from None
    return decoded(_members, body)


def refuse_unmapped(
    members: Members,
    known: Collection[str],
    neutral: Mapping[str, tuple[object, ...]],
    server: str,
) -> None:
    """Refuse a member that is neither known nor has a value that asks for nothing.

    ``neutral`` has these values by name; ``null`` asks for nothing everywhere.
    """
    for name, raw in members.items():
        if name in known or bytes(raw) == b"null":
            continue
        if name in neutral and _value(raw) in neutral[name]:
            continue
        shown = name[:NAME_LIMIT]
        text = f"{server} has nothing like `{shown}` with this value; leave it out."
        raise Unmappable(text, param=shown)


def is_given(raw: msgspec.Raw) -> bool:
    """Whether a raw member was sent with a value other than ``null``."""
    return bytes(raw) not in {b"", b"null"}


def _place(text: str) -> str | None:
    place, missing = PLACE.search(text), MISSING.search(text)
    parts = [place["place"] if place else "", missing["member"] if missing else ""]
    return ".".join(part for part in parts if part) or None


def _value(raw: msgspec.Raw) -> object:
    try:
        return msgspec.json.decode(raw)
    except UNREADABLE:
        return raw
