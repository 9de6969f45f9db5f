"""An OpenAI-compatible server over HTTP, by aiohttp.

aiohttp, because httpx does not carry many connections at once: its pool scans every connection on
every request.
"""

from collections.abc import AsyncIterator

import aiohttp
import msgspec
from yarl import URL

from app.kernel.errors import BadUpstream, UpstreamTimeout
from app.modules.routing.domain import Surface
from app.modules.routing.ports import Answer, AnswerStream

EVENT_STREAM = "text/event-stream"
LIST_TIMEOUT_S = 10.0


class HttpOptions(msgspec.Struct, frozen=True):
    """Deadlines and limits of a client."""

    connect_timeout_s: float
    read_timeout_s: float
    answer_limit_bytes: int
    max_connections: int


class UpstreamUnreachable(BadUpstream):
    """No connection, or one that broke."""

    title = "Upstream unreachable"


class UpstreamSilent(UpstreamTimeout):
    """The upstream took longer than the deadline."""

    title = "Upstream timed out"


class AnswerTooLarge(BadUpstream):
    """The answer is larger than ROUTING_ANSWER_LIMIT_BYTES."""

    title = "Upstream answer too large"


class _ModelCard(msgspec.Struct):
    id: str


class _ModelList(msgspec.Struct):
    data: list[_ModelCard]


class HttpUpstream:
    """One session for one server; connections are pooled and kept for a minute."""

    def __init__(self, name: str, base_url: str, key: str, options: HttpOptions) -> None:
        self._name = name
        self._base_url = base_url
        self._options = options
        self._urls = {
            surface: URL(f"{base_url}/{surface}")
            for surface in ("chat/completions", "completions", "embeddings")
        }
        self._headers = {"content-type": "application/json", "accept-encoding": "identity"}
        self._auth = {"authorization": f"Bearer {key}"} if key else {}
        self._opened: aiohttp.ClientSession | None = None

    async def post(self, surface: Surface, body: bytes) -> Answer:
        response = await self._send(surface, body)
        return await self._whole(response)

    async def stream(self, surface: Surface, body: bytes) -> Answer | AnswerStream:
        response = await self._send(surface, body)
        if response.status != 200 or response.content_type != EVENT_STREAM:
            return await self._whole(response)

        async def close() -> None:
            response.close()

        content_type = response.headers["content-type"]
        return AnswerStream(response.status, content_type, self._chunks(response), close)

    async def models(self) -> list[str]:
        timeout = aiohttp.ClientTimeout(total=LIST_TIMEOUT_S)
        try:
            async with self._session().get(
                f"{self._base_url}/models", allow_redirects=False, timeout=timeout
            ) as response:
                body = await self._read(response)
        except TimeoutError:
            raise UpstreamSilent(f"{self._name} did not list its models.") from None
        except (aiohttp.ClientError, OSError) as error:
            raise self._unreachable(error) from error
        if response.status != 200:
            raise BadUpstream(f"{self._name} answered {response.status} for its models.")
        try:
            return [card.id for card in msgspec.json.decode(body, type=_ModelList).data]
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise BadUpstream(f"{self._name} lists its models in no known form.") from error

    async def close(self) -> None:
        if self._opened is not None:
            await self._opened.close()

    def _session(self) -> aiohttp.ClientSession:
        if self._opened is None:
            options = self._options
            self._opened = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(
                    limit=options.max_connections, keepalive_timeout=60, ttl_dns_cache=300
                ),
                timeout=aiohttp.ClientTimeout(
                    total=None,
                    sock_connect=options.connect_timeout_s,
                    sock_read=options.read_timeout_s,
                ),
                headers=self._headers | self._auth,
                auto_decompress=False,
                cookie_jar=aiohttp.DummyCookieJar(),
                trust_env=False,
                skip_auto_headers=("User-Agent", "Accept"),
            )
        return self._opened

    async def _send(self, surface: Surface, body: bytes) -> aiohttp.ClientResponse:
        try:
            return await self._session().post(self._urls[surface], data=body, allow_redirects=False)
        except TimeoutError:
            raise self._silent() from None
        except (aiohttp.ClientError, OSError) as error:
            raise self._unreachable(error) from error

    async def _whole(self, response: aiohttp.ClientResponse) -> Answer:
        try:
            body = await self._read(response)
        except TimeoutError:
            raise self._silent() from None
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
        limit = self._options.answer_limit_bytes
        if response.content_length is not None and response.content_length <= limit:
            return await response.read()
        parts, size = [], 0
        async for part in response.content.iter_any():
            parts.append(part)
            size += len(part)
            if size > limit:
                raise AnswerTooLarge(f"{self._name} sent more than {limit} bytes.")
        return b"".join(parts)

    async def _chunks(self, response: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
        try:
            async for chunk in response.content.iter_any():
                yield chunk
        except TimeoutError:
            raise self._silent() from None
        except (aiohttp.ClientError, OSError) as error:
            raise self._unreachable(error) from error
        finally:
            response.close()

    def _silent(self) -> UpstreamSilent:
        return UpstreamSilent(
            f"{self._name} did not answer within {self._options.read_timeout_s:g} s."
        )

    def _unreachable(self, error: Exception) -> UpstreamUnreachable:
        """Name the kind of failure, not its text, which may hold an address."""
        return UpstreamUnreachable(
            f"{self._name} cannot be reached or broke off ({type(error).__name__})."
        )
