"""HTTP of accounts. What opens a session answers 200: the clients of the contract expect it."""

from typing import Any

from litestar import Controller, Request, get, post, put
from litestar.di import NamedDependency
from litestar.params import JSONBody
from litestar.status_codes import HTTP_200_OK

from app.modules.auth.api import Principal
from app.modules.auth.controllers.caller import network_of
from app.modules.auth.domain import Device
from app.modules.auth.schemas import (
    AuthTokens,
    KeyringRead,
    LoginCreate,
    PasswordPut,
    PreloginCreate,
    PreloginRead,
    RegisterCreate,
    UserProfile,
)
from app.modules.auth.service.accounts import AccountService


class AccountController(Controller):
    path = "/api/v1/auth"
    tags = ("auth",)

    @post("/register", status_code=HTTP_200_OK, summary="Make an account")
    async def register(
        self,
        accounts: NamedDependency[AccountService],
        request: Request[Any, Any, Any],
        data: JSONBody[RegisterCreate],
    ) -> AuthTokens:
        """Answers 200 and signs the device in. An address that is taken answers 409."""
        device = Device(data.device_name or "", network_of(request))
        pair = await accounts.register(data.email, data.credential(), data.keyring, device)
        return AuthTokens.of(pair)

    @post("/prelogin", status_code=HTTP_200_OK, summary="How to derive an auth_key")
    async def prelogin(
        self, accounts: NamedDependency[AccountService], data: JSONBody[PreloginCreate]
    ) -> PreloginRead:
        """The answer does not tell whether the address has an account."""
        return PreloginRead(await accounts.salt_of(data.email))

    @post("/login", status_code=HTTP_200_OK, summary="Sign a device in")
    async def login(
        self,
        accounts: NamedDependency[AccountService],
        request: Request[Any, Any, Any],
        data: JSONBody[LoginCreate],
    ) -> AuthTokens:
        device = Device(data.device_name or "", network_of(request))
        return AuthTokens.of(await accounts.login(data.email, data.credential(), device))

    @get("/me", summary="Who you are")
    async def me(
        self, accounts: NamedDependency[AccountService], principal: NamedDependency[Principal]
    ) -> UserProfile:
        return UserProfile.of(await accounts.profile(principal.user_id))

    @put("/password", summary="Change your password")
    async def change_password(
        self,
        accounts: NamedDependency[AccountService],
        principal: NamedDependency[Principal],
        request: Request[Any, Any, Any],
        data: JSONBody[PasswordPut],
    ) -> AuthTokens:
        """Ends every session; the answer is the new one of this device."""
        network = network_of(request)
        pair = await accounts.change_password(
            principal, data.current, data.new, data.keyring, network
        )
        return AuthTokens.of(pair)

    @get("/keyring", summary="Your end-to-end keys, wrapped")
    async def keyring(
        self, accounts: NamedDependency[AccountService], principal: NamedDependency[Principal]
    ) -> KeyringRead:
        return KeyringRead((await accounts.profile(principal.user_id)).keyring)
