"""What a vault needs now and then: another secret, another key, a sweep."""

import time
from collections.abc import Iterator
from typing import Any, Final

from insula_vault import account
from insula_vault.bodies import Pointer, decode_pointer, may_be_pointer
from insula_vault.errors import Conflict, NotFound, Unreachable
from insula_vault.feed import BODY_TABLE
from insula_vault.ledger import RECORDS, Edit
from insula_vault.records import check_name, unquoted
from insula_vault.vault import Vault
from insula_vault.wire import Call

KEYS = "/api/v1/storage/keys"
# A body that is younger may be on its way to its pointer.
SWEEP_AGE_MS: Final = 24 * 3600 * 1000
PASSES_MAX = 100
PAGE_ITEMS = 200
PAGES_MAX = 10_000


def change_secret(vault: Vault, email: str, old: str, new: str) -> None:
    """Sign in with another secret from now on. Nothing is sealed again: the root key stays.

    Whoever has had the old secret *and* a keyring of before can still open everything.
    """
    account.change_secret(vault.wire, vault.account.root, email, old, new)


def rekey(vault: Vault, key_id: str) -> int:
    """Seal every record with the key of another id and retire the others; returns how many.

    Other devices may write meanwhile: what they change first is taken up in another pass. They
    must use the new key id before the old one can be retired.
    """
    former = {vault.key_id}
    vault.key_id = check_name("A key id", key_id)
    moved = 0
    for _ in range(PASSES_MAX):
        vault.ledger.sync()
        left = [one for one in vault.ledger.state.entries.values() if one.key_id != key_id]
        if not left:
            break
        former |= {entry.key_id for entry in left}
        moved += sum(_reseal(vault, entry.id) for entry in left)
    else:
        raise Unreachable("Other devices still write with another key id: rekey them first.")
    for old in sorted(former - {key_id}):
        vault.wire.send(Call("DELETE", f"{KEYS}/{old}"))
    return moved


def sweep(vault: Vault) -> int:
    """Delete large bodies of broken-off writes, a day old or older; returns how many."""
    vault.ledger.sync()
    needed = _needed_bodies(vault)
    before_ms, swept = time.time_ns() // 1_000_000 - SWEEP_AGE_MS, 0
    for said in _listed_bodies(vault):
        body_id, updated_at = str(said.get("id")), said.get("updated_at")
        if body_id in needed or not isinstance(updated_at, int) or updated_at > before_ms:
            continue
        vault.bodies.discard(Pointer(body_id, unquoted(said.get("etag")), "", 0))
        swept += 1
    return swept


def _reseal(vault: Vault, record_id: str) -> bool:
    """Write a record again as it is, under the current key; False when another device was first."""
    try:
        entry, payload = vault.ledger.read(record_id)
    except NotFound:
        return False
    former = decode_pointer(payload)
    copied = None if former is None else vault.bodies.copy(former, vault.key_id)
    body = payload if copied is None else copied.encode()
    is_moved, needless = True, former
    try:
        vault.ledger.commit([Edit(entry.id, entry.table, vault.key_id, entry.etag, body)])
    except Conflict:
        is_moved, needless = False, copied
    if needless is not None:
        vault.bodies.discard(needless)
    return is_moved


def _needed_bodies(vault: Vault) -> set[str]:
    """The ids that pointers name."""
    needed = set()
    for entry in list(vault.ledger.state.entries.values()):
        pointer = decode_pointer(vault.ledger.read(entry.id)[1]) if may_be_pointer(entry) else None
        if pointer is not None:
            needed.add(pointer.body_id)
    return needed


def _listed_bodies(vault: Vault) -> Iterator[dict[str, Any]]:
    """Bodies that the server has. Its word is enough: what is needed is not deleted."""
    cursor = ""
    for _ in range(PAGES_MAX):
        params = {"table": BODY_TABLE, "limit": str(PAGE_ITEMS)} | (
            {"cursor": cursor} if cursor else {}
        )
        page = vault.wire.json(Call("GET", RECORDS, params=params))
        yield from page.get("items") or []
        cursor = page.get("next") or ""
        if not cursor:
            return
