"""What runs untrusted code: a runner, of which a jail on this machine and a Docker engine are two.

A template is what one project's workers are copies of. A worker runs one script and is gone.
Everything that comes out of a worker is untrusted: it is given on as bytes.
"""

from collections.abc import AsyncIterator
from typing import Any, Literal, Protocol, TypeAlias

import msgspec

from app.kernel.errors import Unavailable
from app.modules.sandbox.domain.limits import Limits

Reason: TypeAlias = Literal["", "memory", "cpu", "disk", "protocol"]


class NoWall(Unavailable):
    """This host cannot isolate code well enough, so none is run."""

    title = "No isolation"


class TemplateFailed(Unavailable):
    """A project's packages could not be installed or imported; the text says why."""

    title = "Project not ready"


class WorkerFailed(Unavailable):
    """No worker could be started."""

    title = "No worker"


class Wall(msgspec.Struct, frozen=True):
    """One means of isolation. ``why`` says in plain words why it is missing, and what helps."""

    name: str
    is_up: bool
    why: str = ""


class Capabilities(msgspec.Struct, frozen=True):
    """What a runner offers on this host.

    ``tier``: ``docker``, ``gvisor``, ``A`` (namespaces, own root, Landlock, seccomp), ``B``
    (Landlock, seccomp and a watchdog) or ``none``, for ``reason``.
    """

    runner: str
    tier: str
    walls: tuple[Wall, ...] = ()
    reason: str = ""


class TemplateSpec(msgspec.Struct, frozen=True):
    """What a template is made from. ``packages`` are pinned or not, as pip reads them.

    ``preload``: modules imported before a worker is asked for.
    """

    project: str
    packages: tuple[str, ...] = ()
    preload: tuple[str, ...] = ()
    limits: Limits = Limits()


class Said(msgspec.Struct, frozen=True):
    """One frame of the worker: JSON, not looked at yet. What was printed before came before."""

    frame: bytes


class Printed(msgspec.Struct, frozen=True):
    """Bytes that the script wrote."""

    stream: Literal["stdout", "stderr"]
    data: bytes


class Gone(msgspec.Struct, frozen=True):
    """The worker and all its processes have ended: by themselves, or stopped for a reason."""

    exit_code: int | None = None
    signal: int | None = None
    reason: Reason = ""
    cpu_ms: int = 0
    peak_kb: int = 0


WorkerEvent: TypeAlias = Said | Printed | Gone


class Worker(Protocol):
    """An interpreter behind walls, ready for its one script."""

    @property
    def is_gone(self) -> bool:
        """Whether it has ended already: then it is of no use."""
        ...

    async def send(self, frame: dict[str, Any]) -> None:
        """Hand it a frame; nothing happens when it is gone."""
        ...

    def events(self) -> AsyncIterator[WorkerEvent]:
        """What it says, while somebody reads; ``Gone`` is the last. Unread output waits there."""
        ...

    async def freeze(self) -> None:
        """Let none of its processes run."""
        ...

    async def thaw(self) -> None: ...

    def kill(self) -> None:
        """End all its processes and remove what they left. Killing what is gone is fine."""
        ...


class Template(Protocol):
    """Where one project's workers come from."""

    async def spawn(self) -> Worker:
        """A worker that is ready; ``WorkerFailed`` if there is none in time."""
        ...

    async def until_lost(self) -> str:
        """Return when no worker can come from here any more, and all that did are gone; say why."""
        ...

    async def close(self) -> None:
        """End it and every worker of it."""
        ...


class Runner(Protocol):
    """Runs untrusted code, isolated or not at all."""

    async def open(self) -> Capabilities:
        """Test every wall from the inside. Never raises for a missing one: the tier says it."""
        ...

    async def prepare(self, spec: TemplateSpec) -> Template:
        """Install, isolate, import; ``TemplateFailed`` with the end of the log, or ``NoWall``."""
        ...

    async def sweep(self) -> None:
        """Remove what processes that are gone have left behind."""
        ...

    async def close(self) -> None: ...
