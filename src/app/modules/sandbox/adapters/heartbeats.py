"""Which processes of this installation are alive."""

import asyncio
from contextlib import suppress
from typing import Final

from app.kernel.errors import Unavailable
from app.kernel.ports import Cache

EVERY_S: Final = 10.0
ALIVE_S: Final = 60.0


class Heartbeats:
    """One process's sign of life, in the cache that all processes of an installation share.

    ``instance`` names the installation and the process.
    """

    def __init__(self, cache: Cache, installation: str, process: str) -> None:
        self.instance = f"{installation}.{process}"
        self._installation = installation
        self._cache = cache

    async def beat(self) -> None:
        """Give signs of life, until cancelled."""
        while True:
            with suppress(Unavailable):
                await self._cache.set(_key(self.instance), b"alive", ttl_s=ALIVE_S)
            await asyncio.sleep(EVERY_S)

    async def is_alive(self, instance: str) -> bool:
        """Whether a process is alive, or none of ours, or nobody can tell."""
        installation, _, _ = instance.partition(".")
        if installation != self._installation or instance == self.instance:
            return True
        try:
            return await self._cache.get(_key(instance)) is not None
        except Unavailable:
            return True


def _key(instance: str) -> str:
    return f"sandbox.instance.{instance}"
