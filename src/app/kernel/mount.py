"""Turn modules into one Litestar application."""

from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import Any

from litestar import Litestar
from litestar.config.cors import CORSConfig
from litestar.exceptions import ImproperlyConfiguredException
from litestar.openapi.config import OpenAPIConfig
from litestar.routes import BaseRoute

from app.kernel import problems
from app.kernel.jobs import JobBook
from app.kernel.module import Kit, Module, MountError, always
from app.kernel.settings import SettingsError, load

Kinds = Sequence[type[Module]]
Environ = Mapping[str, str]
Lifespan = Callable[[Litestar], AbstractAsyncContextManager[None]]

SWITCH = {"on": True, "true": True, "1": True, "yes": True}
SWITCH |= {"off": False, "false": False, "0": False, "no": False}


class Block:
    """The enabled modules, built in order, and everything they declare, merged."""

    def __init__(self, kinds: Kinds, environ: Environ, kit: Kit, jobs: JobBook) -> None:
        self.kit = kit
        self.modules: list[Module] = []
        self.checks: dict[str, Any] = {}
        self.dependencies: dict[str, Any] = {"checks": always(self.checks)}
        self.dialects: dict[str, problems.Renderer] = {}
        self.openapi_paths: dict[str, Any] = {}
        self.body_limits: dict[str, int] = {}
        self.hot_paths: dict[str, Any] = {}
        for kind in kinds:
            if is_on(kind, environ):
                self._add(kind(load(kind.settings_type, environ), kit), jobs)

    def _add(self, module: Module, jobs: JobBook) -> None:
        self.kit.share(module.exports())
        _merge(self.checks, module.checks())
        _merge(self.dependencies, module.dependencies())
        _merge(self.dialects, module.dialects())
        _merge(self.openapi_paths, module.openapi_paths())
        _merge(self.body_limits, module.body_limits())
        _merge(self.hot_paths, module.hot_paths())
        for job in module.jobs():
            jobs.add(job)
        self.modules.append(module)

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[None]:
        """Open the modules, lowest first; close them in reverse, also those before a failure."""
        async with AsyncExitStack() as stack:
            for module in self.modules:
                stack.push_async_callback(module.close)
                await module.open()
            yield


def mount(
    block: Block, lifespan: Lifespan, openapi: OpenAPIConfig | None, cors: CORSConfig | None
) -> Litestar:
    """Build the application. Two owners of one route stop the start, and both are named."""
    owners = [(m.name, route) for m in block.modules for route in (*m.routes, *m.handlers())]
    app = Litestar(
        [],
        dependencies=block.dependencies,
        exception_handlers=problems.handlers(block.dialects),
        lifespan=[lifespan],
        openapi_config=openapi,
        cors_config=cors,
        request_class=problems.JsonRequest,
        request_max_body_size=None,
        logging_config=None,
        debug=False,
    )
    taken: dict[tuple[str, str], str] = {}
    for name, route in owners:
        before = list(app.routes)
        try:
            app.register(route)
        except ImproperlyConfiguredException as error:
            raise MountError(_two_owners(error, name, taken)) from error
        for path, method in _methods(app.routes, before):
            if (owner := taken.setdefault((path, method), name)) != name:
                raise MountError(f"{method} {path} belongs to both {owner} and {name}")
    return app


def _two_owners(
    error: ImproperlyConfiguredException, name: str, taken: Mapping[tuple[str, str], str]
) -> str:
    """Litestar's own words name the path; whose it is we know."""
    for (path, method), owner in taken.items():
        if owner != name and f"'{path}'" in str(error):
            return f"{method} {path} belongs to both {owner} and {name}"
    return f"{name}: {error}"


def is_on(kind: type[Module], environ: Environ) -> bool:
    """``FEATURE_<NAME>`` decides; the module's own default otherwise."""
    name = f"FEATURE_{kind.name.upper()}"
    value = environ.get(name, "").strip().lower()
    if not value:
        return kind.flag
    if value not in SWITCH:
        raise SettingsError(f"{name} is on or off, not {value!r}")
    return SWITCH[value]


def _methods(after: Iterable[BaseRoute], before: Sequence[BaseRoute]) -> Iterable[tuple[str, str]]:
    known = {(route.path, method) for route in before for method in route.methods}
    for route in after:
        for method in route.methods:
            if method != "OPTIONS" and (route.path, method) not in known:
                yield route.path, method


def _merge(target: dict[str, Any], source: Mapping[str, Any]) -> None:
    if twice := target.keys() & source.keys():
        raise MountError(f"declared twice: {', '.join(sorted(twice))}")
    target.update(source)
