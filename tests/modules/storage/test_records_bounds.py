"""How much a tier lets in, and whose records they are."""

import re
import sqlite3
from uuid import UUID, uuid4

import pytest
from sqlalchemy import event

from app.kernel.db import Database
from tests.modules.storage.desks import (
    CREATE,
    RECORDS,
    problem,
    sealed,
)

pytestmark = pytest.mark.asyncio(loop_scope="module")

BODY = bytes(range(256)) * 8
# The same in every process that collects these tests.
UNKNOWN = UUID(int=404)


class TestTiers:
    @pytest.mark.parametrize(
        ("method", "path", "more"),
        [
            ("PUT", f"/records/{UNKNOWN}", {"content": BODY}),
            ("POST", "/records", {"json": sealed(BODY, table="notes")}),
            (
                "POST",
                "/batch",
                {"json": {"operations": [{"op": "put", "id": str(UNKNOWN), **sealed(BODY)}]}},
            ),
            ("POST", f"/records/{UNKNOWN}/restore", {"json": {"rev": 1}}),
        ],
    )
    async def test_the_free_one_writes_nothing(self, desk, method, path, more):
        anna = await desk.member("anna", None)

        answer = await anna.ask(method, path, CREATE | {"x-table": "notes"}, **more)

        assert problem(answer) == (403, "tier-required")

    async def test_the_free_one_reads_and_deletes_what_there_was(self, desk):
        anna = await desk.member("anna", "pro")
        record_id, etag = await anna.made(BODY)
        await anna.move("free")

        read = await anna.get(record_id)
        gone = await anna.delete(record_id, etag)

        assert (read.content, gone.status_code) == (BODY, 204)
        assert (await anna.usage())["used_bytes"] == 0

    async def test_a_body_over_the_limit_is_refused_by_what_it_announces(self, desk):
        size = 5 * 2**30 + 1

        answer = await desk.put(uuid4(), b"", CREATE | {"content-length": str(size)})

        assert answer.status_code == 413

    async def test_what_does_not_fit_is_refused_with_the_numbers(self, desk):
        anna = await desk.member("anna", "pro")
        quota = (await anna.usage())["quota_bytes"]
        await anna.fill(quota - 10)

        answer = await anna.put(uuid4(), b"x" * 11)

        assert problem(answer) == (507, "quota-exceeded")
        read = answer.json()
        assert (read["used_bytes"], read["reserved_bytes"]) == (quota - 10, 0)
        assert (read["quota_bytes"], read["needed_bytes"]) == (quota, 11)

    async def test_above_the_quota_is_read_and_deleted_and_not_written(self, desk):
        anna = await desk.member("anna", "pro")
        record_id, etag = await anna.made(BODY)
        await anna.fill((await anna.usage())["quota_bytes"] + len(BODY))

        wrote = await anna.put(record_id, b"", {"if-match": etag})
        read = await anna.get(record_id)
        gone = await anna.delete(record_id, etag)
        usage = await anna.usage()

        assert problem(wrote) == (507, "quota-exceeded")
        assert (read.content, gone.status_code) == (BODY, 204)
        # Nothing is left to restore, so that deleting makes room.
        assert usage["used_bytes"] == usage["quota_bytes"]


