"""The composition root: the one place that knows every module and every adapter."""

import fcntl
import gc
import os
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from importlib.metadata import entry_points, version

import msgspec
from litestar import Litestar
from litestar.config.cors import CORSConfig

from app import schema
from app.adapters.blobs import open_blobs
from app.adapters.cache import open_cache
from app.adapters.queue.sql import JobRunner
from app.adapters.surreal import SurrealSettings, open_surreal
from app.docs import openapi_config
from app.door import Door
from app.kernel import log
from app.kernel.db import Database
from app.kernel.errors import AppError
from app.kernel.jobs import JobBook
from app.kernel.keys import open_keyring
from app.kernel.module import House, Kit, Module, MountError
from app.kernel.mount import Block, mount
from app.kernel.settings import SettingsError, load
from app.modules.auth.module import AuthModule
from app.modules.billing.module import BillingModule
from app.modules.flows.module import FlowsModule
from app.modules.health.module import HealthModule
from app.modules.orchestration.module import OrchestrationModule
from app.modules.routing.module import RoutingModule
from app.modules.runs.module import RunsModule
from app.modules.sandbox.module import SandboxModule
from app.modules.storage.module import StorageModule
from app.settings import ENVIRON, HouseSettings, origin_pattern

VERSION = version("insula")

MODULES: tuple[type[Module], ...] = (
    HealthModule,
    AuthModule,
    BillingModule,
    RunsModule,
    RoutingModule,
    StorageModule,
    SandboxModule,
    FlowsModule,
    OrchestrationModule,
    *(point.load() for point in entry_points(group="app.modules")),
)

# What a page from elsewhere may read of an answer, beside its body.
EXPOSED = [
    *("x-request-id", "retry-after", "etag", "last-modified", "accept-ranges", "content-range"),
    *("x-seq", "x-table", "x-key-id", "x-checksum", "content-digest"),
    *("x-backup-version", "x-backup-timestamp", "x-backup-checksum", "x-backup-chunks"),
]

# A long-lived server makes few cycles and many short-lived objects: looking for cycles after every
# 700 of them is work for nothing.
GC_THRESHOLD = (50_000, 20, 20)


class Hooks(msgspec.Struct, frozen=True):
    """What a server wants to be told of the start."""

    on_ready: Callable[[], None] = lambda: None
    on_failure: Callable[[Exception], None] = lambda _: None


class Insula:
    """The house, built and not yet opened: modules, database, cache, blobs, jobs."""

    def __init__(self, environ: Mapping[str, str] = ENVIRON) -> None:
        settings = load(HouseSettings, environ)
        settings.refuse_wrong_combinations()
        for folder in (settings.data_dir, settings.database_path.parent):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.settings = settings
        self._flush_log: Callable[[], None] = lambda: None
        self.jobs = JobBook()
        self.db = Database(settings.sqlalchemy_url, self.jobs)
        self.cache = open_cache(settings.redis_url)
        self.surreal = open_surreal(
            load(SurrealSettings, environ), settings.data_dir, workers=settings.workers
        )
        house = House(
            version=VERSION,
            data_dir=str(settings.data_dir),
            is_loopback=settings.is_loopback,
            redis_url=settings.redis_url,
            host=settings.host,
            port=settings.port,
        )
        keys = open_keyring(settings.secret, settings.data_dir)
        self.blobs = open_blobs(settings)
        self.kit = Kit(self.db, self.cache, self.blobs, keys, house)
        self.block = Block(MODULES, environ, self.kit, self.jobs)
        self.block.checks |= {
            "blobs": self.blobs.ping,
            "database": self.db.ping,
            "redis": self.cache.ping,
            "surrealdb": self.surreal.ping,
        }

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[None]:
        """Check the schema, open the modules, run the jobs; undo it all in reverse."""
        async with AsyncExitStack() as stack:
            stack.push_async_callback(self.surreal.close)
            stack.push_async_callback(self.blobs.close)
            stack.push_async_callback(self.cache.close)
            stack.push_async_callback(self.db.close)
            await schema.ensure(self.db.writer, may_migrate=self.settings.is_embedded)
            await stack.enter_async_context(self.block.opened())
            runner = JobRunner(self.db, self.jobs)
            stack.push_async_callback(runner.close, drain_s=self.settings.drain_s)
            await runner.open()
            yield

    def application(self, hooks: Hooks = Hooks()) -> Litestar:  # noqa: B008 - it is frozen
        """The Litestar application of all enabled modules."""

        @asynccontextmanager
        async def lifespan(_: Litestar) -> AsyncIterator[None]:
            async with AsyncExitStack() as stack:
                try:
                    stack.enter_context(_alone(self.settings))
                    await stack.enter_async_context(self.opened())
                except (AppError, MountError, SettingsError) as error:
                    hooks.on_failure(error)
                    raise
                hooks.on_ready()
                sys.stdout.write("".join(notice + "\n" for notice in self.kit.notices))
                sys.stdout.flush()
                yield
            self._flush_log()

        return mount(
            self.block,
            lifespan,
            openapi_config(VERSION, self.block.openapi_paths),
            CORSConfig(
                allow_origins=[],
                allow_origin_regex=origin_pattern(self.settings.cors_origins),
                allow_credentials=True,
                expose_headers=EXPOSED,
            ),
        )

    def door(self, hooks: Hooks = Hooks()) -> Door:  # noqa: B008 - it is frozen
        """The application behind its door: the ASGI callable that a server runs."""
        lines = log.configure(self.settings.log_level)
        self._flush_log = lines.flush
        wants_access_log = self.settings.log_level in {"debug", "info"}
        return Door(
            self.application(hooks),
            self.block,
            self.settings.body_limit_bytes,
            lines if wants_access_log else None,
        )


def create_app() -> Door:
    """What the server runs. What stops the start is told in one line, not by a traceback."""
    try:
        return Insula().door(Hooks(on_ready=_tune_collector, on_failure=_give_up))
    except (SettingsError, MountError, OSError) as error:
        _give_up(error)
        raise


def _tune_collector() -> None:
    """Leave what the start made out of every later collection, and collect less often."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLD)


def _give_up(error: Exception) -> None:
    """End the worker at once; the parent process sees it and ends too."""
    sys.stderr.write(f"insula: {error}\n")
    sys.stderr.flush()
    os._exit(2)


@contextmanager
def _alone(settings: HouseSettings) -> Iterator[None]:
    """Hold the embedded database's lock: two servers on it would undo each other's work."""
    if not settings.is_embedded:
        yield
        return
    path = settings.database_path
    with path.with_name(f"{path.name}.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise MountError(f"another Insula is running on {path}; set APP_DATA") from None
        yield
