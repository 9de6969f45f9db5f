"""One answer for all who ask for the same thing at the same time."""

import asyncio
from collections.abc import Callable, Coroutine, Hashable
from typing import Any, Generic, TypeVar

V = TypeVar("V")


class SingleFlight(Generic[V]):
    """Asks once for each key, however many wait for the answer.

    A memory whose entry has grown old is missed by every caller at once. Who leaves does not end
    the question for the others; a failure is everybody's.
    """

    def __init__(self) -> None:
        self._flights: dict[Hashable, asyncio.Task[V]] = {}

    async def join(self, key: Hashable, ask: Callable[[], Coroutine[Any, Any, V]]) -> V:
        """Wait for the answer that is on its way for this key, else ask."""
        flight = self._flights.get(key)
        if flight is None:
            flight = self._flights[key] = asyncio.create_task(ask())
            flight.add_done_callback(lambda ended: self._land(key, ended))
        return await asyncio.shield(flight)

    def _land(self, key: Hashable, ended: "asyncio.Task[V]") -> None:
        del self._flights[key]
        if not ended.cancelled():
            # Whoever waited has it raised; if all have left, it is nobody's.
            ended.exception()
