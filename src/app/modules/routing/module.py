"""Routing: one OpenAI-compatible door to every model.

Routes: ``POST /v1/chat/completions``, ``/v1/completions``, ``/v1/embeddings``, ``/v1/responses``,
``/v1/messages``; ``GET /v1/models``, ``/v1/models/{id}``; ``/api/v1/routing``: ``models``,
``upstreams``, ``workers``, ``cache``, ``explain``. Tables: ``routing_models``,
``routing_aliases``, ``routing_prices``, ``routing_caches``, ``routing_workers``,
``routing_responses``. A model call has no row of its own while it runs; it ends as ``completed``,
``failed`` or ``abandoned`` in its usage row.
"""

import argparse
import asyncio
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING, get_args

import msgspec
from litestar import asgi
from litestar.di import Provide
from litestar.types import ASGIApp, ControllerRouterHandler

from app.kernel import problems
from app.kernel.errors import Invalid
from app.kernel.jobs import Job
from app.kernel.module import Command, Kit, Module, always
from app.kernel.problems import Renderer
from app.modules.auth.api import Authenticator, Principal
from app.modules.billing.api import Meter
from app.modules.routing.adapters import (
    dev_source,
    open_desk,
    open_seal,
    open_sources,
    open_strangers,
    open_telemetry,
    open_workers,
    watch,
)
from app.modules.routing.api import Completions
from app.modules.routing.controllers import (
    AliasController,
    CacheController,
    ExplainController,
    ModelController,
    ResponseController,
    Tally,
    UpstreamController,
    Warden,
    Wire,
    WorkerController,
)
from app.modules.routing.controllers.infer import PATH, InferDoor, infer_path
from app.modules.routing.controllers.openapi import SURFACES, openapi_paths
from app.modules.routing.domain.balance import Weights
from app.modules.routing.domain.choice import Policy
from app.modules.routing.domain.envelope import read_envelope
from app.modules.routing.domain.names import kind_of
from app.modules.routing.domain.workers import Registration, own_endpoint, worker_name
from app.modules.routing.models import (
    AliasRow,
    CacheRow,
    ModelRow,
    PriceRow,
    ResponseRow,
    WorkerRow,
)
from app.modules.routing.ports import Answer, AnswerStream, Deadlines
from app.modules.routing.schemas import anthropic_error, openai_error
from app.modules.routing.service.aliases import Aliases
from app.modules.routing.service.announcer import Announcer, own_model, own_models
from app.modules.routing.service.answers import AnswerCache
from app.modules.routing.service.choosing import Chooser
from app.modules.routing.service.completions import ModelCompletions
from app.modules.routing.service.conversations import Conversations
from app.modules.routing.service.dialects import as_messages, as_responses
from app.modules.routing.service.dispatch import Dispatcher
from app.modules.routing.service.gates import GateLimits, Gates
from app.modules.routing.service.gateway import Gateway
from app.modules.routing.service.ledger import Ledger
from app.modules.routing.service.orders import Order
from app.modules.routing.service.plans import Failure
from app.modules.routing.service.pricelist import PriceFile
from app.modules.routing.service.registry import Registry, Terms
from app.modules.routing.service.workers import Workers
from app.modules.routing.settings import RoutingSettings
from app.settings import ENVIRON

if TYPE_CHECKING:
    from app.modules.routing.adapters.otel import GenAiTelemetry


def _top_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--url", default="http://127.0.0.1:8000", help="where the server is")
    parser.add_argument("--key", default="", help="else INSULA_API_KEY, else APP_BOOTSTRAP_KEY")
    parser.add_argument("--once", action="store_true", help="one frame, since the server's start")


async def _top(options: argparse.Namespace) -> str:
    return await watch(ENVIRON, options.url, options.key, sys.stdout, is_once=options.once)


