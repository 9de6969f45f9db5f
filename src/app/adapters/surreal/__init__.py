"""Chooses between a SurrealDB server and the engine in this process."""

import asyncio
from functools import partial
from pathlib import Path

from app.adapters.surreal.client import Dial, Link, Surreal
from app.adapters.surreal.settings import SurrealSettings

__all__ = ["Surreal", "SurrealSettings", "open_surreal"]


def open_surreal(settings: SurrealSettings, data_dir: Path, *, workers: int) -> Surreal:
    """Open nothing yet: package and connection wait for the first query."""
    settings.refuse_wrong_combinations(workers)

    async def dial() -> Link:
        # The package takes 0.2 s to import: in a thread, so that no other request waits for it.
        return await (await asyncio.to_thread(_chosen, settings, data_dir / "surreal"))()

    return Surreal(dial)


def _chosen(settings: SurrealSettings, folder: Path) -> Dial:
    from app.adapters.surreal.wire import EmbeddedLink, RemoteLink

    if settings.url:
        return partial(RemoteLink.open, settings)
    return partial(EmbeddedLink.open, settings, folder)
