"""The few statements that storage asks most, without SQLAlchemy's way to SQLite."""

import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sqlalchemy import Delete, Dialect, Insert, Select, Update
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session


class Prepared:
    """A statement that is put together once, and for SQLite compiled once.

    From a session to the driver costs several times what SQLite does with a short statement. So
    there it is given to the driver directly, in the session's transaction; a session of
    PostgreSQL executes it like any other. Its values have the same names each time, those of all
    columns that it writes: no default is filled in, and nothing is flushed before it.
    """

    def __init__(self, statement: Select[Any] | Insert | Update | Delete) -> None:
        self._statement = statement
        self._form: _Form | None = None

    async def rows(
        self, session: AsyncSession, values: Mapping[str, Any]
    ) -> Sequence[Sequence[Any]]:
        """What it answers, each row in the order of its columns."""
        link = await _link(session)
        if link is None:
            found: Any = await session.execute(self._statement, values)
            return found.all() if found.returns_rows else ()
        if self._form is None:
            self._form = _Form(self._statement, values, session.get_bind().dialect)
        return await self._form.ask(link, values)


class _Form:
    """A statement in SQLite's words, and how its values get there and back."""

    def __init__(self, statement: Any, names: Iterable[str], dialect: Dialect) -> None:
        compiled = statement.compile(dialect=dialect, column_keys=[*names])
        self._text = str(compiled)
        self._outward = [
            (name, compiled.binds[name].type.dialect_impl(dialect).bind_processor(dialect))
            for name in compiled.positiontup
        ]
        inward = [
            column.type.dialect_impl(dialect).result_processor(dialect, None)
            for column in statement.exported_columns
        ]
        self._inward = [(at, change) for at, change in enumerate(inward) if change]

    async def ask(self, link: Any, values: Mapping[str, Any]) -> list[list[Any]]:
        given = [change(values[name]) if change else values[name] for name, change in self._outward]
        try:
            rows = await link.rows(self._text, given)
        except sqlite3.Error as error:
            # As a session raises it, but for the values: they may be somebody's bytes.
            raise DBAPIError.instance(self._text, None, error, sqlite3.Error) from error
        return [self._read(row) for row in rows]

    def _read(self, row: Sequence[Any]) -> list[Any]:
        read = list(row)
        for at, change in self._inward:
            read[at] = change(read[at])
        return read


async def _link(session: AsyncSession) -> Any:
    """SQLite's connection, in the session's transaction; ``None`` where it is another database."""
    if "link" not in session.info:
        session.info["link"] = await session.run_sync(_connected)
    return session.info["link"]


def _connected(session: Session) -> Any:
    connection = session.connection()
    is_sqlite = connection.dialect.name == "sqlite"
    return connection.connection.driver_connection if is_sqlite else None
