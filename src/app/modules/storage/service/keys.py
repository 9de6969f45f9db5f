"""How much a user has, and sealed with which of the client's keys; retiring one."""

from typing import Final
from uuid import UUID

from app.kernel.db import Database
from app.kernel.errors import Conflict
from app.modules.auth.api import Principal
from app.modules.storage.domain.allowances import Sums
from app.modules.storage.domain.keys import SealingKey, Standing
from app.modules.storage.repository.accounts import AccountRepository, sums_of
from app.modules.storage.repository.records import RecordRepository
from app.modules.storage.service.allowances import Allowances

KEYS_LIMIT: Final = 1000
NOTHING: Final = Sums(0, 0)


class KeyInUse(Conflict):
    """There are records that only this key opens; ``records`` says how many."""

    title = "Key in use"


class KeysTooMany(Conflict):
    """So many keys are retired already."""

    title = "Too many keys"


class Keys:
    def __init__(self, db: Database, allowances: Allowances) -> None:
        self._db = db
        self._allowances = allowances

    async def all(self, user_id: UUID) -> list[SealingKey]:
        """Keys that seal live records, or are retired."""
        async with self._db.read() as session:
            used = await RecordRepository(session).by_key(user_id, KEYS_LIMIT)
            retired = await AccountRepository(session).all_retired(user_id)
        keys = [SealingKey(*one, is_retired=one[0] in retired) for one in used]
        unused = retired - {key.key_id for key in keys}
        keys += [SealingKey(key_id, 0, 0, is_retired=True) for key_id in unused]
        return sorted(keys, key=lambda key: key.key_id)

    async def retire(self, user_id: UUID, key_id: str) -> None:
        """Let it seal nothing any more. Once nothing live needs it, and none can come."""
        async with self._db.begin(is_durable=True) as session:
            accounts = AccountRepository(session)
            await accounts.lock(user_id)
            records = await RecordRepository(session).count_sealed(user_id, key_id)
            if records:
                raise KeyInUse("Seal these records with another key first.", records=records)
            retired = await accounts.all_retired(user_id)
            if len(retired) >= KEYS_LIMIT and key_id not in retired:
                raise KeysTooMany(f"There are {KEYS_LIMIT} retired keys already.")
            await accounts.retire(user_id, key_id)

    async def standing(self, principal: Principal) -> Standing:
        """How much the caller has, and may have."""
        allowance = await self._allowances.of(principal)
        async with self._db.read() as session:
            account = await AccountRepository(session).find(principal.user_id)
        if account is None:
            return Standing(NOTHING, NOTHING, allowance)
        return Standing(sums_of(account, "record"), sums_of(account, "backup"), allowance)
