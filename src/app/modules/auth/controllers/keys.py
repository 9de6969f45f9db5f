"""HTTP of API keys."""

from typing import Any
from uuid import UUID

from litestar import Controller, Request, delete, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath, JSONBody

from app.kernel.db import Page
from app.modules.auth.api import Principal
from app.modules.auth.controllers.caller import network_of
from app.modules.auth.schemas import ApiKeyCreate, ApiKeyCreated, ApiKeyRead
from app.modules.auth.service.keys import ApiKeyService


class ApiKeyController(Controller):
    path = "/api/v1/auth/api-keys"
    tags = ("auth",)

    @post(summary="Make an API key")
    async def create(
        self,
        api_keys: NamedDependency[ApiKeyService],
        principal: NamedDependency[Principal],
        request: Request[Any, Any, Any],
        data: JSONBody[ApiKeyCreate],
    ) -> ApiKeyCreated:
        """``key`` is in this answer only."""
        row, key = await api_keys.create(principal, data.terms(), network_of(request))
        return ApiKeyCreated.of(row, key)

    @get(summary="Your API keys, newest first")
    async def list(
        self, api_keys: NamedDependency[ApiKeyService], principal: NamedDependency[Principal]
    ) -> Page[ApiKeyRead]:
        rows = await api_keys.list(principal.user_id)
        return Page([ApiKeyRead.of(row) for row in rows])

    @delete("/{key_id:str}", summary="Revoke an API key")
    async def revoke(
        self,
        api_keys: NamedDependency[ApiKeyService],
        principal: NamedDependency[Principal],
        request: Request[Any, Any, Any],
        key_id: FromPath[UUID],
    ) -> None:
        await api_keys.revoke(principal, key_id, network_of(request))