class RoutingModule(Module):
    name = "routing"
    settings_type = RoutingSettings
    models = (AliasRow, CacheRow, ModelRow, PriceRow, ResponseRow, WorkerRow)
    routes = (
        AliasController,
        CacheController,
        ExplainController,
        ModelController,
        ResponseController,
        UpstreamController,
        WorkerController,
    )

    clients = (Command("top", "a running server, live", _top_arguments, _top),)

    def __init__(self, settings: RoutingSettings, kit: Kit) -> None:
        self._settings = settings
        self.registry = Registry(
            kit.db,
            open_sources(settings),
            dev_source(),
            dev_model=settings.dev_model,
            strangers=open_strangers(settings),
            terms=_terms(settings),
        )
        self.gates = Gates(GateLimits(settings.parallel, settings.queue, settings.queue_timeout_s))
        weights = Weights(
            settings.cost_weight, settings.latency_weight, settings.cost_threshold_chars
        )
        self.chooser = Chooser(self.registry, self.gates, weights)
        self.aliases = Aliases(self.registry)
        seal = open_seal(kit)
        self.conversations = Conversations(kit.db, seal, kit.clock)
        tally = Tally()
        self._ledger = ledger = Ledger(
            kit.use(Meter), _described, output_tokens=settings.output_reserve_tokens
        )
        ledger.tell(tally.count)
        self.gateway = Gateway(
            self.chooser,
            Dispatcher(self.gates, retries=settings.retries),
            ledger,
            AnswerCache(kit.cache),
            {"messages": as_messages, "responses": as_responses(self.conversations)},
        )
        self.completions = ModelCompletions(self.gateway, self.registry, settings.default_model)
        warden = Warden()
        self._wire = wire = Wire(
            kit.use(Authenticator),
            self.gateway,
            tally,
            warden,
            keep_alive_s=settings.keep_alive_s,
        )
        self._telemetry: GenAiTelemetry | None = None
        self._calls = {f"/v1/{surface}": wire.handler(surface) for surface in SURFACES}
        self.workers = Workers(
            kit.db,
            kit.clock,
            open_workers(settings),
            self._welcome,
            seal,
            heartbeat_s=settings.heartbeat_s,
        )
        self._house = kit.house
        self._announcer: Announcer | None = None
        if settings.role == "local-agent":
            self._announcer = Announcer(open_desk(settings), self._describe)
            door = InferDoor(
                kit.use(Authenticator),
                self._complete,
                lambda: own_model(self.registry.listed()),
                warden.watch,
            )
            self._calls[PATH] = door.handle

    def handlers(self) -> tuple[ControllerRouterHandler, ...]:
        return tuple(asgi(path, copy_scope=False)(call) for path, call in self._calls.items())

    def hot_paths(self) -> dict[str, ASGIApp]:
        return dict(self._calls)

    def exports(self) -> dict[type, object]:
        return {Completions: self.completions}

    def dependencies(self) -> dict[str, Provide]:
        return {
            "aliases": always(self.aliases),
            "chooser": always(self.chooser),
            "conversations": always(self.conversations),
            "gates": always(self.gates),
            "registry": always(self.registry),
            "workers": always(self.workers),
        }

    def dialects(self) -> dict[str, Renderer]:
        return {"/v1/": openai_error, "/v1/messages": anthropic_error}

    def body_limits(self) -> dict[str, int]:
        limit = self._settings.body_limit_bytes
        return {"/v1/": limit, PATH: limit} if self._announcer else {"/v1/": limit}

    def openapi_paths(self) -> dict[str, object]:
        return openapi_paths() | (infer_path() if self._announcer else {})

    def jobs(self) -> tuple[Job, ...]:
        return (
            Job("routing.sweep-responses", self.conversations.sweep, cron="17 * * * *"),
            Job("routing.sweep-workers", self.workers.sweep, cron="23 * * * *"),
        )

    def commands(self) -> tuple[Command, ...]:
        return (Command("models", "the registry of models", _arguments, self._run),)

    async def open(self) -> None:
        await self.registry.open()
        await self.workers.open()
        self._telemetry = await asyncio.to_thread(
            open_telemetry, self._settings, self._house.version
        )
        if self._telemetry is not None:
            self._ledger.tell(self._telemetry.note)
            self._wire.follow(self._telemetry.begin)
        if self._announcer is not None:
            await self._announcer.open()

    async def close(self) -> None:
        if self._announcer is not None:
            await self._announcer.close()
        await self.gateway.close()
        if self._telemetry is not None:
            await self._telemetry.close()
        await self.workers.close()
        await self.registry.close()

    async def _welcome(self) -> None:
        await self.registry.welcome(self.workers.guests())

    async def _describe(self) -> Registration:
        """What a local agent says of itself to its router."""
        settings, machine = self._settings, socket.gethostname()
        health = self.gates.health()
        return Registration(
            name=settings.agent_name or worker_name(machine),
            endpoint=settings.agent_endpoint
            or own_endpoint(self._house.host, self._house.port, machine),
            models=own_models(await self.registry.ready_list())[:100],
            queue_length=sum(found.in_flight + found.queued for found in health),
            key=settings.agent_key or "",
        )

    async def _complete(self, principal: Principal, body: bytes) -> Answer | AnswerStream:
        """Answer a chat completion at the agent's door, as one under ``/v1`` is answered."""
        order = Order(principal, "chat/completions", body, read_envelope(body))
        reply = (await self.gateway.serve(order)).reply
        if reply.pieces is None:
            return Answer(reply.status, reply.content_type, reply.body, reply.retry_after)
        close = reply.pieces.aclose  # type: ignore[attr-defined]  # a generator's, all of them
        return AnswerStream(reply.status, reply.content_type, reply.pieces, close)

    async def _run(self, options: argparse.Namespace) -> str:
        if options.action == "add":
            rows = [_row(options.name, place, at) for at, place in enumerate(_places(options))]
            await self.registry.put(options.name, options.policy, rows)
            return "\n".join(f"{r.name} is {r.upstream_model} at {r.upstream}" for r in rows)
        if options.action == "remove":
            await self.registry.forget(options.name)
            return f"{options.name} leads nowhere now"
        if options.action == "import":
            count = await self.registry.import_prices(_price_file(options.file))
            return f"{count} models and prices imported"
        found = await self.registry.known()
        return "\n".join(f"{r.name}\t{r.upstream}\t{r.upstream_model}\t{r.source}" for r in found)


