"""A store in memory that keeps the contract honestly, for vaults to use and adversaries to bend.

It implements what a vault asks: records, batches, the change feed, uploads, backups, vectors. It
judges conditions as the contract says and knows no key. ``snapshot`` and ``restore`` are what a
lying operator has: the disk of yesterday.
"""

import base64
import copy
import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import httpx

BASE = "https://vault.test"
STORAGE = "/api/v1/storage"
FOUND = "application/vnd.insula.found"


class Problem(Exception):
    def __init__(self, status: int, kind: str, **extras: Any) -> None:
        super().__init__(kind)
        self.status = status
        self.body = {"type": f"urn:problem:{kind}", "title": kind, "status": status, **extras}

    def answer(self) -> httpx.Response:
        return httpx.Response(self.status, json={"detail": "refused", **self.body})


@dataclass(frozen=True)
class Row:
    """A record, or its tombstone."""

    id: str
    table: str
    key_id: str
    rev: int
    seq: int
    base: str
    body: bytes | None

    @property
    def checksum(self) -> str:
        return hashlib.sha256(self.body or b"").hexdigest()

    @property
    def etag(self) -> str:
        return f"{self.rev}-{self.checksum[:8]}"

    def shown(self) -> dict[str, Any]:
        return {
            "seq": self.seq,
            "kind": "record",
            "id": self.id,
            "table": self.table,
            "key_id": self.key_id,
            "etag": self.etag,
            "size_bytes": len(self.body or b""),
            "checksum": self.checksum,
            "is_deleted": self.body is None,
            "created_at": 1,
            "updated_at": 1,
        }


@dataclass
class Vector:
    seq: int
    epoch: int
    sealed: str
    vector: bytes
    tags: dict[str, str]


@dataclass
class Disk:
    """All that the store keeps."""

    seq: int = 0
    rows: dict[str, Row] = field(default_factory=dict)
    retired: set[str] = field(default_factory=set)
    uploads: dict[str, dict[str, Any]] = field(default_factory=dict)
    backups: list[dict[str, Any]] = field(default_factory=list)
    collections: dict[str, dict[str, Any]] = field(default_factory=dict)
    vectors: dict[tuple[str, str], Vector] = field(default_factory=dict)
    gone_vectors: dict[tuple[str, str], int] = field(default_factory=dict)


