"""How much a caller may keep."""

from app.modules.auth.api import Principal
from app.modules.billing.api import Tiers
from app.modules.storage.domain.allowances import Allowance, allowance_of


class Allowances:
    def __init__(self, tiers: Tiers) -> None:
        self._tiers = tiers

    async def of(self, principal: Principal) -> Allowance:
        return allowance_of(await self._tiers.tier_of(principal))
