"""One process's containers: how each is made, which are alive, and what is left of dead ones."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any, Final
from uuid import uuid4

import msgspec
from docker.types import LogConfig, Ulimit

from app.modules.sandbox.adapters.docker.container import Broken, DockerWorker
from app.modules.sandbox.adapters.docker.engine import Engine, EngineFailed
from app.modules.sandbox.adapters.docker.images import JAIL_PATH, PACKAGES_PATH
from app.modules.sandbox.adapters.docker.options import (
    APP,
    CONTAINER,
    INSTANCE,
    PROJECT,
    STARTED,
    DockerOptions,
)
from app.modules.sandbox.adapters.docker.removals import Removals
from app.modules.sandbox.domain.limits import Limits
from app.modules.sandbox.ports import TemplateSpec, WorkerFailed

NOT_FOUND: Final = 404
NOBODY: Final = "65534:65534"
# The supervisor and its threads, beside what the script may have.
OWN_PROCESSES: Final = 4
# gVisor's kernel is a process with many threads, and they count.
GVISOR: Final = "runsc"
GVISOR_PROCESSES: Final = 128
MIB: Final = 2**20
PROGRAM: Final = (
    f"import sys; sys.path.insert(0, {JAIL_PATH!r}); "
    "from insula_jail.supervisor import main; main()"
)


class ImageGone(WorkerFailed):
    """The image was removed: it has to be built again."""


class Containers:
    """Makes workers of images. ``runtime`` is the engine's name of one, or nothing for its default.

    Each process has an ``instance`` of its own: containers of an instance that is not alive are
    removed by whoever sees them.
    """

    def __init__(self, engine: Engine, options: DockerOptions, instance: str) -> None:
        self.runtime = ""
        self.removals = Removals(engine)
        self._engine = engine
        self._options = options
        self._instance = instance
        self._known: set[str] = set()

    async def start(self, image: str, spec: TemplateSpec, base_mb: int) -> DockerWorker:
        """A ready worker; ``WorkerFailed``, and no container, if there is none in time."""
        name = f"insula-{uuid4().hex}"
        self._known.add(name)
        worker: DockerWorker | None = None
        try:
            async with asyncio.timeout(self._options.spawn_timeout_s):
                await self._create(name, image, spec, base_mb)
                stream = await self._engine.attach(name)
                worker = DockerWorker(
                    name, self._engine, stream, self.removals, self._known.discard
                )
                await worker.start()
        except BaseException as error:  # noqa: BLE001 - whatever it is, no container stays behind
            self._give_up(name, worker)
            raise _failure(error, self._options.spawn_timeout_s) from None
        return worker

    async def sweep(self, is_alive: Callable[[str], Awaitable[bool]]) -> None:
        """Remove what instances that are not alive have left, and what this one lost sight of."""
        label = f"{APP}={CONTAINER}"
        listed = await self._engine.call(
            lambda client: client.containers(all=True, filters={"label": [label]})
        )
        removals = []
        for container in listed:
            instance = container["Labels"].get(INSTANCE, "")
            name = container["Names"][0].lstrip("/") if container["Names"] else container["Id"]
            is_ours = instance == self._instance
            if name not in self._known if is_ours else not await is_alive(instance):
                removals.append(self.removals.begin(container["Id"]))
        await asyncio.gather(*removals)

    def _give_up(self, name: str, worker: DockerWorker | None) -> None:
        if worker is not None:
            worker.kill()
        else:
            self.removals.begin(name).add_done_callback(lambda _: self._known.discard(name))

    async def _create(self, name: str, image: str, spec: TemplateSpec, base_mb: int) -> None:
        request = {
            "image": image,
            "name": name,
            "entrypoint": ["python3", "-I", "-S", "-X", "utf8", "-B", "-c", PROGRAM],
            "command": [_limits(spec)],
            "stdin_open": True,
            "user": NOBODY,
            "working_dir": "/tmp",  # noqa: S108 - inside the container, which has it to itself
            "environment": {"HOME": "/tmp"},  # noqa: S108 - the same
            "hostname": "sandbox",
            "labels": {
                APP: CONTAINER,
                INSTANCE: self._instance,
                PROJECT: spec.project,
                STARTED: datetime.now(UTC).isoformat(),
            },
        }
        walls = self._walls(spec.limits, base_mb)
        try:
            await self._engine.call(
                lambda client: client.create_container(
                    **request, host_config=client.create_host_config(**walls)
                )
            )
        except EngineFailed as error:
            raise (ImageGone(str(error)) if error.status == NOT_FOUND else error) from None

    def _walls(self, limits: Limits, base_mb: int) -> dict[str, Any]:
        """What the kernel holds a container to. What is not allowed here does not exist in it."""
        own = OWN_PROCESSES + (GVISOR_PROCESSES if self.runtime == GVISOR else 0)
        memory = (base_mb + limits.memory_mb + limits.disk_mb) * MIB
        scratch = (
            f"rw,size={limits.disk_mb}m,nr_inodes={limits.inodes},noexec,nosuid,nodev,mode=1777"
        )
        return {
            "network_mode": "none",
            "ipc_mode": "none",
            "read_only": True,
            "cap_drop": ["ALL"],
            "security_opt": ["no-new-privileges:true"],
            "tmpfs": {"/tmp": scratch, "/dev/shm": scratch},  # noqa: S108 - inside the container
            "pids_limit": limits.processes + own,
            "mem_limit": memory,
            "memswap_limit": memory,
            "nano_cpus": int(self._options.cpus * 1e9),
            "ulimits": [
                # A second later it is killed, whatever it does about the signal.
                Ulimit(name="cpu", soft=limits.cpu_s, hard=limits.cpu_s + 1),
                Ulimit(name="fsize", soft=limits.file_mb * MIB, hard=limits.file_mb * MIB),
                Ulimit(name="nofile", soft=limits.files, hard=limits.files),
                Ulimit(name="core", soft=0, hard=0),
            ],
            "init": False,
            # Output is read from the attached stream: the engine need not write it down.
            "log_config": LogConfig(type="none"),
            **({"runtime": self.runtime} if self.runtime else {}),
        }


def _limits(spec: TemplateSpec) -> str:
    limits = msgspec.to_builtins(spec.limits)
    paths = [PACKAGES_PATH] if spec.packages else []
    return json.dumps({**limits, "paths": paths, "preload": list(spec.preload)})


def _failure(error: BaseException, within_s: float) -> BaseException:
    if isinstance(error, TimeoutError):
        return WorkerFailed(f"No worker was ready within {within_s:g} s.")
    if isinstance(error, EngineFailed):
        return WorkerFailed(str(error))
    if isinstance(error, Broken | msgspec.DecodeError):
        return WorkerFailed("The worker does not keep to the protocol.")
    return error
