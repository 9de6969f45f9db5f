"""Devices of one account, on a store in memory."""

from typing import Any

import httpx

from insula_vault import Account, RootKey, Session, Vault, Wire
from tests.vault.store import BASE, Store

USER_ID = "0190b3f2-0000-7000-8000-000000000001"
ROOT = RootKey(bytes(range(32)))


def device(store: Store, root: RootKey = ROOT, **options: Any) -> Vault:
    """A device that has just signed in, or goes on with the ``state`` that it saved."""
    return through(store.transport(), root, **options)


def through(transport: httpx.BaseTransport, root: RootKey = ROOT, **options: Any) -> Vault:
    wire = Wire(BASE, Session("token"), transport=transport, sleep=lambda _: None)
    return Vault(wire, Account(USER_ID, root), **options)
