"""A Docker engine: its API through the SDK in threads, attached streams in the event loop."""

import asyncio
import socket
import ssl
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any, Final, TypeVar
from urllib.parse import urlsplit

import docker
import requests
import urllib3
from docker.context import ContextAPI
from docker.errors import APIError, DockerException
from docker.tls import TLSConfig
from docker.utils import kwargs_from_env, parse_host, version_lt

from app.kernel.errors import Unavailable
from app.modules.sandbox.adapters.docker.stream import AttachedStream, AttachRefused

# The SDK blocks. More threads would only wait for the engine, which does much one by one.
THREADS: Final = 8
CALL_S: Final = 20.0
REASON_LIMIT_CHARS: Final = 500
UNIX: Final = "http+unix://"
PORT: Final = 2375
# Docker 20.10.
LEAST_VERSION: Final = "1.41"
FAILURES: Final = (
    DockerException,
    requests.RequestException,
    urllib3.exceptions.HTTPError,
    OSError,
)

T = TypeVar("T")


class EngineFailed(Unavailable):
    """The engine refused, or did not answer. ``status`` is its HTTP status, or None for silence."""

    title = "Docker engine failed"

    def __init__(self, detail: str, status: int | None = None) -> None:
        super().__init__(detail)
        self.status = status


class Engine:
    """One engine, found as the ``docker`` command finds it: DOCKER_HOST, or the current context.

    ``environment`` holds the DOCKER_* variables. Nothing is contacted before the first call.
    """

    def __init__(self, environment: Mapping[str, str], *, call_timeout_s: float = CALL_S) -> None:
        # Given nothing, the SDK would look into this process's own environment.
        self._environment = dict(environment) or {"DOCKER_HOST": ""}
        self._call_timeout_s = call_timeout_s
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="docker")
        self._connecting = threading.Lock()
        self._client: Any = None
        self._is_closed = False
        self._host = ""
        self._tls: ssl.SSLContext | None = None

    async def call(self, verb: Callable[[Any], T], *, timeout_s: float | None = None) -> T:
        """Run ``verb(client)`` in a thread; ``EngineFailed`` when it fails or takes too long."""
        if self._is_closed:
            raise EngineFailed("The connection to the Docker engine was closed.")
        limit_s = self._call_timeout_s if timeout_s is None else timeout_s
        waiting = asyncio.get_running_loop().run_in_executor(self._threads, self._in_thread, verb)
        try:
            async with asyncio.timeout(limit_s):
                return await waiting
        except TimeoutError:
            text = f"The Docker engine did not answer within {limit_s:g} s."
            raise EngineFailed(text) from None

    async def attach(self, container: str) -> AttachedStream:
        """Connect to the stdin, stdout and stderr of a container, which need not run yet."""
        query = "stream=1&stdin=1&stdout=1&stderr=1"
        request = (
            f"POST /containers/{container}/attach?{query} HTTP/1.1\r\nHost: docker\r\n"
            "Connection: Upgrade\r\nUpgrade: tcp\r\nContent-Length: 0\r\n\r\n"
        )
        stream = AttachedStream(request.encode())
        try:
            async with asyncio.timeout(self._call_timeout_s):
                await self._connect(stream)
                await stream.upgraded
        except (OSError, AttachRefused) as error:
            stream.abort()
            raise EngineFailed(f"The Docker engine did not attach: {_text(error)}") from None
        except BaseException:
            stream.abort()
            raise
        return stream

    async def close(self) -> None:
        """Wait for no thread: what hangs ends by its own timeout."""
        self._is_closed = True
        self._threads.shutdown(wait=False, cancel_futures=True)
        if self._client is not None:
            self._client.close()

    def _in_thread(self, verb: Callable[[Any], T]) -> T:
        try:
            client = self._connected()
            self._knock()
            return verb(client)
        except APIError as error:
            text = f"The Docker engine refused: {_text(error.explanation or error)}"
            raise EngineFailed(text, error.status_code) from None
        except FAILURES as error:
            text = f"The Docker engine does not answer ({_text(error)}). Is it running?"
            raise EngineFailed(text) from None

    def _connected(self) -> Any:
        """Find the engine, ask for its version, and remember both."""
        with self._connecting:
            if self._client is None:
                found = kwargs_from_env(environment=self._environment)
                if "base_url" not in found:
                    found = ContextAPI.kwargs_from_context(environment=self._environment) | found
                self._host = parse_host(found.get("base_url"), tls=bool(found.get("tls")))
                if not self._host.startswith((UNIX, "http://", "https://")):
                    raise DockerException("only unix: and tcp: engines are supported")
                self._tls = _context(found.get("tls"))
                self._knock()
                self._client = self._agreed(found)
            return self._client

    def _knock(self) -> None:
        """Find out that nobody is there before the SDK does: it leaves such a socket open."""
        if self._host.startswith(UNIX):
            with socket.socket(socket.AF_UNIX) as door:
                door.settimeout(self._call_timeout_s)
                door.connect(self._host.removeprefix(UNIX))

    def _agreed(self, found: dict[str, Any]) -> Any:
        """Speak the version that the engine likes best."""
        settings = {"timeout": self._call_timeout_s, "max_pool_size": THREADS, **found}
        with closing(_client(LEAST_VERSION, settings)) as client:
            version = str(client.version(api_version=False).get("ApiVersion", "0"))
        if version_lt(version, LEAST_VERSION):
            raise DockerException(f"its API has version {version} and not {LEAST_VERSION}")
        return _client(version, settings)

    async def _connect(self, stream: AttachedStream) -> None:
        loop = asyncio.get_running_loop()
        if self._host.startswith(UNIX):
            path = self._host.removeprefix(UNIX)
            await loop.create_unix_connection(lambda: stream, path)
            return
        address = urlsplit(self._host)
        host, port = address.hostname or "localhost", address.port or PORT
        await loop.create_connection(lambda: stream, host, port, ssl=self._tls)


def _client(version: str, settings: dict[str, Any]) -> Any:
    client = docker.APIClient(version=version, **settings)
    # This process's own variables name authorities and proxies of other servers.
    client.trust_env = False
    return client


def _context(tls: TLSConfig | None) -> ssl.SSLContext | None:
    """Say the same of certificates as the SDK's own connections do."""
    if not tls:
        return None
    context = ssl.create_default_context(cafile=tls.ca_cert if tls.verify else None)
    if not tls.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if tls.cert:
        context.load_cert_chain(*tls.cert)
    return context


def _text(error: object) -> str:
    return " ".join(str(error).split())[:REASON_LIMIT_CHARS]
