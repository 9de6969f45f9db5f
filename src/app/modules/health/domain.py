"""Signs of life, and when a process counts as ready."""

from collections.abc import Mapping
from datetime import datetime

import msgspec

ALWAYS = ("surrealdb", "redis", "database")


class Pulse(msgspec.Struct, frozen=True):
    """A sign of life."""

    version: str
    at: datetime


class Readiness(msgspec.Struct, frozen=True):
    """Every check by name, and whether it passed."""

    checks: dict[str, bool]

    @classmethod
    def of(cls, outcomes: Mapping[str, bool]) -> "Readiness":
        """A check that everybody expects and nobody made has not passed."""
        return cls({**dict.fromkeys(ALWAYS, False), **outcomes})

    @property
    def is_ready(self) -> bool:
        return all(self.checks.values())
