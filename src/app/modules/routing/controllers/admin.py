"""``/api/v1/routing``: where names lead, how the upstreams are, and why a call goes where."""

from typing import Any

import msgspec
from litestar import Controller, Request, delete, get, post, put
from litestar.di import NamedDependency
from litestar.params import FromPath, JSONBody
from litestar.status_codes import HTTP_200_OK

from app.kernel.db import Page
from app.modules.auth.api import Principal
from app.modules.routing.domain.envelope import read_envelope
from app.modules.routing.schemas import AliasPut, AliasRead, CachePut, ExplanationRead
from app.modules.routing.service.aliases import Aliases
from app.modules.routing.service.choosing import Chooser
from app.modules.routing.service.gates import Gates, Health
from app.modules.routing.service.orders import Order, read_hints


class UpstreamController(Controller):
    path = "/api/v1/routing/upstreams"
    tags = ("routing",)

    @get(summary="Load, speed and health of every upstream that this process has asked")
    async def list(
        self,
        gates: NamedDependency[Gates],
        principal: NamedDependency[Principal],  # noqa: ARG002 - who has none learns nothing
    ) -> Page[Health]:
        return Page(gates.health())


class AliasController(Controller):
    path = "/api/v1/routing/models"
    tags = ("routing",)

    @get(summary="Where every name leads")
    async def list(
        self, aliases: NamedDependency[Aliases], principal: NamedDependency[Principal]
    ) -> Page[AliasRead]:
        return Page([AliasRead.of(route) for route in await aliases.list(principal)])

    @put("/{name:path}", summary="Make a name lead to one or several models")
    async def put(
        self,
        aliases: NamedDependency[Aliases],
        principal: NamedDependency[Principal],
        name: FromPath[str],
        data: JSONBody[AliasPut],
    ) -> AliasRead:
        """A name that leads elsewhere is pointed to the new places."""
        bare = name.lstrip("/")
        return AliasRead.of(await aliases.put(principal, bare, data.policy, data.rows(bare)))

    @delete("/{name:path}", summary="Drop a name")
    async def forget(
        self,
        aliases: NamedDependency[Aliases],
        principal: NamedDependency[Principal],
        name: FromPath[str],
    ) -> None:
        await aliases.forget(principal, name.lstrip("/"))


class CacheController(Controller):
    path = "/api/v1/routing/cache"
    tags = ("routing",)
    opt = {"scope": "inference"}  # noqa: RUF012 - Litestar reads it as a class attribute

    @put(summary="Answer the calling key's equal requests from the cache")
    async def put(
        self,
        aliases: NamedDependency[Aliases],
        principal: NamedDependency[Principal],
        data: JSONBody[CachePut],
    ) -> CachePut:
        await aliases.keep_answers(principal.credential_id, data.ttl_s)
        return data


class ExplainController(Controller):
    path = "/api/v1/routing/explain"
    tags = ("routing",)
    opt = {"scope": "inference"}  # noqa: RUF012 - Litestar reads it as a class attribute

    @post(status_code=HTTP_200_OK, summary="Where a chat completion would go now, and why")
    async def explain(
        self,
        chooser: NamedDependency[Chooser],
        principal: NamedDependency[Principal],
        request: Request[Any, Any, Any],
    ) -> ExplanationRead:
        """The body is that of the call; nothing is called, and nothing is counted."""
        body = await request.body()
        hints = read_hints(request.scope["headers"])
        order = Order(principal, "chat/completions", body, read_envelope(body), hints)
        choice = await chooser.explain(order)
        decision, pick = choice.decision, choice.pick
        reasons = () if decision is None else decision.reasons
        told = ExplanationRead.of(choice.route, choice.targets, choice.candidates, reasons)
        if pick is None:
            return told
        return msgspec.structs.replace(told, category=pick.category, strategy=pick.strategy)