def _described(error: Exception) -> Failure:
    problem = problems.of(error)
    return Failure(problem.status, problem.code, problem.detail)


def _terms(settings: RoutingSettings) -> Terms:
    deadlines = Deadlines(
        connect_s=settings.connect_timeout_s,
        first_byte_s=settings.first_byte_timeout_s,
        idle_s=settings.idle_timeout_s,
    )
    return Terms(deadlines, settings.deadline_s)


def _arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", required=True)
    actions.add_parser("list", help="name, upstream, model there, where the row comes from")
    add = actions.add_parser("add", help="give one or several models a name of their own")
    add.add_argument("name")
    add.add_argument("--upstream", default="", help="openai, llmd, ollama, ...")
    add.add_argument("--model", default="", help="its name there, if it is another one")
    add.add_argument("--to", action="append", default=[], help="upstream/model, once for each")
    add.add_argument("--policy", choices=get_args(Policy), default="ordered")
    remove = actions.add_parser("remove", help="drop a name")
    remove.add_argument("name")
    bring = actions.add_parser("import", help="read models and prices from a YAML or JSON file")
    bring.add_argument("file", type=Path)


def _places(options: argparse.Namespace) -> list[tuple[str, str]]:
    places = [(options.upstream, options.model or options.name)] if options.upstream else []
    for text in options.to:
        upstream, found, model = text.partition("/")
        if not found or not upstream or not model:
            raise Invalid(f"--to is upstream/model, not {text!r}")
        places.append((upstream, model))
    if not places:
        raise Invalid("give --upstream or --to")
    return places


def _row(name: str, place: tuple[str, str], position: int) -> ModelRow:
    return ModelRow(
        name=name,
        upstream=place[0],
        upstream_model=place[1],
        kind=kind_of(place[1]),
        source="manual",
        position=position,
    )


def _price_file(path: Path) -> PriceFile:
    try:
        return msgspec.yaml.decode(path.read_bytes(), type=PriceFile, strict=False)
    except (OSError, msgspec.DecodeError) as error:
        raise Invalid(f"{path}: {error}") from None
