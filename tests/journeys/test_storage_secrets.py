"""What a client has sealed, and what it signs in with, is found nowhere on the server."""

import asyncio
import base64
import io
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import httpx
import numpy as np
import pytest

from insula_vault import Item, Vault, VaultError, register
from tests.house import AUTHORIZED, KEY, RunningServer, running_server

pytestmark = pytest.mark.slow

CANARY = b"the-canary-that-nobody-may-hear-4711"
SECRET = "correct horse battery staple, and more"
RECORDS = "/api/v1/storage/records"
VECTOR = np.linspace(-1, 1, 16, dtype="<f4")
# Text of which the canary shows in whatever way bytes are written as text.
FORMS = {
    "raw": CANARY,
    "hex": CANARY.hex().encode(),
    **{f"base64 {skip}": base64.b64encode(CANARY[skip:])[:32] for skip in range(3)},
}


def everything(vault: Vault) -> None:
    """All that a client keeps: records in the database and in the store, backups, vectors."""
    made = vault.put("notes", CANARY)
    vault.put("notes", CANARY * 2, record_id=made.id, etag=made.etag)
    vault.put("notes", CANARY * 5000)
    vault.put_stream("notes", io.BytesIO(CANARY * 9000), len(CANARY) * 9000)
    vault.backups.create(io.BytesIO(CANARY * 9000), len(CANARY) * 9000)
    notes = vault.collections.create_sealed("notes", model="model", dimension=len(VECTOR))
    notes.upsert([Item(str(uuid4()), VECTOR, CANARY, {"tag": CANARY.decode()[:30]})])
    gone = vault.put("notes", CANARY + b"!")
    vault.delete(gone.id, gone.etag)


def mistakes(client: httpx.Client, headers: dict[str, str]) -> Iterator[httpx.Response]:
    """Each way in which storage refuses."""
    path = f"{RECORDS}/{uuid4()}"
    new = {"if-none-match": "*", "x-table": "notes", "content-type": "application/octet-stream"}
    large = b"sealed" * 10_000
    yield client.put(path, content=large, headers=headers)
    yield client.put(path, content=large, headers=headers | new | {"x-checksum": "0" * 64})
    yield client.put(path, content=large, headers=headers | new | {"content-digest": "nonsense"})
    yield client.put(path, content=large, headers=headers | new | {"if-match": '"1-00000000"'})
    yield client.put(path, content=b"{", headers=headers | {"content-type": "application/json"})
    yield client.get(path, headers=headers)
    yield client.delete(path, headers=headers | {"if-match": "*"})
    yield client.get("/api/v1/storage/changes?cursor=nonsense", headers=headers)
    yield client.post("/api/v1/storage/batch", content=b"nonsense", headers=headers)
    yield client.post("/api/v1/storage/uploads", json={"target": "?"}, headers=headers)
    yield client.get(f"/api/v1/backup/{uuid4()}", headers=headers)
    yield client.get(path, headers={"authorization": headers["authorization"][:-3]})


def use(server: RunningServer) -> tuple[bytes, list[bytes]]:
    """What the server has answered, and the secrets of whoever asked."""
    # A refusal does not wait for the rest of the body: nothing can follow on its connection.
    alone = {"connection": "close"}
    with httpx.Client(base_url=server.base_url, headers=alone, timeout=60) as client:
        vault = register(server.base_url, "anna@example.org", SECRET)
        account = f"/api/v1/billing/accounts/{vault.account.user_id}"
        client.put(account, json={"tier": "pro"}, headers=AUTHORIZED).raise_for_status()
        everything(vault)
        with pytest.raises(VaultError):
            vault.get(str(uuid4()))
        session = vault.session
        assert session is not None
        headers = {"authorization": f"Bearer {session.access_token}"}
        refused = [*mistakes(client, headers), *mistakes(client, AUTHORIZED)]
        shown = [client.get(path, headers=AUTHORIZED) for path in ("/metrics", "/health/ready")]
        vault.close()
    assert {one.is_success for one in refused} == {False}
    answers = b"".join(str(one.headers).encode() + one.content for one in refused + shown)
    secrets = [session.access_token, session.refresh_token, SECRET, KEY]
    return answers, [secret.encode() for secret in secrets]


def on_disk(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


class TestSweep:
    async def test_finds_no_plaintext_and_no_token_anywhere(self, tmp_path):
        variables = {"LOG_LEVEL": "debug", "STORAGE_INLINE_BYTES": "4096"}
        async with running_server(tmp_path / "data", **variables) as server:
            answers, secrets = await asyncio.to_thread(use, server)
            server.kill()
            files = on_disk(tmp_path)

        places = files | {"answers": answers}
        forms = FORMS | {f"secret {number}": text for number, text in enumerate(secrets)}
        found = [
            (place, form)
            for place, text in places.items()
            for form, sought in forms.items()
            if sought in text
        ]
        assert found == []
        assert {"insula.db", "insula.db-wal", "data.log"} <= places.keys()
        assert sum(map(len, files.values())) > 3 * len(CANARY) * 5000
        assert b"storage" in files["data.log"]
