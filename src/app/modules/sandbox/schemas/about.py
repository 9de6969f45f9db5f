"""What a sandbox says of itself."""

import msgspec

from app.modules.sandbox.domain.limits import Limits
from app.modules.sandbox.ports import Capabilities


class HealthRead(msgspec.Struct, frozen=True):
    status: str = "ok"


class WallRead(msgspec.Struct, frozen=True):
    """One means of isolation; ``why`` says why it is missing, and what would help."""

    name: str
    is_up: bool
    why: str | None


class CapabilitiesRead(msgspec.Struct, frozen=True):
    """How scripts are isolated here, and what they may use.

    ``tier`` is ``none``, for ``reason``, where nothing is run at all.
    """

    runner: str
    tier: str
    reason: str | None
    walls: list[WallRead]
    limits: Limits
    network: bool = False

    @classmethod
    def of(cls, found: Capabilities) -> "CapabilitiesRead":
        return cls(
            runner=found.runner,
            tier=found.tier,
            reason=found.reason or None,
            walls=[WallRead(wall.name, wall.is_up, wall.why or None) for wall in found.walls],
            limits=Limits(),
        )