class Store:
    """One account's. ``requests`` are the calls so far; ``transport`` is how a vault reaches it."""

    def __init__(self) -> None:
        self.disk = Disk()
        self.horizon = 0
        self.page_items = 500
        # An old one knows no answers in bytes.
        self.is_old = False
        self.requests: list[str] = []
        self.bodies: list[bytes] = []

    def transport(self) -> httpx.MockTransport:
        return httpx.MockTransport(self.handle)

    def snapshot(self) -> Disk:
        return copy.deepcopy(self.disk)

    def restore(self, disk: Disk) -> None:
        self.disk = copy.deepcopy(disk)

    def bodies_kept(self) -> list[str]:
        """The ids of large bodies that are there."""
        return [row.id for row in self.disk.rows.values() if row.table == "_body" and row.body]

    def handle(self, request: httpx.Request) -> httpx.Response:
        body = request.read()
        self.requests.append(f"{request.method} {request.url.path}")
        self.bodies.append(body)
        for method, pattern, answer in ROUTES:
            found = re.fullmatch(pattern, request.url.path)
            if found and method == request.method:
                try:
                    return answer(self, request, *found.groups())
                except Problem as problem:
                    return problem.answer()
        return Problem(404, "not-found").answer()

    # Records.

    def live(self, record_id: str) -> Row:
        row = self.disk.rows.get(record_id)
        if row is None or row.body is None:
            raise Problem(404, "no-such-record")
        return row

    def get_record(self, request: httpx.Request, record_id: str) -> httpx.Response:
        row = self.live(record_id)
        headers = {"etag": f'"{row.etag}"', "x-table": row.table, "x-key-id": row.key_id}
        return ranged(request, row.body or b"", headers)

    def delete_record(self, request: httpx.Request, record_id: str) -> httpx.Response:
        row = self.write({"op": "delete", "id": record_id, "if_match": request.headers["if-match"]})
        return httpx.Response(204, headers={"etag": f'"{row.etag}"'})

    def list_records(self, request: httpx.Request) -> httpx.Response:
        table = request.url.params.get("table")
        rows = [row.shown() for row in self.disk.rows.values() if row.body is not None]
        items = [one for one in rows if table in (None, one["table"])]
        return httpx.Response(200, json={"items": items, "next": None})

    def batch(self, request: httpx.Request) -> httpx.Response:
        before, operations = self.snapshot(), json.loads(request.content)["operations"]
        results, errors = [], []
        for index, operation in enumerate(operations):
            try:
                row = self.write(operation)
            except Problem as problem:
                errors.append({"index": index, "id": operation["id"], **problem.body})
                continue
            results.append({"id": row.id, "status": 200, "etag": f'"{row.etag}"', "seq": row.seq})
        if errors:
            self.disk = before
            raise Problem(409, "batch-refused", errors=errors)
        return httpx.Response(200, json={"results": results})

    def write(self, operation: dict[str, Any]) -> Row:
        """Put or delete, under the conditions of the contract."""
        row, is_delete = self.disk.rows.get(operation["id"]), operation["op"] == "delete"
        is_there = row is not None and row.body is not None
        base = operation.get("if_match", "").strip('"') or "none"
        if operation.get("key_id") in self.disk.retired:
            raise Problem(409, "key-retired")
        if is_delete and not is_there:
            raise Problem(404, "no-such-record")
        if (base == "none" and is_there) or (base != "none" and (not row or row.etag != base)):
            raise Problem(412, "stale", etag=f'"{row.etag}"' if row else "")
        body = None if is_delete else base64.b64decode(operation["blob"])
        if body is not None and hashlib.sha256(body).hexdigest() != operation["checksum"]:
            raise Problem(400, "digest-mismatch")
        self.disk.seq += 1
        made = Row(
            operation["id"],
            operation.get("table") or (row.table if row else ""),
            operation.get("key_id") or (row.key_id if row else ""),
            row.rev + 1 if row else 1,
            self.disk.seq,
            base,
            body,
        )
        self.disk.rows[made.id] = made
        return made

    def changes(self, request: httpx.Request) -> httpx.Response:
        after = int(request.url.params.get("cursor", "seq-0").removeprefix("seq-"))
        if after and after < self.horizon:
            raise Problem(410, "cursor-expired")
        if request.url.params["kinds"] == "vector":
            lines = self.vector_lines()
        else:
            lines = [row.shown() for row in self.disk.rows.values()]
        if not after:
            lines = [one for one in lines if not (one["is_deleted"] and one["seq"] < self.horizon)]
        lines = sorted((one for one in lines if one["seq"] > after), key=lambda one: one["seq"])
        page = lines[: self.page_items]
        cursor = f"seq-{page[-1]['seq'] if page else after}"
        return httpx.Response(
            200, json={"items": page, "cursor": cursor, "has_more": len(page) < len(lines)}
        )

    def retire(self, request: httpx.Request, key_id: str) -> httpx.Response:
        live = [r for r in self.disk.rows.values() if r.key_id == key_id and r.body is not None]
        if live:
            raise Problem(409, "key-in-use", records=len(live))
        self.disk.retired.add(key_id)
        return httpx.Response(204)

    # Uploads and backups.

    def open_upload(self, request: httpx.Request) -> httpx.Response:
        said = json.loads(request.content)
        upload_id = str(uuid4())
        self.disk.uploads[upload_id] = {"said": said, "parts": {}}
        part_bytes = min(said["part_bytes"], 100_000)
        return httpx.Response(201, json={"id": upload_id, "part_bytes": part_bytes})

    def put_part(self, request: httpx.Request, upload_id: str, number: str) -> httpx.Response:
        if hashlib.sha256(request.content).hexdigest() != request.headers["x-checksum"]:
            raise Problem(400, "digest-mismatch")
        self.disk.uploads[upload_id]["parts"][int(number)] = request.content
        return httpx.Response(200, json={"number": int(number)})

    def complete(self, request: httpx.Request, upload_id: str) -> httpx.Response:
        upload = self.disk.uploads[upload_id]
        said, body = upload["said"], b"".join(data for _, data in sorted(upload["parts"].items()))
        checksum = hashlib.sha256(body).hexdigest()
        if len(body) != said["size_bytes"] or checksum != json.loads(request.content)["checksum"]:
            raise Problem(400, "digest-mismatch")
        if said["target"] == "backup":
            if any(one["version"] >= said["version"] for one in self.disk.backups):
                raise Problem(409, "backup-version-stale")
            made = {"id": str(uuid4()), "version": said["version"], "body": body}
            made |= {"timestamp": said["timestamp"], "size_bytes": len(body)}
            self.disk.backups.append(made)
            return httpx.Response(201, json={k: v for k, v in made.items() if k != "body"})
        blob = base64.b64encode(body).decode()
        row = self.write({"op": "put", "checksum": checksum, "blob": blob, **said})
        return httpx.Response(201, json=row.shown())

    def abort(self, request: httpx.Request, upload_id: str) -> httpx.Response:
        del self.disk.uploads[upload_id]
        return httpx.Response(204)

    def history(self, request: httpx.Request) -> httpx.Response:
        newest = sorted(self.disk.backups, key=lambda one: -one["version"])
        return httpx.Response(
            200, json=[{k: v for k, v in one.items() if k != "body"} for one in newest]
        )

    def get_backup(self, request: httpx.Request, backup_id: str = "") -> httpx.Response:
        found = [one for one in self.disk.backups if backup_id in ("", one["id"])]
        if not found:
            raise Problem(404, "no-such-backup")
        latest = max(found, key=lambda one: one["version"])
        return ranged(request, latest["body"], {"etag": f'"{latest["id"]}"'})

    def delete_backup(self, request: httpx.Request, backup_id: str) -> httpx.Response:
        self.disk.backups = [one for one in self.disk.backups if one["id"] != backup_id]
        return httpx.Response(204)

    # Vectors.

    def put_collection(self, request: httpx.Request, name: str) -> httpx.Response:
        said = json.loads(request.content)
        if said["mode"] == "dcpe" and said.get("leakage_ack") != "dcpe-v1":
            raise Problem(428, "leakage-not-acknowledged")
        self.disk.collections[name] = said
        return httpx.Response(200, json={"name": name, **said})

    def delete_collection(self, request: httpx.Request, name: str) -> httpx.Response:
        del self.disk.collections[name]
        return httpx.Response(204)

    def upsert(self, request: httpx.Request) -> httpx.Response:
        said = json.loads(request.content)
        if said.get("epoch", 1) != self.disk.collections[said["collection"]].get("epoch", 1):
            raise Problem(409, "epoch-mismatch")
        for one in said["vectors"]:
            self.disk.seq += 1
            self.disk.vectors[said["collection"], one["id"]] = Vector(
                self.disk.seq,
                said.get("epoch", 0),
                one["blob"],
                base64.b64decode(one.get("vector", "")),
                one["tags"],
            )
        return httpx.Response(200, json={"upserted": len(said["vectors"])})

    def search(self, request: httpx.Request) -> httpx.Response:
        import numpy as np

        said = json.loads(request.content)
        query = np.frombuffer(base64.b64decode(said["query"]), "<f4")
        found = []
        for (collection, item_id), one in self.disk.vectors.items():
            is_tagged = said["tags"].items() <= one.tags.items()
            if collection == said["collection"] and one.epoch == said["epoch"] and is_tagged:
                distance = float(np.linalg.norm(np.frombuffer(one.vector, "<f4") - query))
                found.append({"id": item_id, "distance_enc": distance, "sealed": one.sealed})
        of_epoch = [one for one in self.disk.vectors.values() if one.epoch == said["epoch"]]
        epoch = self.disk.collections[said["collection"]]["epoch"]
        if said["epoch"] > epoch or (said["epoch"] < epoch and not of_epoch):
            raise Problem(409, "epoch-mismatch")
        found.sort(key=lambda one: (one["distance_enc"], one["id"]))
        found = found[: said["overfetch"]]
        if self.is_old or not request.headers["accept"].startswith(FOUND):
            return httpx.Response(200, json={"items": found})
        return httpx.Response(200, content=framed(found), headers={"content-type": FOUND})

    def get_vector(self, request: httpx.Request, collection: str, item_id: str) -> httpx.Response:
        one = self.disk.vectors.get((collection, item_id))
        if one is None:
            raise Problem(404, "no-such-vector")
        return httpx.Response(200, json={"id": item_id, "sealed": one.sealed, "tags": one.tags})

    def delete_vectors(self, request: httpx.Request) -> httpx.Response:
        said = json.loads(request.content)
        deleted = 0
        for key in [(said["collection"], item_id) for item_id in said["ids"]]:
            if self.disk.vectors.pop(key, None):
                self.disk.seq += 1
                self.disk.gone_vectors[key] = self.disk.seq
                deleted += 1
        return httpx.Response(200, json={"deleted": deleted})

    def vector_lines(self) -> list[dict[str, Any]]:
        there = [(key, one.seq, False) for key, one in self.disk.vectors.items()]
        gone = [(key, seq, True) for key, seq in self.disk.gone_vectors.items()]
        return [
            {"seq": seq, "kind": "vector", "table": key[0], "id": key[1], "is_deleted": is_deleted}
            for key, seq, is_deleted in there + gone
        ]


