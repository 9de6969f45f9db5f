"""What a search has found, as the server sends it: in bytes, or in JSON.

In bytes it is a list of fields, each behind its length (4 bytes): the answer in JSON, but without
the sealed items; then of each item its id and what is sealed. It spares both sides the base64, and
us the JSON. A server that does not know this form answers JSON.
"""

from typing import Any, Final

from insula_vault.copies import sealed_of
from insula_vault.encoding import unpack
from insula_vault.errors import IntegrityError
from insula_vault.wire import Answer

FOUND: Final = "application/vnd.insula.found"
ACCEPTED: Final = f"{FOUND}, application/json;q=0.5"


def read_found(answer: Answer, limit: int) -> list[tuple[str, bytes]]:
    """Ids and sealed items, at most ``limit``; IntegrityError when this is no such answer."""
    kind = answer.headers.get("content-type", "").partition(";")[0]
    found = _fields(answer.content, limit) if kind == FOUND else _items(answer.json())
    if len(found) > limit:
        raise IntegrityError(f"The answer of a search has more than {limit} items.")
    return found


def _fields(content: bytes, limit: int) -> list[tuple[str, bytes]]:
    """Nothing in the answer's head is needed here, or believed."""
    fields = unpack(content, 1 + 2 * limit)
    if len(fields) % 2 == 0:
        raise IntegrityError("The answer of a search has no head, or an id without an item.")
    try:
        ids = [item_id.decode() for item_id in fields[1::2]]
    except UnicodeDecodeError:
        raise IntegrityError("The answer of a search has an id that is no text.") from None
    return list(zip(ids, fields[2::2], strict=True))


def _items(said: Any) -> list[tuple[str, bytes]]:
    items = said.get("items") if isinstance(said, dict) else None
    if not isinstance(items, list) or not all(isinstance(one, dict) for one in items):
        raise IntegrityError("The answer of a search has no items.")
    return [(str(one.get("id")), sealed_of(one)) for one in items]
