"""The wire of health."""

from datetime import datetime
from typing import Literal

import msgspec

from app.modules.health.domain import Pulse, Readiness


class HealthRead(msgspec.Struct, frozen=True):
    """A sign of life. ``timestamp`` is UTC."""

    status: Literal["healthy"]
    version: str
    timestamp: datetime

    @classmethod
    def of(cls, pulse: Pulse) -> "HealthRead":
        return cls("healthy", pulse.version, pulse.at)


class LivenessRead(msgspec.Struct, frozen=True):
    """A sign of life, as the liveness probe names it."""

    status: Literal["alive"]
    version: str
    timestamp: datetime

    @classmethod
    def of(cls, pulse: Pulse) -> "LivenessRead":
        return cls("alive", pulse.version, pulse.at)


class PlatformHealthRead(msgspec.Struct, frozen=True):
    """A sign of life, as the platform's clients know it."""

    status: Literal["healthy"]
    version: str

    @classmethod
    def of(cls, pulse: Pulse) -> "PlatformHealthRead":
        return cls("healthy", pulse.version)


class ReadinessRead(msgspec.Struct, frozen=True):
    """Whether requests can be served, and which check says otherwise."""

    status: Literal["ready", "not_ready"]
    checks: dict[str, bool]

    @classmethod
    def of(cls, readiness: Readiness) -> "ReadinessRead":
        return cls("ready" if readiness.is_ready else "not_ready", readiness.checks)