def framed(found: list[dict[str, Any]]) -> bytes:
    """What a search has found, as fields behind their lengths."""
    head = {"items": [{k: v for k, v in one.items() if k != "sealed"} for one in found]}
    fields = [json.dumps(head).encode()]
    for one in found:
        fields += (one["id"].encode(), base64.b64decode(one["sealed"]))
    return b"".join(len(one).to_bytes(4, "big") + one for one in fields)


def ranged(request: httpx.Request, body: bytes, headers: dict[str, str]) -> httpx.Response:
    asked = request.headers.get("range")
    if asked is None or request.headers.get("if-range") != headers["etag"]:
        return httpx.Response(200, content=body, headers=headers)
    return httpx.Response(206, content=body[int(asked[6:-1]) :], headers=headers)


Answer = Callable[..., httpx.Response]
ROUTES: list[tuple[str, str, Answer]] = [
    ("GET", f"{STORAGE}/records", Store.list_records),
    ("GET", f"{STORAGE}/records/([^/]+)", Store.get_record),
    ("DELETE", f"{STORAGE}/records/([^/]+)", Store.delete_record),
    ("POST", f"{STORAGE}/batch", Store.batch),
    ("GET", f"{STORAGE}/changes", Store.changes),
    ("DELETE", f"{STORAGE}/keys/([^/]+)", Store.retire),
    ("POST", f"{STORAGE}/uploads", Store.open_upload),
    ("PUT", f"{STORAGE}/uploads/([^/]+)/parts/([0-9]+)", Store.put_part),
    ("POST", f"{STORAGE}/uploads/([^/]+)/complete", Store.complete),
    ("DELETE", f"{STORAGE}/uploads/([^/]+)", Store.abort),
    ("GET", "/api/v1/backup/history", Store.history),
    ("GET", "/api/v1/backup", Store.get_backup),
    ("GET", "/api/v1/backup/([^/]+)", Store.get_backup),
    ("DELETE", "/api/v1/backup/([^/]+)", Store.delete_backup),
    ("PUT", f"{STORAGE}/collections/([^/]+)", Store.put_collection),
    ("DELETE", f"{STORAGE}/collections/([^/]+)", Store.delete_collection),
    ("POST", f"{STORAGE}/vectors/upsert", Store.upsert),
    ("POST", f"{STORAGE}/vectors/search", Store.search),
    ("DELETE", f"{STORAGE}/vectors", Store.delete_vectors),
    ("GET", f"{STORAGE}/vectors/([^/]+)/([^/]+)", Store.get_vector),
]
