"""Routing: one OpenAI-compatible door to every model.

Routes: ``POST /v1/chat/completions``, ``/v1/completions``, ``/v1/embeddings``; ``GET /v1/models``,
``/v1/models/{id}``. Tables: ``routing_models``, ``routing_prices``. A model call has no row of its
own while it runs; it ends as ``completed``, ``failed`` or ``abandoned`` in its usage row.
"""

import argparse
from pathlib import Path

import msgspec
from litestar import asgi
from litestar.di import Provide
from litestar.types import ASGIApp, ControllerRouterHandler

from app.kernel.errors import Invalid
from app.kernel.module import Command, Kit, Module, always
from app.kernel.problems import Renderer
from app.modules.auth.api import Authenticator
from app.modules.billing.api import Meter
from app.modules.routing.adapters import dev_source, open_sources
from app.modules.routing.controllers import ModelController, Wire
from app.modules.routing.controllers.openapi import SURFACES, openapi_paths
from app.modules.routing.models import ModelRow, PriceRow
from app.modules.routing.schemas import openai_error
from app.modules.routing.service import PriceFile, Registry
from app.modules.routing.settings import RoutingSettings


class RoutingModule(Module):
    name = "routing"
    settings_type = RoutingSettings
    models = (ModelRow, PriceRow)
    routes = (ModelController,)

    def __init__(self, settings: RoutingSettings, kit: Kit) -> None:
        self._settings = settings
        self.registry = Registry(
            kit.db, open_sources(settings), dev_source(), dev_model=settings.dev_model
        )
        wire = Wire(kit.use(Authenticator), self.registry, kit.use(Meter))
        self._calls = {f"/v1/{surface}": wire.handler(surface) for surface in SURFACES}

    def handlers(self) -> tuple[ControllerRouterHandler, ...]:
        return tuple(asgi(path, copy_scope=False)(call) for path, call in self._calls.items())

    def hot_paths(self) -> dict[str, ASGIApp]:
        return dict(self._calls)

    def dependencies(self) -> dict[str, Provide]:
        return {"registry": always(self.registry)}

    def dialects(self) -> dict[str, Renderer]:
        return {"/v1/": openai_error}

    def body_limits(self) -> dict[str, int]:
        return {"/v1/": self._settings.body_limit_bytes}

    def openapi_paths(self) -> dict[str, object]:
        return openapi_paths()

    def commands(self) -> tuple[Command, ...]:
        return (Command("models", "the registry of models", _arguments, self._run),)

    async def open(self) -> None:
        await self.registry.open()

    async def close(self) -> None:
        await self.registry.close()

    async def _run(self, options: argparse.Namespace) -> str:
        if options.action == "add":
            await self.registry.put(options.name, options.upstream, options.model or options.name)
            return f"{options.name} is {options.model or options.name} at {options.upstream}"
        if options.action == "import":
            count = await self.registry.import_prices(_price_file(options.file))
            return f"{count} models and prices imported"
        rows = await self.registry.known()
        return "\n".join(f"{r.name}\t{r.upstream}\t{r.upstream_model}\t{r.source}" for r in rows)


def _arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", required=True)
    actions.add_parser("list", help="name, upstream, model there, where the row comes from")
    add = actions.add_parser("add", help="give a model a name of its own")
    add.add_argument("name")
    add.add_argument("--upstream", required=True, help="openai, llmd, ollama, ...")
    add.add_argument("--model", default="", help="its name there, if it is another one")
    bring = actions.add_parser("import", help="read models and prices from a YAML or JSON file")
    bring.add_argument("file", type=Path)


def _price_file(path: Path) -> PriceFile:
    try:
        return msgspec.yaml.decode(path.read_bytes(), type=PriceFile, strict=False)
    except (OSError, msgspec.DecodeError) as error:
        raise Invalid(f"{path}: {error}") from None
