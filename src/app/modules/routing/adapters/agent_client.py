"""Tells a router over HTTP that this agent is there."""

import asyncio
from typing import Any, Final
from urllib.parse import quote

import aiohttp
import msgspec

from app.kernel.errors import BadUpstream
from app.kernel.settings import Secret
from app.modules.routing.domain.workers import Heartbeat, Lease, Registration

TIMEOUT_S: Final = 10.0
ANSWER_LIMIT_BYTES: Final = 65_536
PATH: Final = "api/v1/routing/workers"


class RouterUnreachable(BadUpstream):
    """The router does not answer."""

    title = "Router unreachable"


class RouterRefused(BadUpstream):
    """The router answers, and does not take this agent."""

    title = "Router refused"


class AgentClient:
    """``url`` is the router's root; ``key`` one of its API keys, with the scope ``full``."""

    def __init__(self, url: str, key: Secret | None) -> None:
        self._url = f"{url.rstrip('/')}/{PATH}"
        self._headers = {"authorization": f"Bearer {key}"} if key else {}
        self._opened: aiohttp.ClientSession | None = None

    async def register(self, said: Registration) -> Lease:
        status, body = await self._send("POST", "", said)
        return self._lease(status, body)

    async def beat(self, name: str, queue_length: int) -> Lease | None:
        path = f"/{quote(name, safe='')}/heartbeat"
        status, body = await self._send("POST", path, Heartbeat(queue_length=queue_length))
        return None if status == 404 else self._lease(status, body)

    async def leave(self, name: str) -> None:
        await self._send("DELETE", f"/{quote(name, safe='')}", None)

    async def close(self) -> None:
        if self._opened is not None:
            await self._opened.close()

    async def _send(self, method: str, path: str, said: Any) -> tuple[int, bytes]:
        try:
            async with self._session().request(
                method,
                self._url + path,
                # The agent's own key is a ``Secret``, which is not written unless it is asked for.
                data=None if said is None else msgspec.json.encode(said, enc_hook=str),
                headers=self._headers,
                allow_redirects=False,
            ) as response:
                return response.status, await _read(response)
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
            kind = type(error).__name__
            raise RouterUnreachable(f"The router cannot be reached ({kind}).") from error

    def _lease(self, status: int, body: bytes) -> Lease:
        if status != 200:
            raise RouterRefused(f"The router answered {status}: {_detail(body)}")
        try:
            return msgspec.json.decode(body, type=Lease)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise RouterRefused("What answers at ROUTING_ROUTER_URL is no router.") from error

    def _session(self) -> aiohttp.ClientSession:
        if self._opened is None:
            self._opened = aiohttp.ClientSession(
                headers={"content-type": "application/json"},
                timeout=aiohttp.ClientTimeout(total=TIMEOUT_S),
                cookie_jar=aiohttp.DummyCookieJar(),
                trust_env=False,
            )
        return self._opened


async def _read(response: aiohttp.ClientResponse) -> bytes:
    """Read an answer, and not more of it than a lease can be long."""
    try:
        return await response.content.readexactly(ANSWER_LIMIT_BYTES)
    except asyncio.IncompleteReadError as ended:
        return ended.partial


class _Problem(msgspec.Struct, frozen=True):
    detail: str = ""


def _detail(body: bytes) -> str:
    """What a router says is wrong, as far as it says so in the usual form."""
    try:
        found = msgspec.json.decode(body, type=_Problem).detail
    except (msgspec.DecodeError, UnicodeDecodeError):
        found = ""
    return found[:200] or "check ROUTING_ROUTER_URL and ROUTING_ROUTER_KEY."
