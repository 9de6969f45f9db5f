"""What a bounded context tells the house about itself, and what the house hands to it."""

import argparse
from collections.abc import Awaitable, Callable
from typing import Any, ClassVar, TypeAlias, TypeVar

import msgspec
from litestar.di import NamedDependency, Provide
from litestar.types import ASGIApp, ControllerRouterHandler

from app.kernel.db import Database, Table
from app.kernel.jobs import Job
from app.kernel.keys import Keyring
from app.kernel.ports import BlobStore, Cache, Clock, utc_now
from app.kernel.problems import Renderer
from app.kernel.settings import Secret, Settings

Check: TypeAlias = Callable[[], Awaitable[None]]
T = TypeVar("T")


class MountError(Exception):
    """The set of modules does not fit together, or an installation is not what it must be."""


class Command(msgspec.Struct, frozen=True):
    """A verb of the command line: ``insula <name> ...``. ``run`` prints what it returns."""

    name: str
    help: str
    arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], Awaitable[str]]


class House(msgspec.Struct, frozen=True):
    """Facts about this installation that several modules need."""

    version: str
    data_dir: str
    is_loopback: bool
    redis_url: Secret | None = None
    host: str = "127.0.0.1"
    port: int = 8000


class Kit:
    """What the house hands to a module's constructor, and to nobody else."""

    def __init__(
        self,
        db: Database,
        cache: Cache,
        blobs: BlobStore,
        keys: Keyring,
        house: House,
        clock: Clock = utc_now,
    ) -> None:
        self.db = db
        self.cache = cache
        self.blobs = blobs
        self.keys = keys
        self.house = house
        self.clock = clock
        self.notices: list[str] = []
        self._exports: dict[type, object] = {}

    def use(self, kind: type[T]) -> T:
        """Return what an earlier module exported; stop the start if none did."""
        found = self.find(kind)
        if found is None:
            raise MountError(f"no enabled module exports {kind.__name__}")
        return found

    def find(self, kind: type[T]) -> T | None:
        """Return what an earlier module exported, if its module is on."""
        return self._exports.get(kind)  # type: ignore[return-value]  # the key is the value's type

    def share(self, exports: dict[type, object]) -> None:
        self._exports |= exports

    def announce(self, notice: str) -> None:
        """Say something to the person at the terminal, once, when the start is done."""
        self.notices.append(notice)


class Module:
    """Static facts are class attributes; what needs settings is a method."""

    name: ClassVar[str]
    flag: ClassVar[bool] = True
    settings_type: ClassVar[type[Settings]] = Settings
    models: ClassVar[tuple[type[Table], ...]] = ()
    routes: ClassVar[tuple[ControllerRouterHandler, ...]] = ()
    # Verbs that ask a running server, and need no installation where they are typed.
    clients: ClassVar[tuple[Command, ...]] = ()

    def __init__(self, settings: Any, kit: Kit) -> None: ...

    def exports(self) -> dict[type, object]:
        """What later modules get by ``kit.use(Type)``."""
        return {}

    def dependencies(self) -> dict[str, Provide]:
        """What controllers get by name."""
        return {}

    def handlers(self) -> tuple[ControllerRouterHandler, ...]:
        """Routes that need settings or a service to be built, beside ``routes``."""
        return ()

    def hot_paths(self) -> dict[str, ASGIApp]:
        """Raw POST handlers that the door calls itself when no browser is asking.

        They are registered as ``handlers`` too: the way through Litestar adds CORS, and costs
        more than the door itself.
        """
        return {}

    def jobs(self) -> tuple[Job, ...]:
        return ()

    def checks(self) -> dict[str, Check]:
        """Shown by ``/health/ready``; a check that raises is not ready."""
        return {}

    def dialects(self) -> dict[str, Renderer]:
        """Error shape by path prefix."""
        return {}

    def body_limits(self) -> dict[str, int]:
        """Largest request body in bytes, by path prefix, where the house's limit does not fit."""
        return {}

    def openapi_paths(self) -> dict[str, Any]:
        """OpenAPI path items of raw ASGI handlers, which the document does not see by itself."""
        return {}

    def commands(self) -> tuple[Command, ...]:
        return ()

    async def open(self) -> None:
        """Start what needs the event loop. The schema is current when this runs."""

    async def close(self) -> None:
        """Stop what ``open`` started, and keep what must not be lost."""


class Provider(Provide):
    """What a module provides to every route of the house; it equals no other one.

    Litestar compares every pair of them for every route, and by what they hold, which would take
    a tenth of the time in which the routes are built.
    """

    __eq__ = object.__eq__
    __hash__ = object.__hash__


def always(value: object) -> Provide:
    """Provide the same object to every request."""
    return Provider(lambda: value, sync_to_thread=False)


def known(service: object) -> Provide:
    """Provide it to those whose caller is known, and after that.

    What a handler takes that does not wait for each other, Litestar asks for by a group of tasks,
    which costs a sixth of a small request.
    """

    def after(principal: NamedDependency[Any]) -> object:  # noqa: ARG001 - it is waited for
        return service

    return Provider(after, sync_to_thread=False)
