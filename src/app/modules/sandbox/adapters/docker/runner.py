"""Runs code in containers of a Docker engine, under gVisor where the engine has it."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

from app.kernel import log
from app.modules.sandbox.adapters.docker.containers import GVISOR, Containers
from app.modules.sandbox.adapters.docker.engine import Engine, EngineFailed
from app.modules.sandbox.adapters.docker.images import Images
from app.modules.sandbox.adapters.docker.options import DockerOptions
from app.modules.sandbox.adapters.docker.template import DockerTemplate
from app.modules.sandbox.adapters.docker.walls import capabilities, down, lacking
from app.modules.sandbox.ports import (
    Capabilities,
    NoWall,
    TemplateFailed,
    TemplateSpec,
    WorkerFailed,
)

PING_S: Final = 5.0
MISSES_LIMIT: Final = 2

_log = log.get("sandbox")


class DockerRunner:
    """One container for each script. ``is_alive`` says whether another process's instance still is.

    ``environment`` holds the DOCKER_* variables. Nothing is contacted before ``open``.
    """

    def __init__(
        self,
        options: DockerOptions,
        instance: str,
        is_alive: Callable[[str], Awaitable[bool]],
        environment: Mapping[str, str],
    ) -> None:
        self._options = options
        self._is_alive = is_alive
        self._engine = Engine(environment, call_timeout_s=options.call_timeout_s)
        self._images = Images(self._engine, options)
        self._containers = Containers(self._engine, options, instance)
        self._templates: list[DockerTemplate] = []
        self._capabilities = Capabilities("docker", "none", reason="The runner is not open yet.")
        self._watch: asyncio.Task[None] | None = None

    async def open(self) -> Capabilities:
        """Ask the engine what it can do, and one container what it cannot."""
        try:
            self._capabilities = await self._examined()
        except (EngineFailed, TemplateFailed, WorkerFailed) as error:
            self._capabilities = Capabilities("docker", "none", reason=str(error))
        if self._watch is None and self._capabilities.tier != "none":
            self._watch = asyncio.create_task(self._look_after(), name="sandbox-docker-watch")
        return self._capabilities

    async def prepare(self, spec: TemplateSpec) -> DockerTemplate:
        if self._capabilities.tier == "none":
            raise NoWall(self._capabilities.reason)
        try:
            template = await self._prepared(spec)
        except (EngineFailed, WorkerFailed) as error:
            raise TemplateFailed(str(error)) from None
        reason = down(template.walls)
        if reason:
            await template.close()
            raise NoWall(reason)
        return template

    async def sweep(self) -> None:
        """Raises ``EngineFailed`` when the engine does not answer."""
        await self._containers.sweep(self._is_alive)

    async def close(self) -> None:
        if self._watch is not None:
            self._watch.cancel()
        self._lose("The runner was closed.")
        await self._containers.removals.finish(self._options.close_timeout_s)
        self._containers.removals.give_up()
        await self._engine.close()

    async def _examined(self) -> Capabilities:
        facts = await self._engine.call(lambda client: client.info())
        missing = lacking(facts)
        if missing:
            return _none(missing)
        runtimes = facts.get("Runtimes") or {}
        chosen = self._chosen(runtimes)
        if chosen and chosen not in runtimes:
            return _none(f"The Docker engine has no runtime {chosen}; it has {sorted(runtimes)}.")
        self._containers.runtime = chosen
        template = await self._prepared(TemplateSpec("self-test"))
        await template.close()
        self._templates.remove(template)
        return capabilities(facts, template.walls, is_gvisor=chosen == GVISOR)

    def _chosen(self, runtimes: Mapping[str, Any]) -> str:
        if self._options.runtime != "auto":
            return self._options.runtime
        return GVISOR if GVISOR in runtimes else ""

    async def _prepared(self, spec: TemplateSpec) -> DockerTemplate:
        image = await self._images.of(spec.packages)
        template = DockerTemplate(self._engine, self._containers, image, spec)
        await template.open()
        self._templates = [known for known in self._templates if not known.is_lost]
        self._templates.append(template)
        return template

    async def _look_after(self) -> None:
        """Ask the engine now and then whether it is there."""
        misses = 0
        while True:
            await asyncio.sleep(self._options.ping_every_s)
            try:
                await self._engine.call(lambda client: client.ping(), timeout_s=PING_S)
            except EngineFailed as error:
                misses += 1
                if misses == MISSES_LIMIT:
                    _log.warning("sandbox.engine-lost", reason=str(error))
                    self._lose(str(error))
            else:
                misses = 0

    def _lose(self, reason: str) -> None:
        for template in self._templates:
            template.lose(reason)
        self._templates.clear()


def _none(reason: str) -> Capabilities:
    return Capabilities("docker", "none", reason=reason)
