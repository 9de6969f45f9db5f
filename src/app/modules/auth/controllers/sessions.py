"""HTTP of sessions."""

from typing import Any
from uuid import UUID

from litestar import Controller, Request, delete, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath, JSONBody
from litestar.status_codes import HTTP_200_OK

from app.kernel.db import Page
from app.modules.auth.api import Principal
from app.modules.auth.controllers.caller import network_of
from app.modules.auth.schemas import AuthTokens, RefreshCreate, SessionRead
from app.modules.auth.service.sessions import SessionService


class SessionController(Controller):
    path = "/api/v1/auth"
    tags = ("auth",)

    @post("/refresh", status_code=HTTP_200_OK, summary="Renew your tokens")
    async def refresh(
        self,
        sessions: NamedDependency[SessionService],
        request: Request[Any, Any, Any],
        data: JSONBody[RefreshCreate],
    ) -> AuthTokens:
        """A lost answer can be had again for 30 seconds. Later, a used token ends the session."""
        return AuthTokens.of(await sessions.refresh(data.refresh_token, network_of(request)))

    @get("/sessions", summary="Your signed-in devices, last used first")
    async def list(
        self, sessions: NamedDependency[SessionService], principal: NamedDependency[Principal]
    ) -> Page[SessionRead]:
        rows = await sessions.list(principal.user_id)
        return Page([SessionRead.of(row, current=principal.credential_id) for row in rows])

    @delete("/sessions/{session_id:str}", summary="Sign a device out")
    async def revoke(
        self,
        sessions: NamedDependency[SessionService],
        principal: NamedDependency[Principal],
        request: Request[Any, Any, Any],
        session_id: FromPath[UUID],
    ) -> None:
        await sessions.revoke(principal, session_id, network_of(request))

    @delete("/sessions", summary="Sign all other devices out")
    async def revoke_others(
        self,
        sessions: NamedDependency[SessionService],
        principal: NamedDependency[Principal],
        request: Request[Any, Any, Any],
    ) -> None:
        await sessions.revoke_others(principal, network_of(request))
