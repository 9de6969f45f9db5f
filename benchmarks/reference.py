"""The least a gateway can do: look the key up, read two fields, pass the bytes both ways.

A plain ASGI callable with no framework. Insula is measured in units of it. ``own`` is the same with
Insula's own HTTP client; ``bare`` answers without any upstream: what the server alone costs.
"""

import asyncio
import hashlib
import os
from typing import Any, Final

import aiohttp
import msgspec
from yarl import URL

from app.modules.routing.adapters.http1 import Http1Client
from app.modules.routing.ports import HttpRequest

DECOYS = 1000
POOL_LIMIT = 1024
OWN_HEADERS = (("authorization", "Bearer sk-upstream"),)

JSON: Final = (b"content-type", b"application/json")
EVENTS: Final = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
]
REFUSED: Final = b'{"error":{"message":"Wrong key.","type":"authentication_error"}}'
UNREADABLE: Final = b'{"error":{"message":"Wrong body.","type":"invalid_request_error"}}'
UNREACHABLE: Final = b'{"error":{"message":"No answer.","type":"api_error"}}'
SAYS_NOTHING: Final = b'{"object":"chat.completion","choices":[],"usage":null}'.ljust(600)


class Envelope(msgspec.Struct):
    """What must be known of a request to route it."""

    model: str
    stream: bool = False


read_envelope: Final = msgspec.json.Decoder(Envelope).decode


class PassThrough:
    """One upstream, one client key among a thousand others."""

    def __init__(self, upstream: str, key: str) -> None:
        self._url = URL(f"{upstream}/chat/completions")
        self._headers = {
            "authorization": "Bearer sk-upstream",
            "content-type": "application/json",
            "accept-encoding": "identity",
        }
        keys = [key, *(f"sk-decoy-{number}" for number in range(DECOYS))]
        self._owners = {hashlib.sha256(text.encode()).digest(): text for text in keys}
        self._session: aiohttp.ClientSession

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await self._live(receive, send)
        elif scope["path"] != "/v1/chat/completions":
            await answer(send, 200 if scope["path"] == "/health" else 404, b"{}")
        elif self._owner(scope) is None:
            await answer(send, 401, REFUSED)
        else:
            await self._complete(receive, send)

    async def _live(self, receive: Any, send: Any) -> None:
        await receive()
        await self.open()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await self.close()
        await send({"type": "lifespan.shutdown.complete"})

    async def open(self) -> None:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                limit=POOL_LIMIT, keepalive_timeout=60, ttl_dns_cache=300
            ),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=60),
            cookie_jar=aiohttp.DummyCookieJar(),
            skip_auto_headers=("User-Agent",),
            auto_decompress=False,
            trust_env=False,
        )

    async def close(self) -> None:
        await self._session.close()

    def _owner(self, scope: Any) -> str | None:
        for name, value in scope["headers"]:
            if name == b"authorization":
                return self._owners.get(hashlib.sha256(value[7:]).digest())
        return None

    async def _complete(self, receive: Any, send: Any) -> None:
        body = await read(receive)
        try:
            envelope = read_envelope(body)
        except msgspec.MsgspecError:
            await answer(send, 400, UNREADABLE)
            return
        if not envelope.stream:
            await answer(send, *await self._fetch(body))
            return
        async with self._post(body) as response:
            await stream(response, receive, send)

    async def _fetch(self, body: bytes) -> tuple[int, bytes]:
        try:
            async with self._post(body) as response:
                return response.status, await response.read()
        except aiohttp.ClientError:
            return 502, UNREACHABLE

    def _post(self, body: bytes) -> Any:
        return self._session.post(
            self._url, data=body, headers=self._headers, allow_redirects=False
        )


class OwnClient(PassThrough):
    """The same for plain calls, by the HTTP client that Insula has of its own."""

    def __init__(self, upstream: str, key: str) -> None:
        super().__init__(upstream, key)
        self._upstream = upstream

    async def open(self) -> None:
        await super().open()
        self._client = Http1Client(
            "mock", self._upstream, answer_limit_bytes=2**26, max_connections=POOL_LIMIT
        )

    async def close(self) -> None:
        await self._client.close()
        await super().close()

    async def _fetch(self, body: bytes) -> tuple[int, bytes]:
        found = await self._client.fetch(HttpRequest("chat/completions", body, OWN_HEADERS))
        return found.status, found.body


async def read(receive: Any) -> bytes:
    message = await receive()
    whole: bytes = message["body"]
    if not message.get("more_body"):
        return whole
    parts = [whole]
    while message.get("more_body"):
        message = await receive()
        parts.append(message["body"])
    return b"".join(parts)


async def answer(send: Any, status: int, body: bytes) -> None:
    headers = [JSON, (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def stream(response: aiohttp.ClientResponse, receive: Any, send: Any) -> None:
    """Pass the events on until they end or the client leaves."""
    await send({"type": "http.response.start", "status": response.status, "headers": EVENTS})
    passing = asyncio.ensure_future(pass_on(response, send))
    leaving = asyncio.ensure_future(leave(receive))
    try:
        await asyncio.wait((passing, leaving), return_when=asyncio.FIRST_COMPLETED)
    finally:
        leaving.cancel()
        if not passing.done():
            passing.cancel()
            response.close()


async def pass_on(response: aiohttp.ClientResponse, send: Any) -> None:
    async for chunk in response.content.iter_any():
        await send({"type": "http.response.body", "body": chunk, "more_body": True})
    await send({"type": "http.response.body", "body": b""})


async def leave(receive: Any) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def bare(scope: Any, receive: Any, send: Any) -> None:
    """Read the request and answer: no key, no upstream, nothing."""
    if scope["type"] == "lifespan":
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})
        return
    if scope["method"] == "POST":
        await read(receive)
    await answer(send, 200, SAYS_NOTHING)


PLACES: Final = (
    os.environ.get("BENCH_UPSTREAM", "http://127.0.0.1:9100/v1"),
    os.environ.get("BENCH_KEY", ""),
)
app = PassThrough(*PLACES)
own = OwnClient(*PLACES)
