"""HTTP to one server by aiohttp, TLS included.

aiohttp, because httpx does not carry many connections at once: its pool scans every connection on
every request.
"""

import asyncio
from collections.abc import AsyncIterator

import aiohttp
from yarl import URL

from app.modules.routing.domain.faults import AnswerTooLarge, UpstreamSilent, UpstreamUnreachable
from app.modules.routing.ports import Answer, AnswerStream, Deadlines, HttpRequest

EVENT_STREAM = "text/event-stream"
KEEP_S = 60


class AiohttpClient:
    """One session; connections are pooled and kept for a minute."""

    def __init__(
        self, name: str, base_url: str, *, answer_limit_bytes: int, max_connections: int
    ) -> None:
        self._name = name
        self._base_url = base_url
        self._answer_limit_bytes = answer_limit_bytes
        self._max_connections = max_connections
        self._urls: dict[str, URL] = {}
        self._timeouts: dict[Deadlines, aiohttp.ClientTimeout] = {}
        self._opened: aiohttp.ClientSession | None = None

    async def fetch(self, request: HttpRequest) -> Answer:
        return await self._whole(await self._send(request), request.deadlines)

    async def open(self, request: HttpRequest) -> Answer | AnswerStream:
        response = await self._send(request)
        if response.status != 200 or response.content_type != EVENT_STREAM:
            return await self._whole(response, request.deadlines)

        async def close() -> None:
            response.close()

        content_type = response.headers["content-type"]
        chunks = self._chunks(response, request.deadlines)
        return AnswerStream(response.status, content_type, chunks, close)

    async def close(self) -> None:
        if self._opened is not None:
            await self._opened.close()

    def _session(self) -> aiohttp.ClientSession:
        if self._opened is None:
            self._opened = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(
                    limit=self._max_connections, keepalive_timeout=KEEP_S, ttl_dns_cache=300
                ),
                headers={"content-type": "application/json", "accept-encoding": "identity"},
                auto_decompress=False,
                cookie_jar=aiohttp.DummyCookieJar(),
                trust_env=False,
                skip_auto_headers=("User-Agent", "Accept"),
            )
        return self._opened

    async def _send(self, request: HttpRequest) -> aiohttp.ClientResponse:
        """Send, and wait for the head of the answer."""
        deadlines = request.deadlines
        try:
            async with asyncio.timeout(deadlines.connect_s + deadlines.first_byte_s):
                return await self._session().request(
                    "POST" if request.body else "GET",
                    self._url(request.path),
                    data=request.body or None,
                    headers=dict(request.headers),
                    allow_redirects=False,
                    timeout=self._timeout(deadlines),
                )
        except TimeoutError:
            raise self._silent(deadlines.first_byte_s) from None
        except (aiohttp.ClientError, OSError) as error:
            raise self._unreachable(error) from error

    def _url(self, path: str) -> URL:
        found = self._urls.get(path)
        if found is None:
            if len(self._urls) >= 1000:
                self._urls.clear()
            self._urls[path] = found = URL(f"{self._base_url}/{path}", encoded=True)
        return found

    def _timeout(self, deadlines: Deadlines) -> aiohttp.ClientTimeout:
        found = self._timeouts.get(deadlines)
        if found is None:
            if len(self._timeouts) >= 1000:
                self._timeouts.clear()
            self._timeouts[deadlines] = found = aiohttp.ClientTimeout(
                total=None, sock_connect=deadlines.connect_s, sock_read=deadlines.idle_s
            )
        return found

    async def _whole(self, response: aiohttp.ClientResponse, deadlines: Deadlines) -> Answer:
        try:
            body = await self._read(response)
        except TimeoutError:
            raise self._silent(deadlines.idle_s) from None
        except (aiohttp.ClientError, OSError) as error:
            raise self._unreachable(error) from error
        finally:
            # Gives a connection back that was read to its end, and cuts any other.
            response.release() if response.content.at_eof() else response.close()
        headers = response.headers
        return Answer(
            response.status,
            headers.get("content-type", ""),
            body,
            headers.get("retry-after", ""),
        )

    async def _read(self, response: aiohttp.ClientResponse) -> bytes:
        limit = self._answer_limit_bytes
        if response.content_length is not None and response.content_length <= limit:
            return await response.read()
        parts, size = [], 0
        async for part in response.content.iter_any():
            parts.append(part)
            size += len(part)
            if size > limit:
                raise AnswerTooLarge(f"{self._name} sent more than {limit} bytes.")
        return b"".join(parts)

    async def _chunks(
        self, response: aiohttp.ClientResponse, deadlines: Deadlines
    ) -> AsyncIterator[bytes]:
        try:
            async for chunk in response.content.iter_any():
                yield chunk
        except TimeoutError:
            raise self._silent(deadlines.idle_s) from None
        except (aiohttp.ClientError, OSError) as error:
            raise self._unreachable(error) from error
        finally:
            response.close()

    def _silent(self, after_s: float) -> UpstreamSilent:
        return UpstreamSilent(f"{self._name} did not answer within {after_s:g} s.")

    def _unreachable(self, error: Exception) -> UpstreamUnreachable:
        """Name the kind of failure, not its text, which may hold an address."""
        return UpstreamUnreachable(
            f"{self._name} cannot be reached or broke off ({type(error).__name__})."
        )
