"""The server itself, and who is asking."""

from datetime import datetime

import msgspec

from app.kernel.db import Database
from app.kernel.errors import Unavailable
from app.kernel.ports import Clock
from app.modules.auth.api import Principal, Profile, Profiles
from app.modules.billing.api import Allowance, Tier, Tiers


class Pulse(msgspec.Struct, frozen=True):
    """A sign of life."""

    version: str
    at: datetime
    uptime_s: float
    is_embedded: bool


class System:
    def __init__(
        self, db: Database, clock: Clock, version: str, profiles: Profiles, tiers: Tiers
    ) -> None:
        self._db = db
        self._clock = clock
        self._version = version
        self._profiles = profiles
        self._tiers = tiers
        self._since = clock()

    def pulse(self) -> Pulse:
        now = self._clock()
        uptime_s = (now - self._since).total_seconds()
        return Pulse(self._version, now, uptime_s, self._db.is_embedded)

    async def has_database(self) -> bool:
        try:
            await self._db.ping()
        except Unavailable:
            return False
        return True

    async def account(self, principal: Principal) -> tuple[Profile, Tier | None, list[Allowance]]:
        profile = await self._profiles.profile_of(principal.user_id)
        tier, allowances = await self._tiers.own(principal)
        return profile, tier, allowances
