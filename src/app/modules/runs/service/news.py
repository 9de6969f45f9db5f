"""Who follows a run, and how they learn that it has moved.

News are hints: the log is the truth, and whoever follows looks there once a second in any case.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Final
from uuid import UUID

from app.kernel import log
from app.kernel.errors import Unavailable
from app.kernel.ports import Cache
from app.modules.runs.domain import Status

TOPIC: Final = "runs.moved"
RETRY_EVERY_S: Final = 1.0
TOLD_AT_ONCE: Final = 100
UNTOLD_LIMIT: Final = 10_000

_log = log.get("runs")


class RunNews:
    """Tells the followers in this process at once, and those in the others by the cache."""

    def __init__(self, cache: Cache) -> None:
        self._cache = cache
        self._followers: dict[UUID, set[asyncio.Event]] = {}
        self._observers: list[Callable[[UUID, str], None]] = []
        self._untold: deque[str] = deque(maxlen=UNTOLD_LIMIT)
        self._telling: asyncio.Task[None] | None = None

    def observe(self, observer: Callable[[UUID, str], None]) -> None:
        """Have ``observer`` told what moved, here or elsewhere, and into which state."""
        self._observers.append(observer)

    def tell(self, run_id: UUID, status: Status) -> None:
        """This run has moved; its transaction has committed."""
        self._ring(run_id)
        self._untold.append(f"{run_id} {status}")
        if self._telling is None:
            self._telling = asyncio.create_task(self._publish())

    @contextmanager
    def following(self, run_id: UUID) -> Iterator[asyncio.Event]:
        """An event that is set whenever the run moves."""
        moved = asyncio.Event()
        followers = self._followers.setdefault(run_id, set())
        followers.add(moved)
        try:
            yield moved
        finally:
            followers.discard(moved)
            if not followers:
                self._followers.pop(run_id, None)

    async def listen(self) -> None:
        """Hear what moves in other processes, until cancelled."""
        while True:
            try:
                async for message in self._cache.listen(TOPIC):
                    self._hear(message)
            except Unavailable as error:
                _log.warning("runs.news-missed", reason=str(error.__cause__ or error))
            except Exception as error:  # noqa: BLE001 - whatever ended the listening, it begins again
                _log.exception("runs.listening-failed", error)
            await asyncio.sleep(RETRY_EVERY_S)

    async def _publish(self) -> None:
        """Publish what there is to tell, and what comes meanwhile. What is not heard is seen."""
        try:
            while self._untold:
                count = min(len(self._untold), TOLD_AT_ONCE)
                told = "\n".join(self._untold.popleft() for _ in range(count))
                with suppress(Unavailable):
                    await self._cache.publish(TOPIC, told)
        finally:
            self._telling = None

    def _hear(self, message: str) -> None:
        for line in message.splitlines():
            self._hear_one(line)

    def _hear_one(self, line: str) -> None:
        with suppress(ValueError):
            text, _, status = line.partition(" ")
            run_id = UUID(text)
            self._ring(run_id)
            for observer in self._observers:
                observer(run_id, status)

    def _ring(self, run_id: UUID) -> None:
        for moved in self._followers.get(run_id, ()):
            moved.set()
