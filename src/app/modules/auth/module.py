"""Auth: who is asking, and what they may do.

Routes: ``/api/v1/auth`` with ``register``, ``prelogin``, ``login``, ``refresh``, ``me``,
``password``, ``keyring``, ``sessions`` and ``api-keys``; ``/metrics``. Tables: ``auth_users``,
``auth_sessions``, ``auth_refresh_tokens``, ``auth_api_keys``, ``auth_events``.

States. A session is live, then expired or revoked, for good. A refresh token is unused, then used;
for half a minute, and while its successor is unused, presenting it again brings the same successor,
and later it revokes the session. An API key is valid, then expired or revoked, for good, except the
bootstrap key, which is what ``APP_BOOTSTRAP_KEY`` says. A user's ``version`` only grows, and ends
what was signed before.
"""

import argparse
import asyncio
from contextlib import suppress
from datetime import timedelta

from litestar.di import Provide
from litestar.types import ControllerRouterHandler

from app.kernel.jobs import Job
from app.kernel.module import Command, Kit, Module, always
from app.kernel.settings import SettingsError
from app.modules.auth.adapters import open_hasher, open_signer
from app.modules.auth.api import Authenticator, Profiles
from app.modules.auth.controllers.accounts import AccountController
from app.modules.auth.controllers.caller import principal_of
from app.modules.auth.controllers.keys import ApiKeyController
from app.modules.auth.controllers.metrics import MetricsDoor, metrics
from app.modules.auth.controllers.sessions import SessionController
from app.modules.auth.domain import Lifetimes, bootstrap_flaw
from app.modules.auth.models import ApiKeyRow, EventRow, RefreshTokenRow, SessionRow, UserRow
from app.modules.auth.service.accounts import AccountService
from app.modules.auth.service.authenticator import TokenAuthenticator
from app.modules.auth.service.credentials import CredentialCheck
from app.modules.auth.service.issuer import TokenIssuer
from app.modules.auth.service.keys import ApiKeyService
from app.modules.auth.service.owner import OwnerService
from app.modules.auth.service.recollection import Recollection
from app.modules.auth.service.sessions import SessionService
from app.modules.auth.service.strikes import StrikeBook
from app.modules.auth.service.sweep import Sweep
from app.modules.auth.settings import AuthSettings
from app.modules.health.api import MetricsPage

# Made-up salts must not change when the secret is rotated, or they would give themselves away.
SALT_LABEL = "prelogin-salt"


class AuthModule(Module):
    name = "auth"
    settings_type = AuthSettings
    models = (UserRow, SessionRow, RefreshTokenRow, ApiKeyRow, EventRow)
    routes = (AccountController, SessionController, ApiKeyController)

    def __init__(self, settings: AuthSettings, kit: Kit) -> None:
        _refuse(settings, is_loopback=kit.house.is_loopback)
        self._settings = settings
        self._announce = kit.announce
        self._hasher = open_hasher(settings, kit.keys)
        self._memory = Recollection(kit.cache)
        self._news: asyncio.Task[None] | None = None
        signer = open_signer(kit.keys)
        lifetimes = Lifetimes(
            timedelta(seconds=settings.access_ttl_s), timedelta(seconds=settings.refresh_ttl_s)
        )
        issuer = TokenIssuer(signer, lifetimes, kit.clock)
        salt_key = kit.keys.derive(SALT_LABEL, key_id=kit.keys.ids[-1])
        credentials = CredentialCheck(self._hasher, StrikeBook(), salt_key)
        self.accounts = AccountService(kit.db, credentials, issuer, self._memory, kit.clock)
        self.sessions = SessionService(kit.db, issuer, self._memory, kit.clock)
        self.keys = ApiKeyService(kit.db, self._memory, kit.clock)
        self.owner = OwnerService(kit.db, credentials, self._memory, kit.clock)
        self.authenticator = TokenAuthenticator(kit.db, signer, self._memory, kit.clock)
        self.sweep = Sweep(kit.db, kit.clock)
        page = kit.find(MetricsPage)
        self._metrics_door = MetricsDoor(self.authenticator, page) if page else None

    def exports(self) -> dict[type, object]:
        return {Authenticator: self.authenticator, Profiles: self.accounts}

    def dependencies(self) -> dict[str, Provide]:
        return {
            "principal": principal_of(self.authenticator),
            "accounts": always(self.accounts),
            "sessions": always(self.sessions),
            "api_keys": always(self.keys),
        } | ({"metrics_door": always(self._metrics_door)} if self._metrics_door else {})

    def handlers(self) -> tuple[ControllerRouterHandler, ...]:
        return (metrics,) if self._metrics_door else ()

    def jobs(self) -> tuple[Job, ...]:
        return (Job("auth.sweep", self.sweep.run, cron="17 * * * *"),)

    def commands(self) -> tuple[Command, ...]:
        return (
            Command(
                "owner-key",
                "make another API key of the owner and print it, this once",
                _owner_key_arguments,
                self._owner_key,
            ),
        )

    async def open(self) -> None:
        owner, key = await self.owner.settle(self._settings.bootstrap_key)
        if key is not None:
            self._announce(f"Your API key, shown this once: {key}")
        if self._settings.anonymous == "on":
            self.authenticator.let_anybody_in_as(owner.id)
        self._news = asyncio.create_task(self._memory.follow(), name="auth-news")

    async def close(self) -> None:
        if self._news is not None:
            self._news.cancel()
            with suppress(asyncio.CancelledError):
                await self._news
        self._hasher.close()

    async def _owner_key(self, options: argparse.Namespace) -> str:
        return await self.owner.another_key(self._settings.bootstrap_key, options.name)


def _owner_key_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--name", default="made at the terminal", help="what lists call it")


def _refuse(settings: AuthSettings, *, is_loopback: bool) -> None:
    """Stop the start over what would leave the house open, or closed to everybody."""
    if settings.anonymous == "on" and not is_loopback:
        raise SettingsError(
            "AUTH_ANONYMOUS=on lets everybody in, so it needs a loopback APP_HOST (127.0.0.1)."
        )
    if settings.bootstrap_key is not None and (flaw := bootstrap_flaw(settings.bootstrap_key)):
        raise SettingsError(f"APP_BOOTSTRAP_KEY {flaw}.")
