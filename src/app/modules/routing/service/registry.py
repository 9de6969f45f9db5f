"""The registry: every model by name, where it runs and what it costs."""

import asyncio
import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from itertools import groupby
from time import monotonic
from typing import TypeAlias, cast
from uuid import UUID

import msgspec

from app.kernel import log
from app.kernel.db import Database
from app.kernel.errors import AppError, Unavailable
from app.modules.routing.domain.cards import Card, Quality
from app.modules.routing.domain.choice import Policy
from app.modules.routing.domain.names import ModelNotFound, close_names, kind_of, qualified
from app.modules.routing.domain.prices import FREE, Price
from app.modules.routing.models import ModelRow, PriceRow
from app.modules.routing.ports import Deadlines, Guest, Route, Source, Target, Upstream
from app.modules.routing.repository import RegistryRepository
from app.modules.routing.service.pricelist import (
    PriceFile,
    bundled_prices,
    model_row,
    price_row,
)

LOOK_EVERY_S = 2.0
DISCOVER_EVERY_S = 60.0
DISCOVER_AGAIN_S = 10.0
FIRST_DISCOVERY_S = 15.0

Prices: TypeAlias = Mapping[tuple[str, str], PriceRow]

_log = log.get("routing")


class Terms(msgspec.Struct, frozen=True):
    """What holds for every model whose row does not say otherwise."""

    deadlines: Deadlines = Deadlines()
    deadline_s: float = 600.0


