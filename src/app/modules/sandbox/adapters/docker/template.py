"""Where one project's containers come from: an image, and what its interpreter needs by itself."""

import asyncio
from typing import Final

from app.modules.sandbox.adapters.docker.container import DockerWorker
from app.modules.sandbox.adapters.docker.containers import MIB, Containers, ImageGone
from app.modules.sandbox.adapters.docker.engine import Engine
from app.modules.sandbox.ports import TemplateSpec, WorkerFailed

# Memory for an interpreter and what it imports, until it is known how much that is.
FIRST_BASE_MB: Final = 512
# Beyond what was measured once: workers are alike, not equal.
MARGIN_MB: Final = 16
CLOSE_S: Final = 15.0


class DockerTemplate:
    """Each worker is a container of its own. ``walls`` is what the first one has found."""

    def __init__(
        self, engine: Engine, containers: Containers, image: str, spec: TemplateSpec
    ) -> None:
        self.walls: dict[str, bool] = {}
        self._engine = engine
        self._containers = containers
        self._image = image
        self._spec = spec
        self._base_mb = FIRST_BASE_MB
        self._workers: set[DockerWorker] = set()
        self._lost: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    @property
    def is_lost(self) -> bool:
        return self._lost.done()

    async def open(self) -> None:
        """Start one worker, look at it and end it; ``WorkerFailed`` if there is none."""
        worker = await self.spawn()
        try:
            self.walls = worker.walls
            used = await self._engine.call(
                lambda client: client.stats(worker.name, stream=False, one_shot=True)
            )
            usage = used["memory_stats"].get("usage")
            if usage is None:
                raise WorkerFailed("The first worker ended before its memory could be measured.")
            self._base_mb = usage // MIB + MARGIN_MB
        finally:
            worker.kill()

    async def spawn(self) -> DockerWorker:
        if self._lost.done():
            raise WorkerFailed(self._lost.result())
        try:
            worker = await self._containers.start(self._image, self._spec, self._base_mb)
        except ImageGone as error:
            self.lose(str(error))
            raise
        if self._lost.done():
            worker.kill()
            raise WorkerFailed(self._lost.result())
        missing = [
            name for name, is_up in self.walls.items() if is_up and not worker.walls.get(name)
        ]
        if missing:
            worker.kill()
            raise WorkerFailed(f"The worker lacks walls that the first one had: {missing}.")
        self._workers = {known for known in self._workers if not known.is_gone}
        self._workers.add(worker)
        return worker

    async def until_lost(self) -> str:
        return await asyncio.shield(self._lost)

    def lose(self, reason: str) -> None:
        """Nothing comes from here any more, and what came is ended."""
        if not self._lost.done():
            self._lost.set_result(reason)
        for worker in self._workers:
            worker.kill()
        self._workers.clear()

    async def close(self) -> None:
        self.lose("The template was closed.")
        await self._containers.removals.finish(CLOSE_S)
