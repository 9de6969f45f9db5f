"""The registry: every model by name, where it runs and what it costs."""

import asyncio
import re
from collections.abc import Callable, Iterable
from contextlib import suppress
from decimal import Decimal
from importlib.resources import files
from time import monotonic

import msgspec

from app.kernel import log
from app.kernel.db import Database
from app.kernel.errors import AppError, Unavailable
from app.modules.routing.domain import (
    FREE,
    ModelNotFound,
    Price,
    close_names,
    kind_of,
    qualified,
)
from app.modules.routing.models import ModelRow, PriceRow
from app.modules.routing.ports import Route, Source, Upstream
from app.modules.routing.repository import RegistryRepository

LOOK_EVERY_S = 2.0
DISCOVER_EVERY_S = 60.0
DISCOVER_AGAIN_S = 10.0
FIRST_DISCOVERY_S = 15.0

_log = log.get("routing")


class PriceEntry(msgspec.Struct, frozen=True):
    """One line of a price file; prices are decimal texts for a million tokens."""

    upstream: str
    model: str
    input: str
    output: str
    cached_input: str | None = None
    name: str | None = None


class PriceFile(msgspec.Struct, frozen=True):
    """A versioned list of models and prices: the bundled one, or one for ``models import``."""

    version: str
    currency: str
    models: list[PriceEntry]
    unit: str = ""


