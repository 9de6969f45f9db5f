"""Containers on their way out: each is removed however often the engine has to be asked."""

import asyncio
from typing import Final

from app.kernel import log
from app.modules.sandbox.adapters.docker.engine import Engine, EngineFailed

TRIES: Final = 7
# Doubled after each try: the last one comes about six seconds after the first.
BACKOFF_S: Final = 0.1
NOT_FOUND: Final = 404
ABSENCES: Final = 2

_log = log.get("sandbox")


class Removals:
    """What was asked to go and is not yet gone. What cannot be removed is left to the sweep."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._going: dict[str, asyncio.Task[None]] = {}

    def begin(self, container: str) -> asyncio.Task[None]:
        """Remove it, dead or alive. Asking again is asking once."""
        if container not in self._going:
            task = asyncio.create_task(self._remove(container), name=f"remove-{container}")
            self._going[container] = task
            task.add_done_callback(lambda _: self._going.pop(container, None))
        return self._going[container]

    async def finish(self, within_s: float) -> None:
        """Wait until nothing is on its way out, or time is up."""
        if self._going:
            await asyncio.wait(list(self._going.values()), timeout=within_s)

    def give_up(self) -> None:
        """Try no more: a later sweep finds what is left."""
        for task in self._going.values():
            task.cancel()

    async def _remove(self, container: str) -> None:
        absences = 0
        for attempt in range(TRIES):
            try:
                await self._engine.call(
                    lambda client: client.remove_container(container, force=True)
                )
            except EngineFailed as error:
                # A conflict is a removal under way, which may still fail: ask until there is none.
                # One that is only being made is not found either: ask again.
                absences += error.status == NOT_FOUND
                if absences == ABSENCES:
                    return
                reason = str(error)
            else:
                return
            await asyncio.sleep(BACKOFF_S * 2**attempt)
        _log.warning("sandbox.container-left", container=container, reason=reason)
