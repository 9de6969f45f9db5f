"""Statements about accounts and retired keys."""

import secrets
from collections.abc import Collection
from functools import partial
from typing import Any, Final, cast
from uuid import UUID

from sqlalchemy import Table, Uuid, bindparam, delete, select, update
from sqlalchemy.dialects.postgresql import insert as postgres_insert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert
from sqlalchemy.ext.asyncio import AsyncSession

from app.kernel.db import Prepared, before_commit, uuid7
from app.kernel.ports import utc_now
from app.modules.storage.domain.allowances import Purpose, Sums
from app.modules.storage.models import AccountRow, KeyRow

ACCOUNTS: Final = cast(Table, AccountRow.__table__)
EPOCH_BYTES: Final = 8
SAVED: Final = (
    "epoch",
    "seq",
    "floor_seq",
    "record_bytes",
    "record_reserved_bytes",
    "backup_bytes",
    "backup_reserved_bytes",
    "backup_version",
)
_USER: Final = bindparam("the_user", type_=Uuid())
# Every change begins and ends with an account: by the table, and made once.
_NAMES: Final = ACCOUNTS.columns.keys()
_LOCK: Final = Prepared(select(ACCOUNTS).where(ACCOUNTS.c.id == _USER).with_for_update())
_SAVE: Final = Prepared(update(ACCOUNTS).where(ACCOUNTS.c.id == _USER))


class AccountRepository:
    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    async def lock(self, user_id: UUID) -> AccountRow:
        """The user's account, made when it is not there, and nobody else's until the commit.

        What is changed in the row is written by the commit.
        """
        row = await self.lock_if_there(user_id)
        if row is None:
            await self._open(user_id)
            row = await self.lock_if_there(user_id)
        if row is None:
            raise LookupError(f"the account of {user_id} cannot be made")
        return row

    async def lock_if_there(self, user_id: UUID) -> AccountRow | None:
        """Never make one: it could belong to somebody who is gone."""
        locked: dict[UUID, AccountRow] = self._session.info.setdefault("storage_accounts", {})
        if user_id not in locked:
            rows = await _LOCK.rows(self._session, {"the_user": user_id})
            if not rows:
                return None
            account = locked[user_id] = AccountRow(**dict(zip(_NAMES, rows[0], strict=True)))
            before_commit(self._session, partial(self._save, account, _values(account)))
        return locked[user_id]

    async def find(self, user_id: UUID) -> AccountRow | None:
        return await self._session.get(AccountRow, user_id)

    async def retired(self, user_id: UUID, key_ids: Collection[str]) -> set[str]:
        """Those of the keys that may seal nothing any more."""
        wanted = [key_id for key_id in key_ids if key_id]
        if not wanted:
            return set()
        found = select(KeyRow.key_id).where(KeyRow.user_id == user_id, KeyRow.key_id.in_(wanted))
        return set(await self._session.scalars(found))

    async def all_retired(self, user_id: UUID) -> set[str]:
        return set(
            await self._session.scalars(select(KeyRow.key_id).where(KeyRow.user_id == user_id))
        )

    async def retire(self, user_id: UUID, key_id: str) -> None:
        gone = delete(KeyRow).where(KeyRow.user_id == user_id, KeyRow.key_id == key_id)
        await self._session.execute(gone)
        self._session.add(KeyRow(id=uuid7(), user_id=user_id, key_id=key_id))
        await self._session.flush()

    async def _save(self, account: AccountRow, before: dict[str, Any]) -> None:
        values = _values(account)
        if values != before:
            named = {"the_user": account.id, "updated_at": utc_now()}
            await _SAVE.rows(self._session, values | named)

    async def _open(self, user_id: UUID) -> None:
        is_postgres = self._session.get_bind().dialect.name == "postgresql"
        insert = postgres_insert if is_postgres else sqlite_insert
        row = {
            "id": user_id,
            "epoch": secrets.token_hex(EPOCH_BYTES),
            "seq": 0,
            "floor_seq": 0,
            "record_bytes": 0,
            "record_reserved_bytes": 0,
            "backup_bytes": 0,
            "backup_reserved_bytes": 0,
        }
        await self._session.execute(insert(ACCOUNTS).values(row).on_conflict_do_nothing())


def _values(account: AccountRow) -> dict[str, Any]:
    return {name: getattr(account, name) for name in SAVED}


def sums_of(account: AccountRow, purpose: Purpose) -> Sums:
    if purpose == "record":
        return Sums(account.record_bytes, account.record_reserved_bytes)
    return Sums(account.backup_bytes, account.backup_reserved_bytes)


def add(
    account: AccountRow, purpose: Purpose, *, used_bytes: int = 0, reserved_bytes: int = 0
) -> None:
    """Change the sums of a locked account."""
    if purpose == "record":
        account.record_bytes += used_bytes
        account.record_reserved_bytes += reserved_bytes
    else:
        account.backup_bytes += used_bytes
        account.backup_reserved_bytes += reserved_bytes