class Registry:
    """Keeps every route in memory; the tables are the truth, looked at every two seconds.

    ``strangers`` are providers that are not configured: a caller with a key of their own may use
    them. ``terms`` are the installation's time-outs.
    """

    def __init__(
        self,
        db: Database,
        sources: Iterable[Source],
        dev: Source,
        *,
        dev_model: str = "auto",
        strangers: Iterable[Source] = (),
        terms: Terms = Terms(),  # noqa: B008 - it is frozen
    ) -> None:
        self._db = db
        self._sources = {source.name: source for source in sources}
        self._dev = dev
        self._dev_model = dev_model
        self._strangers = {source.name: source for source in strangers}
        self._terms = terms
        self._connected: dict[str, Upstream] = {}
        self._routes: dict[str, Route] = {}
        self._caches: dict[UUID, int] = {}
        self._guests: dict[str, Guest] = {}
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

    async def locate_with_own_key(self, name: str) -> Route:
        """Also find ``provider/model`` at a provider that only the caller has a key for."""
        provider, _, model = name.partition("/")
        source = self._strangers.get(provider)
        if source is None or not model or name in self._routes:
            return await self.locate(name)
        upstream = self._connected.get(provider)
        if upstream is None:
            upstream = self._connected[provider] = await source.connect()
        target = Target(
            source=source,
            upstream=upstream,
            model=model,
            price=None,
            deadlines=self._terms.deadlines,
        )
        return Route(
            name=name,
            targets=(target,),
            kind="chat",
            created_s=0,
            deadline_s=self._terms.deadline_s,
            is_listed=False,
        )

    @property
    def upstream_names(self) -> frozenset[str]:
        """Upstreams that a name may lead to."""
        return frozenset({*self._sources, self._dev.name})

    def cache_ttl_s(self, credential_id: UUID) -> int:
        """How long answers to a key are kept; 0 when they are not."""
        return self._caches.get(credential_id, 0)

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
            policies = await repository.policies()
            self._caches = await repository.caches()
        now = {(row.upstream, row.model): row for row in prices}
        routes: dict[str, Route] = {}
        here = [row for row in models if row.upstream in self._connected]
        for name, rows in groupby(here, key=lambda row: row.name):
            routes[name] = self._route(name, list(rows), now, policies.get(name, "ordered"))
        for row in here:
            name = qualified(row.upstream, row.upstream_model)
            if name not in routes:
                route = self._route(name, [row], now, "ordered")
                routes[name] = msgspec.structs.replace(route, is_listed=False)
        self._routes = routes | self._guest_routes(routes)

    async def welcome(self, guests: Iterable[Guest]) -> None:
        """Make ``guests`` all the servers that have registered themselves and are alive."""
        now = {guest.source.name: guest for guest in guests}
        if now != self._guests:
            self._guests = now
            await self.reload()

    async def import_prices(self, listed: PriceFile) -> int:
        """Keep a price file's models and prices; return how many models it has."""
        async with self._db.begin() as session:
            repository = RegistryRepository(session)
            await repository.add_prices([price_row(entry, listed) for entry in listed.models])
            await repository.add_models([model_row(entry, "manual") for entry in listed.models])
        return len(listed.models)

    async def put(self, name: str, policy: Policy, rows: Sequence[ModelRow]) -> None:
        """Make ``rows`` what a name leads to; a taken name is pointed to the new places."""
        async with self._db.begin() as session:
            await RegistryRepository(session).put_models(name, policy, rows)
        await self.reload()

    async def forget(self, name: str) -> None:
        """Drop a name; ``ModelNotFound`` when there is none."""
        async with self._db.begin() as session:
            if not await RegistryRepository(session).forget_name(name):
                raise self.unknown(name)
        await self.reload()

    async def keep_answers(self, credential_id: UUID, ttl_s: int) -> None:
        """Answer equal requests of a key from the cache for ``ttl_s``; 0 ends that."""
        async with self._db.begin() as session:
            await RegistryRepository(session).put_cache(credential_id, ttl_s)
        await self.reload()

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
        self, name: str, rows: list[ModelRow], prices: Prices, policy: Policy | str
    ) -> Route:
        return Route(
            name=name,
            targets=tuple(self._target(row, prices) for row in rows),
            kind=rows[0].kind,
            created_s=int(rows[0].created_at.timestamp()),
            policy=cast("Policy", policy),
            deadline_s=rows[0].deadline_s or self._terms.deadline_s,
        )

    def _target(self, row: ModelRow, prices: Prices) -> Target:
        usual = self._terms.deadlines
        return Target(
            source=self._sources.get(row.upstream, self._dev),
            upstream=self._connected[row.upstream],
            model=row.upstream_model,
            price=self._price(row, prices),
            weight=row.weight,
            deadlines=Deadlines(
                connect_s=row.connect_timeout_s or usual.connect_s,
                first_byte_s=row.first_byte_timeout_s or usual.first_byte_s,
                idle_s=row.idle_timeout_s or usual.idle_s,
            ),
            card=Card(
                cast("Quality", row.quality),
                frozenset(filter(None, row.capabilities.split(","))),
                row.context_tokens,
            ),
        )

    def _guest_routes(self, taken: Mapping[str, Route]) -> dict[str, Route]:
        """Names of servers that registered themselves. One that several offer leads to all."""
        found: dict[str, Route] = {}
        for guest in self._guests.values():
            for model in guest.models:
                target = Target(
                    source=guest.source,
                    upstream=guest.upstream,
                    model=model,
                    price=Price(FREE, "USD", 0, 0),
                    deadlines=self._terms.deadlines,
                )
                for name, is_listed in guest.names(model):
                    if name in taken:
                        continue
                    before = found.get(name)
                    found[name] = Route(
                        name=name,
                        targets=(*(before.targets if before else ()), target),
                        kind=kind_of(model),
                        created_s=guest.created_s,
                        policy="least-busy",
                        deadline_s=self._terms.deadline_s,
                        is_listed=is_listed,
                        user_id=guest.user_id,
                    )
        return found

    def _price(self, row: ModelRow, prices: Prices) -> Price | None:
        """The newest price of the model, or of the undated name it is a snapshot of."""
        undated = re.sub(r"-\d{4}-?\d{2}-?\d{2}$", "", row.upstream_model)
        found = prices.get((row.upstream, row.upstream_model)) or prices.get(
            (row.upstream, undated)
        )
        if found is None:
            source = self._sources.get(row.upstream, self._dev)
            return Price(FREE, "USD", 0, 0) if source.is_free else None
        names = (name for name in Price.__struct_fields__)
        return Price(**{name: getattr(found, name) for name in names})