class Registry:
    """Keeps every route in memory; the tables are the truth, looked at every two seconds."""

    def __init__(
        self, db: Database, sources: Iterable[Source], dev: Source, *, dev_model: str = "auto"
    ) -> None:
        self._db = db
        self._sources = {source.name: source for source in sources}
        self._dev = dev
        self._dev_model = dev_model
        self._connected: dict[str, Upstream] = {}
        self._routes: dict[str, Route] = {}
        self._stamp: object = None
        self._discovered_at = -DISCOVER_AGAIN_S
        self._discovery: asyncio.Task[None] | None = None
        self._task: asyncio.Task[None] | None = None

    def find(self, name: str) -> Route | None:
        """Answer from memory."""
        return self._routes.get(name)

    async def locate(self, name: str) -> Route:
        """Answer from memory, or after asking the upstreams once more; ``ModelNotFound`` else."""
        if (found := self._routes.get(name)) is not None:
            return found
        await self._discover_again()
        if (found := self._routes.get(name)) is not None:
            return found
        raise self.unknown(name)

    def unknown(self, name: str) -> ModelNotFound:
        near = close_names(name, (route.name for route in self.listed()))
        hint = f" Did you mean {', '.join(near)}?" if near else " GET /v1/models lists the names."
        text = f"The model {name[:200]!r} does not exist or is not open to this key.{hint}"
        return ModelNotFound(text, param="model")

    def listed(self) -> list[Route]:
        return [route for route in self._routes.values() if route.is_listed]

    async def ready_list(self) -> list[Route]:
        """Every model, once the first discovery has ended."""
        await self._first_discovery()
        return self.listed()

    async def open(self) -> None:
        await self._begin()
        await self._connect_dev()
        await self.reload()
        self._discovery = asyncio.create_task(self.discover(), name="routing-discovery")
        self._task = asyncio.create_task(self._loop(), name="routing-registry")

    async def close(self) -> None:
        for task in (self._task, self._discovery):
            if task is not None:
                task.cancel()
                with suppress(asyncio.CancelledError):
                    await task
        for upstream in self._connected.values():
            await upstream.close()

    async def discover(self) -> None:
        """Ask every source for its models, at once, and keep what they say."""
        self._discovered_at = monotonic()
        await asyncio.gather(*(self._ask(source) for source in self._sources.values()))
        await self._connect_dev()
        await self.reload()

    async def reload(self) -> None:
        """Read the tables into memory."""
        async with self._db.read() as session:
            repository = RegistryRepository(session)
            self._stamp = await repository.stamp()
            models, prices = await repository.models(), await repository.prices()
        now = {(row.upstream, row.model): row for row in prices}
        routes: dict[str, Route] = {}
        for row in models:
            if row.upstream in self._connected:
                routes[row.name] = self._route(row, row.name, now)
        for row in models:
            if row.upstream in self._connected:
                name = qualified(row.upstream, row.upstream_model)
                routes.setdefault(name, self._route(row, name, now, is_listed=False))
        self._routes = routes

    async def import_prices(self, listed: PriceFile) -> int:
        """Keep a price file's models and prices; return how many models it has."""
        async with self._db.begin() as session:
            repository = RegistryRepository(session)
            await repository.add_prices([price_row(entry, listed) for entry in listed.models])
            await repository.add_models([model_row(entry, "manual") for entry in listed.models])
        return len(listed.models)

    async def put(self, name: str, upstream: str, upstream_model: str) -> None:
        """Give a model a name; a taken name is pointed to the new place."""
        row = ModelRow(
            name=name,
            upstream=upstream,
            upstream_model=upstream_model,
            kind=kind_of(upstream_model),
            source="manual",
        )
        async with self._db.begin() as session:
            await RegistryRepository(session).put_model(row)

    async def known(self) -> list[ModelRow]:
        async with self._db.read() as session:
            return await RegistryRepository(session).models()

    async def _begin(self) -> None:
        """Keep the bundled prices, and the bundled models of the upstreams that are configured.

        A name must not stay taken by an upstream that is configured no more.
        """
        listed = bundled_prices()
        names = {*self._sources, self._dev.name}
        mine = [model_row(entry, "bundled") for entry in listed.models if entry.upstream in names]
        async with self._db.begin() as session:
            repository = RegistryRepository(session)
            await repository.forget_all_but(names)
            await repository.add_prices([price_row(entry, listed) for entry in listed.models])
            await repository.add_models(mine)

    async def _ask(self, source: Source) -> None:
        try:
            if source.probe is not None and not await source.probe():
                self._connected.pop(source.name, None)
                return
            upstream = self._connected.get(source.name) or await source.connect()
            self._connected[source.name] = upstream
            await self.reload()
            await self._keep(source.name, await upstream.models())
        except AppError as error:
            _log.warning("routing.discovery-failed", upstream=source.name, reason=str(error))

    async def _keep(self, upstream: str, ids: list[str]) -> None:
        async with self._db.begin() as session:
            repository = RegistryRepository(session)
            await repository.keep_discovered(upstream, ids)

    async def _connect_dev(self) -> None:
        """Offer ``dev/echo`` while there is nothing else, or always, or never."""
        real = any(s.probe is None or s.name in self._connected for s in self._sources.values())
        wanted = self._dev_model == "on" or (self._dev_model == "auto" and not real)
        if not wanted:
            self._connected.pop(self._dev.name, None)
        elif self._dev.name not in self._connected:
            self._connected[self._dev.name] = await self._dev.connect()
            await self._keep(self._dev.name, await self._connected[self._dev.name].models())

    async def _first_discovery(self) -> None:
        if self._discovery is not None and not self._discovery.done():
            await asyncio.wait([self._discovery], timeout=FIRST_DISCOVERY_S)

    async def _discover_again(self) -> None:
        """Unknown names may be new: look, but not at every stranger's word."""
        await self._first_discovery()
        if monotonic() - self._discovered_at >= DISCOVER_AGAIN_S:
            self._discovery = asyncio.create_task(self.discover(), name="routing-discovery")
            await self._first_discovery()

    async def _loop(self) -> None:
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            try:
                if monotonic() - self._discovered_at >= DISCOVER_EVERY_S:
                    await self.discover()
                elif await self._has_changed():
                    await self.reload()
            except Unavailable:
                _log.warning("routing.registry-waits-for-database")
            except Exception as error:  # noqa: BLE001 - the routes in memory stay good, the loop goes on
                _log.exception("routing.registry-failed", error)

    async def _has_changed(self) -> bool:
        async with self._db.read() as session:
            return await RegistryRepository(session).stamp() != self._stamp

    def _route(
        self,
        row: ModelRow,
        name: str,
        prices: dict[tuple[str, str], PriceRow],
        *,
        is_listed: bool = True,
    ) -> Route:
        return Route(
            name=name,
            upstream_name=row.upstream,
            upstream=self._connected[row.upstream],
            upstream_model=row.upstream_model,
            kind=row.kind,
            created_s=int(row.created_at.timestamp()),
            price=self._price(row, prices.get),
            is_listed=is_listed,
        )

    def _price(
        self, row: ModelRow, find: Callable[[tuple[str, str]], PriceRow | None]
    ) -> Price | None:
        """The newest price of the model, or of the undated name it is a snapshot of."""
        undated = re.sub(r"-\d{4}-?\d{2}-?\d{2}$", "", row.upstream_model)
        found = find((row.upstream, row.upstream_model)) or find((row.upstream, undated))
        if found is None:
            source = self._sources.get(row.upstream, self._dev)
            return Price(FREE, "USD", 0, 0) if source.is_free else None
        return Price(
            found.version,
            found.currency,
            found.input_micros,
            found.output_micros,
            found.cached_input_micros,
        )


def bundled_prices() -> PriceFile:
    """Read the price file that comes with this version."""
    text = files("app.modules.routing").joinpath("prices.json").read_bytes()
    return msgspec.json.decode(text, type=PriceFile)


def model_row(entry: PriceEntry, source: str) -> ModelRow:
    return ModelRow(
        name=entry.name or entry.model,
        upstream=entry.upstream,
        upstream_model=entry.model,
        kind=kind_of(entry.model),
        source=source,
    )


def price_row(entry: PriceEntry, listed: PriceFile) -> PriceRow:
    return PriceRow(
        upstream=entry.upstream,
        model=entry.model,
        version=listed.version,
        currency=listed.currency,
        input_micros=_micros(entry.input),
        output_micros=_micros(entry.output),
        cached_input_micros=None if entry.cached_input is None else _micros(entry.cached_input),
    )


def _micros(text: str) -> int:
    """Millionths of a unit, exactly."""
    return int(Decimal(text) * 1_000_000)