class TestIsolation:
    """Somebody else's id answers like an unknown one, after the same statements."""

    @pytest.mark.parametrize(
        ("method", "path", "headers", "more"),
        [
            ("GET", "/records/{id}", {}, {}),
            ("HEAD", "/records/{id}", {}, {}),
            ("GET", "/records/{id}?rev=1", {}, {}),
            ("GET", "/records/{id}/versions", {}, {}),
            ("PUT", "/records/{id}", {"if-match": "*"}, {"content": b"x"}),
            ("DELETE", "/records/{id}", {"if-match": "*"}, {}),
            ("POST", "/records/{id}/restore", {"if-match": "*"}, {"json": {"rev": 1}}),
            (
                "POST",
                "/batch",
                {},
                {"json": {"operations": [{"op": "delete", "id": "{id}", "if_match": "*"}]}},
            ),
            (
                "POST",
                "/batch",
                {},
                {"json": {"operations": [{"op": "check", "id": "{id}", "if_match": "*"}]}},
            ),
        ],
    )
    async def test_on_every_route(self, desk, method, path, headers, more):
        anna, bert = await desk.member("anna"), await desk.member("bert")
        theirs, _ = await anna.made(BODY)
        unknown = str(uuid4())
        await bert.made(b"own")

        async def told(record_id: str):
            body = {k: _named(v, record_id) for k, v in more.items()}
            with _Statements(desk.house.db) as statements:
                answer = await bert.ask(method, path.replace("{id}", record_id), headers, **body)
            text = answer.text.replace(answer.headers["x-request-id"], "").replace(record_id, "")
            return answer.status_code, text, statements.texts

        assert await told(theirs) == await told(unknown)
        assert (await told(theirs))[0] in {404, 409, 412}
        assert (await anna.get(theirs)).content == BODY

    async def test_the_same_id_is_another_record_for_somebody_else(self, desk):
        anna, bert = await desk.member("anna"), await desk.member("bert")
        record_id, _ = await anna.made(b"anna's")

        answer = await bert.put(record_id, b"bert's")

        assert answer.status_code == 201
        assert (await anna.get(record_id)).content == b"anna's"
        assert (await bert.get(record_id)).content == b"bert's"

    async def test_lists_are_ones_own(self, desk):
        anna, bert = await desk.member("anna"), await desk.member("bert")
        await anna.put(uuid4(), BODY, CREATE | {"x-key-id": "k1"})

        assert (await bert.ask("GET", "/records")).json()["items"] == []
        assert (await bert.ask("GET", "/keys")).json()["items"] == []
        assert (await bert.changes())["items"] == []
        assert (await bert.usage())["used_bytes"] == 0

    async def test_nobody_comes_in_without_a_key(self, desk):
        answer = await desk.client.get(RECORDS)

        assert answer.status_code == 401


class TestStatements:
    """Small records are what there is most of: more statements are felt."""

    async def test_a_small_record_is_written_by_five(self, fresh):
        await fresh.made(b"first")
        with _Statements(fresh.house.db) as statements:
            await fresh.made(b"second")

        verbs = [text.split()[0] for text in statements.texts]
        assert verbs == ["SELECT", "SELECT", "INSERT", "INSERT", "UPDATE"]

    async def test_a_small_record_is_read_by_one(self, fresh):
        record_id, _ = await fresh.made(b"first")
        with _Statements(fresh.house.db) as statements:
            await fresh.get(record_id)

        assert len(statements.texts) == 1


def _named(value, record_id: str):
    """The same JSON about this record."""
    if isinstance(value, dict):
        return {key: _named(one, record_id) for key, one in value.items()}
    if isinstance(value, list):
        return [_named(one, record_id) for one in value]
    return record_id if value == "{id}" else value


class _Statements:
    """The texts of what a database is asked, as SQLite itself tells them."""

    def __init__(self, db: Database) -> None:
        self._engines = (db.reader.sync_engine, db.writer.sync_engine)
        self._traced: set[sqlite3.Connection] = set()
        self.texts: list[str] = []

    def __enter__(self) -> "_Statements":
        for engine in self._engines:
            event.listen(engine, "checkout", self._trace)
        return self

    def __exit__(self, *_: object) -> None:
        for engine in self._engines:
            event.remove(engine, "checkout", self._trace)
        for connection in self._traced:
            connection.set_trace_callback(None)

    def _trace(self, connection, *_rest) -> None:
        raw = connection.driver_connection.raw
        raw.set_trace_callback(self._note)
        self._traced.add(raw)

    def _note(self, statement: str) -> None:
        if "storage_" in statement:
            # The values that are quoted are not of the statement.
            self.texts.append(re.sub(r"'[^']*'", "?", statement))
